"""Tests with existing clients, unchanged: qemu.qmp's QMPClient and its qmp-shell."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from qemu.qmp import EventListener, ExecuteError, QMPClient
from qemu.qmp.legacy import QEMUMonitorProtocol
from tests.fakes.monitored_machine import FakeMachine
from tests.needs import beside_python, need

from vnic.chardev.options import SocketOptions
from vnic.monitor import Mode, Monitors
from vnic.sockets.address import UnixAddress


def serve(path: Path, test: Callable[[FakeMachine], Awaitable[None]], mode: Mode = Mode.CONTROL) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        machine = FakeMachine(loop)
        monitors = Monitors(machine, loop)
        monitors.add(SocketOptions(id="mon0", addr=UnixAddress(path=str(path)), server=True), mode)
        try:
            await asyncio.wait_for(test(machine), 90)
        finally:
            monitors.close()

    asyncio.run(main())


def test_qmp_client(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(machine: FakeMachine) -> None:
        qmp = QMPClient("test")
        await qmp.connect(str(path))
        assert qmp.greeting is not None
        changes = EventListener(("LINK_CHANGED",))
        with qmp.listen(changes):
            await qmp.execute("netdev_add", {"type": "hubport", "id": "hub0", "hubid": 1})
            await qmp.execute("device_add", {"driver": "virtio-net", "id": "nic0", "netdev": "hub0"})
            assert await qmp.execute("set_link", {"name": "nic0", "up": False}) == {}
            event = await changes.get()
            assert event["data"]["name"] == "nic0"  # type: ignore[index]  # Message values are objects
        with pytest.raises(ExecuteError, match="Device 'zz' not found") as caught:
            await qmp.execute("set_link", {"name": "zz", "up": False})
        assert caught.value.error.error.class_ == "DeviceNotFound"
        results = await asyncio.gather(*(qmp.execute("query-name") for _ in range(50)))
        assert results == [{"name": "lab"}] * 50
        await qmp.disconnect()

    serve(path, test)


def test_legacy_client(tmp_path: Path) -> None:
    """The synchronous interface that older scripts use, in a separate thread."""
    path = tmp_path / "q"

    def talk() -> None:
        loop = asyncio.new_event_loop()  # it uses the thread's loop, and would not close one that it made
        asyncio.set_event_loop(loop)
        monitor = QEMUMonitorProtocol(str(path))
        try:
            assert "QMP" in (monitor.connect() or {})
            assert monitor.cmd("query-name") == {"name": "lab"}
            assert (
                monitor.cmd_raw("set_link", {"name": "zz", "up": True})["error"]["class"] == "DeviceNotFound"
            )
        finally:
            monitor.close()
            asyncio.set_event_loop(None)
            loop.close()

    async def test(machine: FakeMachine) -> None:
        await asyncio.to_thread(talk)

    serve(path, test)


def qmp_shell() -> str:
    need("qmp-shell")
    return str(beside_python("qmp-shell"))


def test_qmp_shell(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(machine: FakeMachine) -> None:
        shell = await asyncio.create_subprocess_exec(
            qmp_shell(),
            str(path),
            env={**os.environ, "HOME": str(tmp_path)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await shell.communicate(
            b"query-name\nnetdev_add type=hubport id=hub0 hubid=1\nset_link name=hub0 up=false\nquery-links\n"
        )
        text = out.decode()
        assert '{"return": {"name": "lab"}}' in text
        assert '"kind": "operator"' in text
        assert "Connected to QEMU 0.2.0" in text

    serve(path, test)


def test_qmp_shell_speaks_hmp_through_qmp(tmp_path: Path) -> None:
    path = tmp_path / "q"

    async def test(machine: FakeMachine) -> None:
        shell = await asyncio.create_subprocess_exec(
            qmp_shell(),
            "-H",
            str(path),
            env={**os.environ, "HOME": str(tmp_path)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await shell.communicate(b"info name\nset_link zz off\n")
        assert b"lab" in out
        assert b"Device 'zz' not found" in out

    serve(path, test)
