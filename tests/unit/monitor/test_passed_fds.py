"""Tests of passed descriptors: getfd and the sets of add-fd, over a real socket, with the replies of QEMU 11.1."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient
from tests.fakes.monitored_machine import FakeMachine
from tests.unit.backend.helpers import until

from vnic.chardev.options import SocketOptions
from vnic.monitor import Mode, Monitors
from vnic.monitor import passed_fds as passed_fds_module
from vnic.monitor.passed_fds import FdRegistry, NamedFds, inherited_fds
from vnic.net.errors import NetError
from vnic.sockets.address import UnixAddress

NO_FD = "No file descriptor supplied via SCM_RIGHTS"


class Raw:
    """A client that sends bytes with descriptors."""

    def __init__(self, path: Path, mode: Mode = Mode.CONTROL) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.mode = mode

    async def read(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            piece = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            assert piece, data
            data += piece
        return data

    async def line(self, text: bytes, *fds: int) -> bytes:
        """The output of a line of HMP."""
        socket.send_fds(self.socket, [text + b"\n"], list(fds))
        return (await self.read(b"(qemu) ")).rpartition(b"\x1b[K\r\n")[2].removesuffix(b"(qemu) ")

    async def ask(self, command: str, *fds: int, **arguments: object) -> Any:
        """The result of a command, or the text of its error."""
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = json.dumps({"execute": command, "arguments": given}).encode()
        socket.send_fds(self.socket, [request], list(fds))
        reply = json.loads(await self.read(b"\r\n"))
        return reply["return"] if "return" in reply else reply["error"]["desc"]

    async def begin(self) -> None:
        if self.mode is Mode.CONTROL:
            await self.read(b"\r\n")
            assert await self.ask("qmp_capabilities") == {}
        else:
            await self.read(b"(qemu) ")


@pytest.fixture
def given() -> Iterator[int]:
    """A descriptor to pass."""
    with socket.socket() as sock:
        yield sock.fileno()


def live(
    tmp_path: Path, test: Callable[[FakeMachine, Raw], Coroutine[Any, Any, None]], mode: Mode = Mode.CONTROL
) -> None:
    """Run a test with a client; afterwards the number of open descriptors must be unchanged."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        machine = FakeMachine(loop)
        before = open_fds()
        monitors = Monitors(machine, loop)
        try:
            monitors.add(
                SocketOptions(id="mon0", addr=UnixAddress(path=str(tmp_path / "m")), server=True), mode
            )
            client = Raw(tmp_path / "m", mode)
            await client.begin()
            await test(machine, client)
            client.socket.close()
        finally:
            monitors.close()
            machine.fds.close()
        assert open_fds() == before

    asyncio.run(asyncio.wait_for(main(), 90))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_getfd_and_closefd(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        assert await qmp.ask("getfd", fdname="x") == NO_FD
        error = "Parameter 'fdname' expects a name not starting with a digit"
        assert await qmp.ask("getfd", given, fdname="1x") == error
        assert await qmp.ask("getfd", fdname="x") == NO_FD, "the refused one was kept"
        assert await qmp.ask("getfd", given) == "Parameter 'fdname' is missing"
        assert await qmp.ask("getfd", fdname="x") == {}, "it had not been looked at"
        assert await qmp.ask("getfd", given, fdname="f0") == {}
        assert await qmp.ask("getfd", given, fdname="f0") == {}, "in place of the first"
        assert await qmp.ask("closefd", fdname="nope") == "File descriptor named 'nope' not found"
        assert await qmp.ask("closefd", fdname="f0") == {}
        assert await qmp.ask("closefd", fdname="f0") == "File descriptor named 'f0' not found"
        assert await qmp.ask("getfd", given, fdname="") == {}
        assert await qmp.ask("closefd", fdname="") == {}

    live(tmp_path, test)


def test_first_of_several_descriptors_counts(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        before = open_fds()
        assert await qmp.ask("getfd", given, given, given, fdname="a") == {}
        assert await qmp.ask("getfd", fdname="b") == NO_FD
        assert open_fds() == before + 1
        assert await qmp.ask("query-name", *[given] * 16) == {"name": "lab"}
        assert await qmp.ask("query-name", given) == {"name": "lab"}
        assert open_fds() == before + 2, "those that came last only"

    live(tmp_path, test)


def test_too_many_descriptors_disconnect(
    tmp_path: Path, given: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        socket.send_fds(qmp.socket, [b" "], [given] * 30)
        assert await asyncio.get_running_loop().sock_recv(qmp.socket, 1) == b""
        assert len(caplog.records) == 1

    live(tmp_path, test)


def test_name_survives_its_client(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        assert await qmp.ask("getfd", given, fdname="a") == {}
        other = Raw(tmp_path / "m")
        await other.begin()
        assert await other.ask("closefd", fdname="a") == {}
        other.socket.close()

    live(tmp_path, test)


def test_names_are_bounded(tmp_path: Path, given: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_fds_module, "NAMES_MAX", 2)

    async def test(machine: FakeMachine, qmp: Raw) -> None:
        for name in ("a", "b", "a"):
            assert await qmp.ask("getfd", given, fdname=name) == {}
        assert "keeps 2 file descriptors already" in await qmp.ask("getfd", given, fdname="c")

    live(tmp_path, test)


def test_sets(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        assert await qmp.ask("add-fd") == NO_FD
        first = await qmp.ask("add-fd", given)
        assert first == {"fd": first["fd"], "fdset-id": 0}
        error = "Parameter 'fdset-id' expects a non-negative value"
        assert await qmp.ask("add-fd", given, fdset_id=-1) == error
        wrong = "Invalid parameter type for 'fdset-id', expected: integer"
        assert await qmp.ask("add-fd", given, fdset_id="x") == wrong
        named = await qmp.ask("add-fd", given, fdset_id=3, opaque="o")
        assert (await qmp.ask("add-fd", given))["fdset-id"] == 1
        second = await qmp.ask("add-fd", given, fdset_id=3)
        assert (await qmp.ask("add-fd", given))["fdset-id"] == 2
        sets = await qmp.ask("query-fdsets")
        assert [each["fdset-id"] for each in sets] == [3, 2, 1, 0]
        assert sets[0]["fds"] == [{"fd": named["fd"], "opaque": "o"}, {"fd": second["fd"]}]
        gone = "File descriptor named 'fdset-id:9' not found"
        assert await qmp.ask("remove-fd", fdset_id=9) == gone
        gone = "File descriptor named 'fdset-id:3, fd:4' not found"
        assert await qmp.ask("remove-fd", fdset_id=3, fd=4) == gone
        assert await qmp.ask("remove-fd", fdset_id=3, fd=named["fd"]) == {}
        assert (await qmp.ask("query-fdsets"))[0]["fds"] == [{"fd": second["fd"]}]
        assert await qmp.ask("remove-fd", fdset_id=3) == {}
        assert await qmp.ask("remove-fd", fdset_id=0) == {}
        assert [each["fdset-id"] for each in await qmp.ask("query-fdsets")] == [2, 1]
        assert (await qmp.ask("add-fd", given))["fdset-id"] == 0
        assert await qmp.ask("remove-fd") == "Parameter 'fdset-id' is missing"

    live(tmp_path, test)


def test_sets_are_closed_with_last_client(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        other = Raw(tmp_path / "m")
        await other.begin()
        assert await qmp.ask("add-fd", given)
        qmp.socket.close()
        assert len(await other.ask("query-fdsets")) == 1
        other.socket.close()
        await until(lambda: machine.fds.sets.info() == [])

    live(tmp_path, test)


def test_hmp(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, hmp: Raw) -> None:
        assert await hmp.line(b"getfd a") == f"Error: {NO_FD}\r\n".encode()
        assert (
            await hmp.line(b"getfd 1", given)
            == b"Error: Parameter 'fdname' expects a name not starting with a digit\r\n"
        )
        assert await hmp.line(b"getfd a", given) == b""
        assert await hmp.line(b"closefd b") == b"Error: File descriptor named 'b' not found\r\n"
        assert await hmp.line(b"closefd a") == b""
        assert (
            await hmp.line(b"help getfd")
            == b"getfd getfd name -- receive a file descriptor via SCM rights and assign it a name\r\n"
        )

    live(tmp_path, test, Mode.READLINE)


def test_human_monitor_command_has_no_descriptors(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, qmp: Raw) -> None:
        said = await qmp.ask("human-monitor-command", given, command_line="getfd a")
        assert said == f"Error: {NO_FD}\r\n"

    live(tmp_path, test)


def test_qmp_library_passes_descriptors(tmp_path: Path, given: int) -> None:
    async def test(machine: FakeMachine, _: Raw) -> None:
        client = QMPClient("test")
        await client.connect(str(tmp_path / "m"))
        client.send_fd_scm(given)
        assert await client.execute("getfd", {"fdname": "a"}) == {}
        assert await client.execute("closefd", {"fdname": "a"}) == {}
        await client.disconnect()

    live(tmp_path, test)


# -- what a command may name ------------------------------------------------------------------------------------


def passed_socket(named: NamedFds, name: str) -> None:
    ours, theirs = socket.socketpair()
    named.add(name, ours.detach())
    theirs.close()


def test_passed_descriptor_is_named_once() -> None:
    registry, named = FdRegistry(), NamedFds()
    passed_socket(named, "s")
    with pytest.raises(NetError, match="named 's' has not been found"):
        registry.run(NamedFds(), registry.take, "s")
    fd = registry.run(named, registry.take, "s")
    assert not os.get_blocking(fd)
    os.close(fd)
    with pytest.raises(NetError, match="named 's' has not been found"):
        registry.run(named, registry.take_socket, "s")


@pytest.mark.parametrize("name", ["0", "1", "2"])
def test_standard_descriptors_cannot_be_named(name: str) -> None:
    registry = FdRegistry(inherited_fds())
    for take in (registry.take, registry.take_socket):
        with pytest.raises(NetError, match=f"named '{name}' has not been found"):
            take(name)
        with pytest.raises(NetError, match=f"named '{name}' has not been found"):
            registry.run(NamedFds(), take, name)
    os.fstat(int(name))


def test_our_own_descriptors_cannot_be_named() -> None:
    with socket.socket() as ours:
        registry = FdRegistry(inherited_fds())
        with pytest.raises(NetError, match="has not been found"):
            registry.take(str(ours.fileno()))
        assert ours.getsockname()


def test_inherited_descriptors_are_found() -> None:
    with socket.socket() as ours:
        assert ours.fileno() not in inherited_fds()
        ours.set_inheritable(True)
        assert ours.fileno() in inherited_fds()
        assert not inherited_fds() & {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("9x", "Invalid file descriptor number '9x'"),
        ("x", "Invalid file descriptor number 'x'"),
        ("99999", "Can't use file descriptor 99999: Bad file descriptor"),
        ("9" * 30, "Invalid file descriptor number '9+'"),
    ],
)
def test_invalid_numbers_are_refused(name: str, error: str) -> None:
    with pytest.raises(NetError, match=error):
        FdRegistry().take(name)


def test_set_keeps_descriptor_named_by_number(given: int) -> None:
    registry = FdRegistry()
    kept = os.dup(given)
    registry.sets.add(kept, None, None)
    fd = registry.take(str(kept))
    assert fd != kept
    os.close(fd)
    os.fstat(kept)
    registry.close()


def test_address_takes_only_sockets() -> None:
    registry, named = FdRegistry(), NamedFds()
    named.add("f", os.open("/dev/null", os.O_RDWR))
    with pytest.raises(NetError, match="File descriptor 'f' is not a socket"):
        registry.run(named, registry.take_socket, "f")
    assert named.take("f") is None
