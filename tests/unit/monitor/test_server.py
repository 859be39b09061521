"""Tests of the monitors' sockets: permissions, refusals, leftovers, and delivery of events."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pty
import select
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.monitored_machine import FakeMachine
from tests.fakes.ports import free_ports
from tests.unit.backend.helpers import until

from vnic.chardev.flat import SocketFlat
from vnic.monitor import Mode, Monitors
from vnic.monitor import ports as ports_module
from vnic.net.errors import NetError
from vnic.sockets import listener


class Bench:
    """Monitors in a running loop; clients are asyncio streams."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.machine = FakeMachine(self.loop)
        self.monitors = Monitors(self.machine, self.loop)
        self.connected: list[bool] = []

    def add(self, mode: Mode = Mode.CONTROL, /, **options: object) -> None:
        flat = SocketFlat(**{"id": "mon0", **options})  # type: ignore[arg-type]  # as the test gives them
        self.monitors.add(
            flat.options(), mode, connected=lambda sock: self.connected.append(sock is not None)
        )


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench()
        try:
            await asyncio.wait_for(test(bench), 90)
        finally:
            bench.monitors.close()

    asyncio.run(main())


class Client:
    """A QMP client over asyncio streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> dict[str, object]:
        line: dict[str, object] = json.loads(await self.reader.readuntil(b"\r\n"))
        return line

    async def ask(self, command: str) -> dict[str, object]:
        self.writer.write(json.dumps({"execute": command}).encode())
        return await self.line()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def join(path: Path, negotiate: bool = True) -> Client:
    client = Client(*await asyncio.open_unix_connection(path))
    assert "QMP" in await client.line()
    if negotiate:
        assert await client.ask("qmp_capabilities") == {"return": {}}
    return client


# -- listening --------------------------------------------------------------------------------------------------


def test_socket_has_mode_0600_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600

    run(test)
    assert not path.exists()


def test_socket_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        with pytest.raises(
            NetError, match=f"Failed to bind socket to {path}: this vnic listens there already"
        ):
            bench.add(id="mon1", path=str(path), server=True)
        await (await join(path)).close()

    run(test)


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "q"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        await (await join(path)).close()

    run(test)


def test_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "q"
    path.write_text("mine")

    async def test(bench: Bench) -> None:
        with pytest.raises(NetError, match="a plain file is there, which is left alone"):
            bench.add(path=str(path), server=True)

    run(test)
    assert path.read_text() == "mine"


def test_replaced_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        path.unlink()
        path.write_text("theirs")

    run(test)
    assert path.read_text() == "theirs"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"path": "/" + "x" * 108, "server": True}, "UNIX socket path '/x+' is too long"),
        ({"path": "/nonexistent/q", "server": True}, "Failed to bind socket to /nonexistent/q: No such file"),
        ({"path": "/nonexistent/q"}, "Failed to connect to '/nonexistent/q': No such file or directory"),
        ({"server": True}, "'path', 'host' or 'fd' is needed"),
        ({"path": "a", "host": "b", "port": "1"}, "None or one of 'path', 'fd' or 'host' option required"),
        ({"host": "localhost", "server": True}, "no port given"),
        ({"path": "a", "server": True, "reconnect_ms": 1}, "incompatible with socket in server"),
        ({"path": "a", "reconnect_ms": -1}, "expects a non-negative integer"),
        ({"fd": "x", "server": True}, "File descriptor 'x' is not a socket"),
        ({"fd": "0x7", "server": True}, "is not a socket"),
        ({"fd": "x"}, "File descriptor 'x' is not a socket"),
        ({"host": "no.such.host.invalid", "port": "1", "server": True}, "address resolution failed for"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, object], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def no_such_name(host: Any, *more: Any, **options: Any) -> Any:
        if host == "no.such.host.invalid":  # a name server may be slow
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)

    async def test(bench: Bench) -> None:
        with pytest.raises(NetError, match=text):
            bench.add(**options)

    run(test)


def test_chardev_has_one_monitor(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add(path=str(tmp_path / "q"), server=True)
        with pytest.raises(NetError, match="Chardev 'mon0' is busy"):
            bench.add(path=str(tmp_path / "r"), server=True)

    run(test)


@pytest.mark.needs("loopback")
def test_abstract_and_tcp() -> None:
    async def test(bench: Bench) -> None:
        name = f"vnic-test-{os.getpid()}"
        bench.add(path=name, abstract=True, server=True)
        client = Client(*await asyncio.open_unix_connection("\0" + name))
        assert "QMP" in await client.line()
        await client.close()
        (port,) = free_ports(socket.SOCK_STREAM, 1)
        bench.add(id="mon1", host="127.0.0.1", port=str(port), server=True)
        with pytest.raises(NetError, match="Failed to find an available port: Address already in use"):
            bench.add(id="mon2", host="127.0.0.1", port=str(port), server=True)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        assert "QMP" in await client.line()
        await client.close()

    run(test)


def test_passed_listener_is_used(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            bench.add(fd=str(listening.fileno()), server=True)
        await (await join(path)).close()

    run(test)


# -- clients ----------------------------------------------------------------------------------------------------


def test_events_reach_negotiated_clients(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        first, second = await join(path), await join(path)
        silent = await join(path, negotiate=False)
        first.writer.write(b'{"execute":"stop"}')
        for client in (first, second):
            event = await client.line()
            assert event["event"] == "STOP"
            assert "data" not in event
            assert set(event["timestamp"]) == {"seconds", "microseconds"}  # type: ignore[call-overload]  # an object
        assert await first.line() == {"return": {}}
        assert await silent.ask("qmp_capabilities") == {"return": {}}
        for client in (first, second, silent):
            await client.close()
        await until(lambda: len(bench.connected) == 2)
        assert bench.connected == [True, False]

    run(test)


def test_journal_names_client(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        bench.machine.netdev_add(bench.machine.netdev_types["hubport"]("net0", 1))
        client = await join(path)
        client.writer.write(b'{"execute":"set_link","arguments":{"name":"net0","up":false}}')
        assert (await client.line())["event"] == "LINK_CHANGED"
        (link,) = bench.machine.network.query_links("net0")
        assert f"[{os.getpid()}]" in str(link.holds)
        await client.close()

    run(test)


def test_longest_silent_client_is_disconnected_for_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q"
    monkeypatch.setattr(ports_module, "CLIENTS_MAX", 3)

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        silent = await join(path, negotiate=False)
        busy, other = await join(path), await join(path)
        assert "return" in await busy.ask("query-name")
        newcomer = await join(path)
        assert await silent.reader.read() == b""
        for client in (busy, other, newcomer):
            assert "return" in await client.ask("query-name")
        another = await join(path)
        assert await busy.reader.read() == b"", "it was silent longest of those that are there"
        assert bench.connected == [True]
        assert caplog.text.count("3 clients") == 1
        for client in (silent, busy, other, newcomer, another):
            await client.close()

    run(test)


def test_listener_pauses_without_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q"
    monkeypatch.setattr(listener, "ACCEPT_RETRY_S", 0.02)

    class Exhausted:
        """A listening socket in a process without a free descriptor."""

        def __init__(self, listening: socket.socket) -> None:
            self.fileno = listening.fileno

        def accept(self) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        port = bench.monitors._ports["mon0"]
        assert isinstance(port, ports_module.ServerPort)
        listening = port._listener._sock
        port._listener._sock = Exhausted(listening)  # type: ignore[assignment]  # plays one
        client = asyncio.create_task(join(path))
        await until(lambda: "cannot accept" in caplog.text)
        await asyncio.sleep(0.05)
        assert caplog.text.count("cannot accept: Too many open files") == 1
        port._listener._sock = listening
        await (await client).close()

    run(test)


def test_close_disconnects_clients(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), server=True)
        client = await join(path)
        bench.monitors.close()
        assert await client.reader.read() == b""
        await client.close()
        bench.machine.network.emit("STOP", {})

    run(test)


def echo(line: bytes) -> bytes:
    """The output on a terminal while a line is typed."""
    return b"".join(b"\x1b[D" * (end - 1) + line[:end] + b"\x1b[K" for end in range(1, len(line) + 1))


def test_readline_monitor_session(tmp_path: Path) -> None:
    path = tmp_path / "m"

    async def test(bench: Bench) -> None:
        bench.add(Mode.READLINE, path=str(path), server=True)
        reader, writer = await asyncio.open_unix_connection(path)
        assert (await reader.readuntil(b"(qemu) ")).startswith(b"QEMU 0.2.0 monitor")
        writer.write(b"info name\n")
        assert await reader.readuntil(b"(qemu) ") == echo(b"info name") + b"\r\nlab\r\n(qemu) "
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": ""}, True),
        ({"path": "vnic-test-%d", "abstract": True}, True),
    ],
)
def test_monitor_open_to_others_is_warned_of(
    options: dict[str, object], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if "host" in options:
        options = {**options, "port": str(free_ports(socket.SOCK_STREAM, 1)[0]), "ipv4": True}
    else:
        options = {**options, "path": f"vnic-test-{os.getpid()}"}

    async def test(bench: Bench) -> None:
        bench.add(**options, server=True)
        assert ("can command vnic" in caplog.text or "and command vnic" in caplog.text) is warns

    run(test)


# -- the monitor connects ---------------------------------------------------------------------------------------


def test_client_monitor_reconnects(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        bench.add(path=str(path), reconnect_ms=20)  # no listener yet
        greetings: asyncio.Queue[bytes] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await greetings.put(await reader.readuntil(b"\r\n"))
            writer.close()

        async with await asyncio.start_unix_server(serve, path):
            for _ in range(2):
                assert b'"QMP"' in await greetings.get()
        assert bench.connected[:3] == [True, False, True]

    run(test)


@pytest.mark.needs("loopback")
def test_refused_tcp_connection_is_retried() -> None:
    async def test(bench: Bench) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        bench.add(host="127.0.0.1", port=str(port), reconnect_ms=20)
        await asyncio.sleep(0.05)  # refused during this time
        came = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert b'"QMP"' in await reader.readuntil(b"\r\n")
            writer.close()
            came.set()

        async with await asyncio.start_server(serve, sock=listening):
            await came.wait()

    run(test)


def test_connection_without_reconnect_is_tried_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "q"

    async def test(bench: Bench) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_unix_server(serve, path):
            bench.add(path=str(path))
            await until(lambda: len(bench.connected) == 2)
            await asyncio.sleep(0.05)
        assert bench.connected == [True, False]
        assert f"monitor unix:{path}: the connection ended" in caplog.text

    run(test)


def test_unusable_passed_socket_is_refused(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with other, pytest.raises(NetError, match="Failed to listen on fd"):
            bench.add(fd=str(other.fileno()), server=True)

    run(test)


def test_passed_connection_is_used() -> None:
    async def test(bench: Bench) -> None:
        ours, theirs = socket.socketpair()
        bench.add(fd=str(ours.fileno()))
        ours.close()
        client = Client(*await asyncio.open_connection(sock=theirs))
        assert "QMP" in await client.line()
        await client.close()

    run(test)


# -- stdio ------------------------------------------------------------------------------------------------------

STDIO = """
import asyncio
from tests.fakes.monitored_machine import FakeMachine
from tests.fakes.ports import free_ports
from tests.unit.backend.helpers import until
from vnic.chardev.options import StdioOptions
from vnic.monitor import Mode, Monitors, RunState

async def main():
    loop = asyncio.get_running_loop()
    machine = FakeMachine(loop)
    ended = asyncio.Event()
    quit = machine.quit
    machine.quit = lambda cause: (quit(cause), loop.call_soon(ended.set))
    monitors = Monitors(machine, loop)
    monitors.add(StdioOptions(id="mon0"), Mode.READLINE)
    await ended.wait()
    monitors.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_stdio(tmp_path: Path, source: str) -> None:
    root = Path(__file__).parents[3]
    commands = b"info name\nquit\n"
    file = tmp_path / "commands"
    file.write_bytes(commands)
    with file.open("rb") as opened:
        running = subprocess.Popen(
            [sys.executable, "-c", STDIO],
            cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
            stdin=opened if source == "file" else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, errors = running.communicate(None if source == "file" else commands, timeout=60)
    assert out.endswith(b"(qemu) " + echo(b"info name") + b"\r\nlab\r\n(qemu) " + echo(b"quit") + b"\r\n")
    assert errors == b""
    assert running.returncode == 0


def test_terminal_echoes_each_key_once() -> None:
    root = Path(__file__).parents[3]
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    running = subprocess.Popen(
        [sys.executable, "-c", STDIO],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
        stdin=theirs,
        stdout=theirs,
    )

    def shown_until(end: bytes) -> bytes:
        shown = b""
        while not shown.endswith(end):
            assert select.select([ours], [], [], 60)[0], shown
            shown += os.read(ours, 1000).replace(b"\r\r", b"\r")  # the terminal converts LF to CRLF
        return shown

    try:
        shown_until(b"(qemu) ")
        os.write(ours, b"info name\r")
        assert shown_until(b"(qemu) ") == echo(b"info name") + b"\r\nlab\r\n(qemu) "
        os.write(ours, b"quit\r")
        assert shown_until(b"\n") == echo(b"quit") + b"\r\n"
        assert running.wait(60) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        running.kill()
        running.wait()
        os.close(ours)
        os.close(theirs)


def test_client_name_cannot_forge_log_lines() -> None:
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    ours, theirs = socket.socketpair()
    user = ports_module.user_name(os.getuid())
    try:
        comm.write_text("a\nnic0\x1b[2J")
        assert ports_module.describe_peer(ours) == f"client a?nic0?[2J[{os.getpid()}] of {user}"
    finally:
        comm.write_text(before)
        ours.close()
        theirs.close()


def test_user_name_is_from_passwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0:root:/root:/bin/sh\nfoo:x:1000:50::/:\nb\x1bd:x:1001:1::/:\n")
    monkeypatch.setattr(ports_module, "PASSWD", str(passwd))
    name = ports_module.user_name.__wrapped__
    assert [name(0), name(1000), name(50), name(1001)] == ["root", "foo", "uid 50", "uid 1001"]
    monkeypatch.setattr(ports_module, "PASSWD", str(tmp_path / "none"))
    assert name(0) == "uid 0"
