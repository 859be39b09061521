"""vnic-wire is killed in the middle of a guest's download, behind ends whose frames are on a stream."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.guests.lab import Vnic, nic, uml, vnic_run
from tests.integration.namespace import in_namespace, run
from tests.integration.test_backend_passt import CONNECT, SERVE, make_host, process
from tests.integration.test_datapath import programs

from vnic.lab.guest.uml import UmlGuest

FILE_BYTES = 40_000_000
KILLS = 3


def _kill_while(running: Vnic, guest: UmlGuest, command: str) -> str:
    """What the command prints that downloads over nic0, while vnic-wire is killed some times."""
    names = ("nic0", "net0")
    before = [running.qmp.link(name)["carrier-changes"] for name in names]
    pending = guest.start(command)
    for number in range(1, KILLS + 1):
        moved = _bytes_of_nic0(running)
        _until(lambda moved=moved: _bytes_of_nic0(running) > moved + 100_000)  # type: ignore[misc]  # bound
        (pid,) = programs(running.process.pid)
        os.kill(pid, signal.SIGKILL)
        _until(lambda number=number: running.qmp.execute("query-vnic")["restarts"] == number)  # type: ignore[misc]  # bound
        _until(lambda: running.qmp.link("nic0")["datapath"] == "wire" and _bytes_of_nic0(running))
    output = pending.result(60).output.strip()
    assert [running.qmp.link(name)["carrier-changes"] for name in names] == before
    return output


def _bytes_of_nic0(running: Vnic) -> int:
    """As the program that runs has counted."""
    return sum(
        each["bytes-out"] for each in running.qmp.execute("query-wire-stats") if each["name"] == "nic0"
    )


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


async def _download_through_passt() -> None:
    make_host()
    await asyncio.to_thread(_drive_passt)


def _drive_passt() -> None:
    content = os.urandom(FILE_BYTES)
    expected = hashlib.sha256(content).hexdigest()
    options = "passt,id=net0,address=10.0.2.15,netmask=24,gateway=10.0.2.2"
    with (
        tempfile.TemporaryDirectory() as folder,
        process(sys.executable, "-c", SERVE, "127.0.0.1", "8080", folder),
    ):
        (Path(folder) / "file").write_bytes(content)
        run(sys.executable, "-c", CONNECT, "127.0.0.1", "8080")
        with vnic_run("-netdev", options, *nic("nic0")) as running, uml(running, "nic0") as guest:
            assert guest.wait_carrier(True)
            guest.set_address("10.0.2.15/24")
            guest.run("ip route add default via 10.0.2.2")
            fetch = "wget -q -O - http://10.0.2.2:8080/file | sha256sum | cut -d' ' -f1"
            assert _kill_while(running, guest, fetch) == expected


@pytest.mark.needs("vnic-wire", "passt", "uml")
def test_a_download_through_passt_goes_on() -> None:
    in_namespace(_download_through_passt)


@pytest.mark.needs("vnic-wire", "uml")
def test_a_download_between_guests_on_a_stream_goes_on() -> None:
    server = "stream,id=net0,server=on,addr.type=unix,addr.path=cable.sock"
    client = "stream,id=net1,server=off,addr.type=unix,addr.path=cable.sock,reconnect-ms=100"
    cable = ("-netdev", server, "-netdev", client, *nic("nic0"), *nic("nic1", "net1"))
    with vnic_run(*cable) as running, uml(running, "nic0") as one, uml(running, "nic1") as two:
        for guest, address in ((one, "10.0.2.1/24"), (two, "10.0.2.2/24")):
            assert guest.wait_carrier(True)
            guest.set_address(address)
        make = f"head -c {FILE_BYTES} /dev/urandom > /tmp/file"
        expected = two.run(f"{make} && sha256sum < /tmp/file | cut -d' ' -f1")
        two.run("httpd -p 8080 -h /tmp")
        fetch = "wget -q -O - http://10.0.2.2:8080/file | sha256sum | cut -d' ' -f1"
        assert _kill_while(running, one, fetch) == expected
