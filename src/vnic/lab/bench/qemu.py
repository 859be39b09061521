"""How fast a link change reaches a real guest, by vnic's NICs and by QEMU's own, in one VM and one run.

QEMU's trace tells when: an interrupt is delivered to the guest's APIC, and the guest's driver reads the NIC's status.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from vnic.lab.bench import eventfd
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_kit import QemuKit, find_qemu
from vnic.lab.guest.qemu_nic import emulated, vfio_user

VIRTIO_PER_ROUND = 20
E1000_PER_ROUND = 6
EVENTFDS_PER_ROUND = 100
PAUSE_S = 0.02
"""After a change: what it causes in the guest is over."""
NEGOTIATION_S = 0.65
"""Until an e1000's link is up again, QEMU's and vnic's."""

TRACED = ("memory_region_ops_read", "apic_deliver_irq")
METHOD = (
    "one VM under TCG, four idle NICs, by turns: QMP request written → QEMU's trace event, both by the wall clock:"
    " apic_deliver_irq, and memory_region_ops_read of the NIC's status. virtio: up and down by MSI-X; e1000: down,"
    " by INTx. Ratios are of medians"
)
EVENTFD = (
    "vnic without a VM, whose part the measuring process plays: QMP request written → the interrupt's eventfd"
    " readable; beside the interrupt of QEMU's own NIC above"
)

_EVENT = re.compile(r"^(\S+Z) (\w+) (.*)$", re.M)
_READ = re.compile(r"addr (0x[0-9a-f]+) value \S+ size \d+ name '(.*)'$")
_VECTOR = re.compile(r"vector (\d+)")


@dataclass(slots=True)
class Subject:
    """One NIC that is measured: its set_link, and how the trace names its status."""

    name: str
    set_link: Callable[[bool], object]
    region: str
    """How the name of the memory region with the status ends."""
    offset: int
    """The last 12 bits of the status' address."""
    started: list[float] = field(default_factory=list)
    """When each request was written, by the wall clock."""

    def change(self, up: bool) -> None:
        self.started.append(time.time())
        self.set_link(up)


def require_kit() -> QemuKit:
    kit = find_qemu()
    if kit is None:
        raise Missing("the QEMU guest is not here; `vnic demo --guest qemu` downloads it")
    return kit


def measure(rounds: int) -> Iterator[Row]:
    kit = require_kit()
    nics = [
        *("-netdev", "echo,id=net0", "-netdev", "echo,id=net1"),
        *("-device", "virtio-net-pci,id=nic0,netdev=net0,attach.type=vfio-user,attach.path=@/nic0.sock"),
        *("-device", "e1000,id=nic1,netdev=net1,attach.type=vfio-user,attach.path=@/nic1.sock"),
    ]
    try:
        with VnicProcess(*nics) as vnic:
            latencies = _in_a_guest(vnic, kit, rounds)
    except GuestError as error:
        raise Missing(str(error)) from error
    interrupts = eventfd.samples_of(("virtio-net-pci", "e1000"), rounds * EVENTFDS_PER_ROUND)
    for model in ("virtio-net-pci", "e1000"):
        for step in ("interrupt", "status read"):
            ours, theirs = (latencies[f"{who} {model}", step] for who in ("vnic", "QEMU"))
            yield row(f"{model} of vnic: set_link → {step}", "µs", ours, METHOD)
            yield row(f"{model} of QEMU: set_link → {step}", "µs", theirs, METHOD)
            yield ratio(f"{model}: set_link → {step}, vnic / QEMU", ours, theirs, METHOD)
    for model in ("virtio-net-pci", "e1000"):
        theirs = latencies[f"QEMU {model}", "interrupt"]
        yield row(f"{model} of vnic: set_link → eventfd", "µs", interrupts[model], EVENTFD)
        yield ratio(f"{model}: eventfd / QEMU's interrupt", interrupts[model], theirs, EVENTFD, "at most 0.5")


def ratio(what: str, ours: list[float], theirs: list[float], method: str, target: str = "") -> Row:
    """The ratio of the medians, as a row."""
    one, other = row("", "", ours, ""), row("", "", theirs, "")
    return row(what, "x", [one.median / other.median], method, target, digits=2)


def _in_a_guest(vnic: VnicProcess, kit: QemuKit, rounds: int) -> dict[tuple[str, str], list[float]]:
    """By subject and step, the latencies in µs."""
    trace = vnic.folder / "trace"
    own = [
        emulated(driver, {"type": "hubport", "hubid": hub})
        for hub, driver in enumerate(("virtio-net-pci", "e1000"))
    ]
    sockets = [vfio_user(vnic.folder / f"nic{index}.sock") for index in range(2)]
    options = ["-D", str(trace), "-msg", "timestamp=on"]
    with QemuGuest([*sockets, *own], kit=kit, options=options) as guest:
        for interface in range(4):
            if not guest.wait_carrier(True, f"eth{interface}", timeout=10):
                raise Missing(f"eth{interface} has no carrier")
        subjects = _subjects(vnic, guest)
        for event in TRACED:
            guest.qmp("trace-event-set-state", name=event, enable=True)
        virtio, e1000 = subjects[:2], subjects[2:]
        for change in range(rounds * VIRTIO_PER_ROUND):
            for subject in virtio:
                subject.change(bool(change % 2))
                time.sleep(PAUSE_S)
        for _ in range(rounds * E1000_PER_ROUND):
            for subject in e1000:
                subject.change(False)
                time.sleep(PAUSE_S)
            for subject in e1000:
                subject.set_link(True)
            time.sleep(NEGOTIATION_S)
        for event in TRACED:
            guest.qmp("trace-event-set-state", name=event, enable=False)
    events = read_trace(trace)
    return {
        (subject.name, step): samples
        for subject in subjects
        for step, samples in steps(subject, events).items()
    }


def _subjects(vnic: VnicProcess, guest: QemuGuest) -> list[Subject]:
    def ours(name: str) -> Callable[[bool], object]:
        return lambda up: vnic.execute("set_link", name=name, up=up)

    def qemus(name: str) -> Callable[[bool], object]:
        return lambda up: guest.qmp("set_link", name=name, up=up)

    return [
        Subject("vnic virtio-net-pci", ours("nic0"), "/nic0.sock BAR 4", 6),
        Subject("QEMU virtio-net-pci", qemus("nic2"), "virtio-pci-device-virtio-net", 6),
        Subject("vnic e1000", ours("nic1"), "/nic1.sock BAR 0", 8),
        Subject("QEMU e1000", qemus("nic3"), "e1000-mmio", 8),
    ]


# -- QEMU's trace ---------------------------------------------------------------------------------------------------

Event = tuple[float, str, str]
"""Wall clock in seconds, the event's name, and its text."""


def read_trace(path: Path) -> list[Event]:
    """The events of a log with `-msg timestamp=on`."""
    text = path.read_text(errors="replace")
    return [
        (datetime.fromisoformat(when).timestamp(), name, rest) for when, name, rest in _EVENT.findall(text)
    ]


def steps(subject: Subject, events: list[Event]) -> dict[str, list[float]]:
    """How long after each request the interrupt came, and the first read of the status, in µs.

    Missing if one in ten did not come. An interrupt is the subject's if it has the vector of most of its changes.
    """
    times = [event[0] for event in events]
    windows = [
        events[bisect_left(times, start) : bisect_left(times, start + PAUSE_S)] for start in subject.started
    ]
    vectors = Counter(
        vector[1]
        for window in windows
        for _, name, text in window
        if name == "apic_deliver_irq" and (vector := _VECTOR.search(text))
    )
    wanted = f"vector {vectors.most_common(1)[0][0]} " if vectors else "none"

    def is_interrupt(name: str, text: str) -> bool:
        return name == "apic_deliver_irq" and wanted in text

    def is_read(name: str, text: str) -> bool:
        found = _READ.search(text) if name == "memory_region_ops_read" else None
        at_status = found is not None and int(found[1], 16) & 0xFFF == subject.offset
        return found is not None and at_status and found[2].endswith(subject.region)

    result: dict[str, list[float]] = {"interrupt": [], "status read": []}
    for start, window in zip(subject.started, windows, strict=True):
        for step, matches in (("interrupt", is_interrupt), ("status read", is_read)):
            for when, name, text in window:
                if matches(name, text):
                    result[step].append((when - start) * 1e6)
                    break
    for step, samples in result.items():
        if len(samples) < 0.9 * len(windows):
            raise Missing(f"{subject.name}: only {len(samples)} of {len(windows)} changes had their {step}")
    return result
