"""Control is killed while guests use their NICs: no guest sees its carrier change, and what it does goes on."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from tests.guests.lab import ECHO, Qmp, Vnic, nic, uml, vnic_run
from tests.guests.qemu_lab import Apart, interfaces, pci_nic, qemu
from tests.integration.process import PATIENCE_S

from vnic.lab.guest.linux import LinuxGuest

KILLS = 3
PINGS = 150


def kill_control(running: Vnic) -> None:
    """SIGKILL, and wait until the next one answers."""
    restarts = times(running)
    os.kill(running.qmp.execute("query-vnic")["pid"], signal.SIGKILL)
    running.qmp.close()
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            running.qmp = Qmp(running.socket("qmp"))
            break
        except (OSError, EOFError):
            assert time.monotonic() < end, running.log()
            time.sleep(0.01)
    assert times(running) == restarts + 1


def times(running: Vnic) -> int:
    restarted: dict[str, Any] = running.qmp.execute("query-vnic").get("restarted", {})
    return int(restarted.get("times", 0))


class Watched:
    """A guest whose interfaces are not to change while the block runs."""

    def __init__(self, running: Vnic, guest: LinuxGuest, *nics: str) -> None:
        self._running = running
        self._guest = guest
        self._nics = nics

    def _seen(self) -> object:
        carriers = "cat /sys/class/net/eth*/carrier_changes"
        return (
            self._guest.run(carriers),
            self._guest.run("wc -l < /tmp/monitor"),
            [self._running.qmp.link(name)["carrier-changes"] for name in self._nics],
        )

    def __enter__(self) -> None:
        self._guest.run("ip monitor link > /tmp/monitor 2>&1 & sleep 0.2; true")
        self._before = self._seen()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            assert self._seen() == self._before


def kill_while(running: Vnic, guest: LinuxGuest, command: str) -> str:
    """What the command prints, while control is killed some times."""
    pending = guest.start(command)
    for _ in range(KILLS):
        time.sleep(0.5)
        kill_control(running)
    return pending.result(120).output.strip()


def pings(address: str) -> str:
    """Its output is how many of PINGS were answered."""
    one = f"ping -c 1 -W 3 {address} >/dev/null && echo"
    return f"for i in $(seq {PINGS}); do {one}; usleep 20000; done | wc -l"


@pytest.mark.needs("uml")
def test_uml_guest_pings_on() -> None:
    """The back-end is Python's, which may lose the frames that it is working on."""
    with vnic_run("--keep", *ECHO, *nic("nic0")) as running, uml(running, "nic0") as guest:
        guest.set_address("10.0.2.15/24")
        assert guest.ping("10.0.2.2") is not None
        with Watched(running, guest, "nic0", "net0"):
            answered = int(kill_while(running, guest, pings("10.0.2.2")))
        assert answered >= PINGS - KILLS
        running.qmp.set_link("nic0", False)
        assert guest.wait_carrier(False)
        kill_control(running)
        running.qmp.set_link("nic0", True)
        assert guest.wait_carrier(True)
        assert running.qmp.link("nic0")["guest"]["seen"] == "up"


@pytest.mark.needs("uml")
def test_download_between_uml_guests_goes_on() -> None:
    cable = ("-netdev", "cable,id=net0,cable=c", "-netdev", "cable,id=net1,cable=c")
    options = ("--keep", *cable, *nic("nic0"), *nic("nic1", "net1"))
    with vnic_run(*options) as running, uml(running, "nic0") as one, uml(running, "nic1") as two:
        for guest, address in ((one, "10.0.2.1/24"), (two, "10.0.2.2/24")):
            assert guest.wait_carrier(True)
            guest.set_address(address)
        expected = two.run(
            "head -c 30000000 /dev/urandom > /tmp/file && sha256sum < /tmp/file | cut -d' ' -f1"
        )
        two.run("httpd -p 8080 -h /tmp")
        fetch = "wget -q -O - http://10.0.2.2:8080/file | sha256sum | cut -d' ' -f1"
        with Watched(running, one, "nic0", "nic1"):
            assert kill_while(running, one, fetch) == expected.strip()


@pytest.mark.parametrize("driver", ["virtio-net-pci", "e1000"])
@pytest.mark.needs("qemu-guest")
def test_qemu_guest_pings_and_downloads_on(driver: str) -> None:
    """From the one of its NICs to the other."""
    cable = ("-netdev", "cable,id=net0,cable=c", "-netdev", "cable,id=net1,cable=c")
    nics = (*pci_nic("nic0", driver), *pci_nic("nic1", driver, "net1"))
    with vnic_run("--keep", *cable, *nics) as running, qemu(running, "nic0", "nic1") as guest:
        names = interfaces(running, guest, ["nic0", "nic1"])
        far = Apart(guest, names["nic1"], "10.0.2.2/24")
        guest.set_address("10.0.2.1/24", names["nic0"])
        far.wait_carrier(True)
        assert guest.ping("10.0.2.2") is not None
        expected = far.run("head -c 20000000 /dev/urandom > /tmp/file; sha256sum < /tmp/file")
        far.run("httpd -p 8080 -h /tmp")
        with Watched(running, guest, "nic0", "nic1"):
            fetch = "wget -q -O - http://10.0.2.2:8080/file | sha256sum"
            assert kill_while(running, guest, fetch) == expected.strip()
            answered = int(kill_while(running, guest, pings("10.0.2.2")))
        assert answered >= PINGS - 2 * KILLS
        running.qmp.set_link("nic0", False)
        assert guest.wait_carrier(False, names["nic0"])
        kill_control(running)
        running.qmp.set_link("nic0", True)
        assert guest.wait_carrier(True, names["nic0"])
