"""TCP and pings of real guests over a tap, a stream and a hub: by vnic, and by QEMU's own virtio-net in the same VM.

`vnic bench wire-guest` runs it, as root. User-Mode Linux has no NIC of QEMU's: there, the Python path is the peer.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vnic.lab.bench.far_hosts import StreamHost, guest_address, host_address, set_up, tap_name, tcp_server
from vnic.lab.bench.native import program
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.qemu import require_kit
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.kit import find_uml
from vnic.lab.guest.linux import LinuxGuest
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import QemuNic, vfio_user
from vnic.lab.guest.uml import UmlGuest

PATHS: Final = ("tap", "stream", "hub")
SECONDS: Final = 2.0
PINGS: Final = 50
TIMEOUT_S: Final = 60.0

QEMU_METHOD = (
    "one VM under TCG with one CPU, and six virtio-net-pci, three of vnic (vfio-user) and three of QEMU's own, by"
    " turns. tap, and a hub of two with a tap: the host's kernel is the far end; stream: it is, too, behind a vnic-wire"
    f" that both have. TCP: one connection, 128 KiB a call, {SECONDS:g} s, as the guest counts; ping: the guest's own"
    f" figure, the median of {PINGS}. vhost-net is not used"
)
UML_METHOD = (
    "the same in two User-Mode Linux guests by turns, with three NICs each over vhost-user: those of a vnic with"
    " vnic-wire, and of one whose Python moves the packets (VNIC_WIRE=off)"
)
Figures = dict[tuple[str, str], list[float]]
"""By path and by what was measured."""


@dataclass(frozen=True, slots=True)
class Side:
    """A guest's three NICs of one kind: the first is eth`first`, its tap is number `tap`, and so on."""

    guest: LinuxGuest
    first: int
    tap: int

    def addresses(self) -> None:
        for index in range(len(PATHS)):
            interface, number = f"eth{self.first + index}", self.tap + index
            if not self.guest.wait_carrier(True, interface):
                raise Missing(f"{interface} of the guest has no carrier")
            self.guest.set_address(f"{guest_address(number)}/24", interface)
            if self.guest.ping(host_address(number)) is None:
                raise Missing(f"{interface} of the guest does not reach the host")

    def figures(self, into: Figures) -> None:
        for index, path in enumerate(PATHS):
            number = self.tap + index
            for what, value in (
                ("TCP to the host", self._gbit(number, "send")),
                ("TCP to the guest", self._gbit(number, "receive")),
                ("ping", self._ping_us(number)),
            ):
                into.setdefault((path, what), []).append(value)

    def _gbit(self, number: int, direction: str) -> float:
        with tcp_server(number, SECONDS if direction == "receive" else 0.0) as port:
            command = f"/flow {direction} {host_address(number)} {port} {SECONDS:g}"
            sent, ns = map(int, self.guest.run(command, timeout=TIMEOUT_S).split())
        return 8 * sent / ns

    def _ping_us(self, number: int) -> float:
        text = self.guest.run(f"ping -c {PINGS} -i 0.01 {host_address(number)}", timeout=TIMEOUT_S)
        return statistics.median(float(found) * 1000 for found in re.findall(r"time=([0-9.]+) ms", text))


def measure(rounds: int) -> Iterator[Row]:
    if os.geteuid() != 0:
        raise Missing("only root can make taps")
    flow = program("flow")
    try:
        yield from _qemu(rounds, {"/flow": flow})
        yield from _uml(rounds, {"/flow": flow})
    except GuestError as error:
        raise Missing(str(error)) from error


def _rows(
    guest: str, method: str, ours: Figures, theirs: Figures, their_name: str, aims: bool
) -> Iterator[Row]:
    for (path, what), samples in ours.items():
        unit, digits = ("µs", 0) if what == "ping" else ("Gb/s", 3)
        others = theirs[path, what]
        name = f"{guest}, {path}: {what}"
        yield row(f"{name}, vnic", unit, samples, method, digits=digits)
        yield row(f"{name}, {their_name}", unit, others, method, digits=digits)
        aim = ("at most 1.0" if what == "ping" else "at least 1.0") if aims else ""
        ratios = [our / their for our, their in zip(samples, others, strict=True)]
        yield row(f"{name}, vnic / {their_name}", "x", ratios, method, aim, digits=2)


def netdevs(taps: int, folder: str) -> list[str]:
    """The -netdev of the three paths, for vnic and for QEMU: net0, net1 and net2, with taps from number `taps` on."""
    tap = "tap,ifname={},script=no,downscript=no".format
    options = [
        f"{tap(tap_name(taps))},id=net0",
        f"stream,id=net1,addr.type=unix,addr.path={folder}/far{taps + 1}.sock",
        f"{tap(tap_name(taps + 2))},id=far2",
        "hubport,id=hub2,hubid=0,netdev=far2",
        "hubport,id=net2,hubid=0",
    ]
    return [word for option in options for word in ("-netdev", option)]


def _nics(transport: str) -> list[str]:
    model = "virtio-net-pci" if transport == "vfio-user" else "virtio-net"
    device = f"{model},id=nic{{0}},netdev=net{{0}},attach.type={transport},attach.path=@/nic{{0}}.sock"
    return [word for index in range(len(PATHS)) for word in ("-device", device.format(index))]


@contextlib.contextmanager
def _vnic(folder: Path, taps: int, transport: str, **environment: str) -> Iterator[VnicProcess]:
    """A vnic with the three NICs, whose far ends are there."""
    with (
        StreamHost(taps + 1, folder / f"far{taps + 1}.sock") as stream,
        VnicProcess(*netdevs(taps, str(folder)), *_nics(transport), environment=environment) as vnic,
    ):
        stream.connect()
        for number in (taps, taps + 2):
            set_up(number)
        yield vnic


def _qemu(rounds: int, files: dict[str, bytes]) -> Iterator[Row]:
    kit = require_kit()
    ours: Figures = {}
    theirs: Figures = {}
    with _folder() as folder, _vnic(folder, 0, "vfio-user") as vnic:
        nics: list[QemuNic] = [vfio_user(vnic.folder / f"nic{index}.sock") for index in range(len(PATHS))]
        nics += [
            QemuNic({"driver": "virtio-net-pci", "netdev": f"net{index}"}) for index in range(len(PATHS))
        ]
        with (
            StreamHost(4, folder / "far4.sock") as stream,
            QemuGuest(nics, kit=kit, files=files, options=netdevs(3, str(folder))) as guest,
        ):
            stream.connect()
            for number in (3, 5):
                set_up(number)
            sides = (Side(guest, 0, 0), ours), (Side(guest, 3, 3), theirs)
            _by_turns(rounds, sides)
            vnic.wait_on_the_wire("nic0", "nic1", "nic2")
    yield from _rows("QEMU guest", QEMU_METHOD, ours, theirs, "QEMU", aims=True)


def _uml(rounds: int, files: dict[str, bytes]) -> Iterator[Row]:
    kit = find_uml()
    if kit is None:
        raise Missing("User-Mode Linux is not here (apt-get install user-mode-linux busybox-static)")
    ours: Figures = {}
    theirs: Figures = {}
    with (
        _folder() as folder,
        _vnic(folder, 0, "vhost-user") as vnic,
        _vnic(folder, 3, "vhost-user", VNIC_WIRE="off") as python,
        UmlGuest([vnic.folder / f"nic{index}.sock" for index in range(3)], kit=kit, files=files) as first,
        UmlGuest([python.folder / f"nic{index}.sock" for index in range(3)], kit=kit, files=files) as second,
    ):
        _by_turns(rounds, ((Side(first, 0, 0), ours), (Side(second, 0, 3), theirs)))
        vnic.wait_on_the_wire("nic0", "nic1", "nic2")
    yield from _rows("UML guest", UML_METHOD, ours, theirs, "Python", aims=False)


def _by_turns(rounds: int, sides: Sequence[tuple[Side, Figures]]) -> None:
    for side, _ in sides:
        side.addresses()
    for _ in range(rounds):
        for side, figures in sides:
            side.figures(figures)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        yield Path(folder)
