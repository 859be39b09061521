"""The lab of the soak: a `vnic run --keep` with two guests and three cables between them.

A User-Mode Linux has one end of each cable over vhost-user. The other ends are a virtio-net and an e1000 of a QEMU
guest over vfio-user, and DPDK's virtio-user.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.guests.qemu_lab import pci_nic
from tests.integration.process import Place
from tests.places import short_folder
from tests.soak import processes
from tests.soak.monitor import Monitor

from vnic.lab.bench import native
from vnic.lab.bench.testpmd import Testpmd
from vnic.lab.guest import qemu_kit
from vnic.lab.guest.linux import LinuxGuest
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.uml import UmlGuest

PINGER = "/pinger"
"""Where the guest has pinger.c."""
BOOT_S = 60
"""The longest time until links are up and far ends answer."""


@dataclass(frozen=True)
class End:
    """A NIC, and where its guest shows it."""

    nic: str
    guest: str
    interface: str


@dataclass(frozen=True)
class Wire:
    """A cable: the end that pings, the other one, and its address."""

    name: str
    near: End
    far: End
    address: str

    @property
    def by_python(self) -> bool:
        """Whether control moves its packets, and not vnic-wire."""
        return self.name == "e1000"


FAR_GUESTS = {"virtio-net": "qemu", "e1000": "qemu", "virtio-user": "dpdk"}
"""The cables, by what is at their far ends, with its guest."""


def cables(names: Sequence[str]) -> list[Wire]:
    """The cables of these names. A guest's interfaces are in the order of its sockets."""
    count: Counter[str] = Counter()
    found = []
    for at, name in enumerate(names):
        guest = FAR_GUESTS[name]
        far = End(f"{guest}{count[guest]}", guest, f"eth{count[guest]}")
        count[guest] += 1
        found.append(Wire(name, End(f"uml{at}", "uml", f"eth{at}"), far, f"10.0.{at}.2"))
    return found


def options(wires: Sequence[Wire]) -> list[str]:
    """vnic's command line."""
    words = []
    for wire in wires:
        for side, end in (("a", wire.near), ("b", wire.far)):
            netdev = f"{wire.name}-{side}"
            words += ["-netdev", f"cable,id={netdev},cable={wire.name}"]
            if end.guest == "qemu":
                driver = "e1000" if wire.name == "e1000" else "virtio-net-pci"
                words += pci_nic(end.nic, driver, netdev)
            else:
                attach = f"attach.type=vhost-user,attach.path={end.nic}.sock"
                words += ["-device", f"virtio-net,id={end.nic},netdev={netdev},{attach}"]
    return words


class SoakLab:
    """A context manager around all of it; every link is up inside."""

    def __init__(self, wires: Sequence[Wire], options_more: Sequence[str] = ()) -> None:
        self.wires = wires
        self._options = [*options(wires), *options_more]
        self._stack = contextlib.ExitStack()
        self.guests: dict[str, LinuxGuest] = {}
        self.testpmd: Testpmd | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        self.folder = folder = stack.enter_context(short_folder())
        place = Place(folder)
        stack.callback(place.close)
        # A control that compiles vnic anew each time is away for seconds.
        place.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        place.environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        self._log = folder / "log"
        log = stack.enter_context(self._log.open("w"))
        qmp = ("-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off")
        self._process = place.start("run", "--keep", *qmp, *self._options, output=log)
        stack.callback(self._process.wait)
        stack.callback(self._process.terminate)
        self.monitor = Monitor(folder / "qmp.sock")
        stack.callback(self.monitor.close)
        self.monitor.execute("query-status")
        pinger = {PINGER.lstrip("/"): native.program("pinger", Path(__file__).parent)}
        uml = UmlGuest([folder / f"{wire.near.nic}.sock" for wire in self.wires], files=pinger)
        self.guests["uml"] = stack.enter_context(uml)
        sockets = [folder / f"{wire.far.nic}.sock" for wire in self.wires if wire.far.guest == "qemu"]
        if sockets:
            qemu = QemuGuest(sockets, kit=qemu_kit.find_qemu())
            self.guests["qemu"] = stack.enter_context(qemu)
        for wire in self.wires:
            self.guests["uml"].set_address(wire.address[:-1] + "1/24", wire.near.interface)
            if wire.far.guest == "qemu":
                self.guests["qemu"].set_address(wire.address + "/24", wire.far.interface)
            else:
                vdev = f"net_virtio_user0,path={folder}/{wire.far.nic}.sock,queues=1"
                self.testpmd = stack.enter_context(Testpmd(vdev, "--forward-mode=icmpecho"))
                self.testpmd.command("start")
        for end in self.ends():
            if not self.wait_carrier(end, True, BOOT_S):
                raise TimeoutError(f"the link of {end.nic} did not come up")
        for wire in self.wires:
            self._await_ping(wire)

    def _await_ping(self, wire: Wire) -> None:
        """Both ends know each other's address then."""
        for _ in range(BOOT_S):
            if self.guests["uml"].ping(wire.address) is not None:
                return
        raise TimeoutError(f"the far end of {wire.name} does not answer")

    # -- vnic ---------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def kill_control(self) -> None:
        self._kill(processes.control)

    def kill_wire(self) -> None:
        self._kill(processes.wire)

    def kill_both(self) -> None:
        """At once, as far as that is possible."""
        found = [processes.wire(self.supervisor), processes.control(self.supervisor)]
        for pid in found:
            if pid is not None:
                processes.kill(pid)

    def _kill(self, find: processes.Find) -> None:
        """The process, once there is one."""
        end = time.monotonic() + 10
        while (pid := find(self.supervisor)) is None:
            if time.monotonic() > end:
                raise TimeoutError("there is no process to kill")
            time.sleep(0.002)
        processes.kill(pid)

    # -- what guests see ----------------------------------------------------------------------------------------

    def ends(self) -> list[End]:
        """Those whose guest counts its carrier's changes."""
        return [end for wire in self.wires for end in (wire.near, wire.far) if end.guest in self.guests]

    def carrier(self, end: End) -> tuple[bool, int]:
        """The carrier, and how often it has changed since the boot."""
        folder = f"/sys/class/net/{end.interface}"
        words = self.guests[end.guest].run(f"cat {folder}/carrier {folder}/carrier_changes").split()
        return words[0] == "1", int(words[1])

    def wait_carrier(self, end: End, up: bool, seconds: float) -> bool:
        """Whether it became so in time."""
        return self.guests[end.guest].wait_carrier(up, end.interface, timeout=int(seconds))
