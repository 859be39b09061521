"""Tests that a browser cannot command a monitor: an HTTP request ends its connection."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.fakes.monitored_machine import FakeMachine
from tests.fakes.ports import free_ports

from vnic.chardev.options import SocketOptions
from vnic.monitor import Mode, Monitors
from vnic.monitor.http_guard import METHODS, HttpGuard
from vnic.sockets.address import InetAddress

QUIT = b'{"execute":"qmp_capabilities"}\n{"execute":"quit"}\nquit\n'


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_detected_in_any_pieces(method: bytes) -> None:
    request = method + b"/ HTTP/1.1\r\n"
    assert HttpGuard().is_http(request)
    guard = HttpGuard()
    assert [guard.is_http(bytes((byte,))) for byte in method] == [False] * (len(method) - 1) + [True]


@pytest.mark.parametrize(
    "data", [b'{"execute":"x"}', b"GETX /", b"get x", b" POST /", b"help\n", b"PATCHWORK ", b"\n"]
)
def test_other_input_is_not_http(data: bytes) -> None:
    guard = HttpGuard()
    assert not guard.is_http(data)
    assert not guard.is_http(b"GET / HTTP/1.1\r\n"), "only the first bytes are a browser's to choose"


@pytest.mark.parametrize("mode", [Mode.CONTROL, Mode.READLINE])
@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "GET"])
def test_http_request_runs_no_command(mode: Mode, method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        machine = FakeMachine(loop)
        monitors = Monitors(machine, loop)
        (port,) = free_ports(socket.SOCK_STREAM, 1)
        monitors.add(
            SocketOptions(id="mon0", addr=InetAddress(host="127.0.0.1", port=str(port)), server=True), mode
        )

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", port)) as browser:
                browser.settimeout(60)
                browser.sendall(f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() + QUIT)
                said = b""
                try:
                    while piece := browser.recv(65536):
                        said += piece
                except ConnectionResetError:
                    pass
                return said

        said = await asyncio.to_thread(ask)
        assert b"error" not in said
        assert b"unknown" not in said
        assert machine.runstate.name == "RUNNING"
        assert caplog.text.count("is disconnected: it speaks HTTP") == 1
        monitors.close()

    asyncio.run(main())
