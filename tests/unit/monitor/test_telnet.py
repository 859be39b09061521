"""Tests of telnet: commands are removed from the input, and the client is told to send each key."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from tests.fakes.monitored_machine import FakeMachine

from vnic.chardev.options import SocketOptions
from vnic.monitor import Mode, Monitors
from vnic.monitor.connection import SocketChannel
from vnic.monitor.telnet import TelnetChannel
from vnic.sockets.address import InetAddress

NEGOTIATION = b"\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00"
"""The first bytes from QEMU."""


@pytest.fixture
def ends() -> Iterator[tuple[TelnetChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield TelnetChannel(SocketChannel(ours)), theirs


def test_negotiation_is_sent_first(ends: tuple[TelnetChannel, socket.socket]) -> None:
    channel, client = ends
    assert channel.send(b"hello") == 5
    assert channel.send(b"!") == 1
    assert client.recv(100) == NEGOTIATION + b"hello!"


@pytest.mark.parametrize(
    ("pieces", "data"),
    [
        ([b"info name\r\n"], [b"info name\r\n"]),
        ([b"a\xff\xfd\x01b"], [b"ab"]),
        ([b"a\xff", b"\xfd", b"\x01b"], [b"a", None, b"b"]),
        ([b"\xff\xfd\x03\xff\xfb\x00"], [None]),
        ([b"a\xff\xffb"], [b"a\xffb"]),
    ],
)
def test_telnet_commands_are_removed(
    ends: tuple[TelnetChannel, socket.socket], pieces: list[bytes], data: list[bytes | None]
) -> None:
    channel, client = ends
    for piece, wanted in zip(pieces, data, strict=True):
        client.sendall(piece)
        try:
            got: bytes | None = channel.receive()
        except BlockingIOError:
            got = None
        assert got == wanted
    client.close()
    assert channel.receive() == b""


def test_monitor_runs_over_telnet() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        monitors = Monitors(FakeMachine(loop), loop)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        try:
            monitors.add(
                SocketOptions(id="mon0", addr=InetAddress(host="127.0.0.1", port=str(port)), telnet=True),
                Mode.READLINE,
            )
            client, _ = await asyncio.to_thread(listening.accept)
            reader, writer = await asyncio.open_connection(sock=client)
            assert (await reader.readuntil(b"(qemu) ")).startswith(NEGOTIATION + b"QEMU ")
            writer.write(b"\xff\xfd\x01x\xff\xfd\x03\r")
            assert await reader.readuntil(b"(qemu) ") == b"x\x1b[K\r\nunknown command: 'x'\r\n(qemu) "
            writer.close()
        finally:
            listening.close()
            monitors.close()

    asyncio.run(main())
