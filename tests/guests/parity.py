"""vnic's NICs beside QEMU's own of the same models in one guest: the same steps for both, and what the guest has then.

`test_qemu_parity.py` runs the steps once for all models, in lockstep, and asserts for each model by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.guests.lab import Vnic, vnic_run
from tests.guests.model_lab import modules
from tests.guests.models import Dump, GuestModel, Register
from tests.guests.qemu_lab import pci_nic, qemu

from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import emulated, vfio_user

SETTLE_S = 60.0
"""Until the registers show what was done, on a machine that is busy."""
AGREE_S = 4.0
"""Until both are the same; then the step is done once more, for a guest may take two changes as one."""
QUIET_S = 0.1
"""What was to have no effect would have had it by then, or is found with the next step."""
FLAP_S = 0.4
"""A flap that took longer was none: a negotiation takes 0.5 s."""
PAUSE_S = 0.06
ATTEMPTS = 4

_ITS_OWN = re.compile(
    r"\beth\d+\b|0000:00:\S+\.\d|\b(mem|io) .*]|(\w\w:){5}\w\w|\b([Ii][Rr][Qq]|addr|at) \w+"
)
"""In a message: what two devices cannot have in common."""

LINES = 4
"""INTx lines that the slots of q35's root bus share: 0, 4, 8, … the first."""
FIRST_LINE = 20
"""Its number at the I/O APIC."""


@dataclass(slots=True)
class Seen:
    """What the guest has of a NIC."""

    registers: dict[str, int | None]
    carrier: str
    interrupts: int
    """Since the step began."""
    log: list[str]
    """Likewise; names of interfaces and devices replaced."""

    def values(self) -> dict[str, object]:
        return {**self.registers, "carrier": self.carrier, "interrupts": self.interrupts, "log": self.log}


class Side:
    """One of the two NICs of a model."""

    def __init__(self, model: GuestModel, slot: int, set_link: Callable[..., object], nic: str) -> None:
        self.model = model
        self.device = f"0000:00:{slot:02x}.0"
        self.line = None if model.msix else slot % LINES
        self.nic = nic
        self.netdev = f"{nic}-netdev"
        self.execute = set_link
        """Of the monitor that has it."""
        self.interface = ""
        self.bars: list[tuple[int, bool]] = []
        """Address, and whether it is of I/O ports."""
        self.counted = 0
        self.before = 0
        self.log: list[str] = []

    def start(self) -> None:
        """A step begins."""
        self.before = self.counted
        self.log = []

    def take(self, lines: Sequence[str], messages: Sequence[str]) -> None:
        """/proc/interrupts, and what the kernel said since the last time."""
        # By the line or the vector, not by the interface: while it is down, its name is not there.
        if self.line is None:
            words = {f"PCI-MSIX-{self.device}", f"{self.model.link_vector}-edge"}
        else:
            words = {f"{FIRST_LINE + self.line}-fasteoi"}
        counted = sum(int(row[1]) for row in map(str.split, lines) if words <= set(row[2:]))
        if counted < self.counted:
            self.before = 0  # its lines are new ones
        self.counted = counted
        own = re.compile(rf"\b{self.interface}\b|{re.escape(self.device)}" if self.interface else self.device)
        for message in messages:
            text = message.partition("] ")[2]
            # What the PCI core finds in config space is lspci's to compare.
            if own.search(text) and not text.startswith("pci "):
                self.log.append(_ITS_OWN.sub("*", text))


class Rig:
    """The guest, and both NICs of each model; what is done to them is done to all."""

    def __init__(self, running: Vnic, guest: QemuGuest, models: Sequence[GuestModel]) -> None:
        self.running = running
        self.guest = guest
        self.pairs = {
            model.name: (
                Side(model, slot_of(index, False), running.qmp.execute, model.name),
                Side(model, slot_of(index, True), guest.qmp, f"qemu-{model.name}"),
            )
            for index, model in enumerate(models)
        }
        self.sides = [side for pair in self.pairs.values() for side in pair]
        self.up = True
        self.runs = True
        """The driver is bound, and its interfaces are up."""
        self.booted()

    # -- what steps do ------------------------------------------------------------------------------------------

    def set_link(self, up: bool, what: str = "nic") -> None:
        """As each one's own monitor has it; `what`: nic or netdev, which is both ends."""
        self.up = up
        for side in self.sides:
            side.execute("set_link", name=getattr(side, what), up=up)

    def netdev_del(self) -> None:
        self.up = False
        for side in self.sides:
            side.execute("netdev_del", id=side.netdev)

    def admin(self, up: bool) -> None:
        """`ip link set` of the guest."""
        self.runs = up
        word = "up" if up else "down"
        self.guest.run("; ".join(f"ip link set {side.interface} {word}" for side in self.sides))

    def bind(self, bound: bool) -> None:
        self.runs = bound
        word = "bind" if bound else "unbind"
        path = "/sys/bus/pci/drivers"
        for side in self.sides:
            self.guest.run(f"echo {side.device} >{path}/{side.model.driver}/{word}")
        self._find()
        if bound:
            self.admin(True)

    def system_reset(self) -> None:
        self.guest.system_reset()
        self.booted()

    # -- what the guest has -------------------------------------------------------------------------------------

    def booted(self) -> None:
        """Nothing is sent from now on but what a test sends, and no interrupt comes of that."""
        self.guest.run("for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done")
        self._find()
        for side in self.sides:
            lines = self.guest.run(f"cat /sys/bus/pci/devices/{side.device}/resource").splitlines()
            fields = [[int(word, 16) for word in line.split()] for line in lines[:6]]
            side.bars = [(start, bool(flags & 0x100)) for start, _, flags in fields]
            side.counted = side.before = 0

    def _find(self) -> None:
        found = self.guest.run("cd /sys/bus/pci/devices; echo */net/*").split()
        names = dict(path.split("/net/") for path in found)
        for side in self.sides:
            side.interface = names.get(side.device, "").rstrip("*")

    def begin(self) -> None:
        """A step begins."""
        for side in self.sides:
            side.start()

    def look(self) -> Mapping[str, tuple[Seen, Seen]]:
        """By model, vnic's and QEMU's."""
        output = self.guest.run(
            "cd /sys/class/net; for i in eth*; do echo $i $(cat $i/carrier 2>&1); done;"
            " echo; cat /proc/interrupts; echo; dmesg -c"
        )
        carriers, interrupts, messages = (output + "\n\n").split("\n\n")[:3]
        known = dict(line.split(" ", 1) for line in carriers.splitlines() if " " in line)
        for side in self.sides:
            side.take(interrupts.splitlines()[1:], messages.splitlines())
        return {name: (self._seen(a, known), self._seen(b, known)) for name, (a, b) in self.pairs.items()}

    def _seen(self, side: Side, carriers: Mapping[str, str]) -> Seen:
        registers = {register.name: self.read(side, register) for register in side.model.registers}
        carrier = carriers.get(side.interface, "") if self.runs else ""
        return Seen(registers, carrier, side.counted - side.before, list(side.log))

    def read(self, side: Side, register: Register | Dump) -> int | None:
        """None: it cannot be read now."""
        if isinstance(register, Dump):
            if not self.runs:
                return None
            found = re.search(register.pattern, self.guest.run(f"ethtool -d {side.interface}"))
            return int(found[1], register.base) & register.mask if found else None
        address, is_port = side.bars[register.bar]
        size = "bhw"[register.size.bit_length() - 1]
        # QEMU reads both devices as its guest does.
        command = "i /%s %#x" if is_port else "xp /1x%s %#x"
        text = self.guest.qmp(
            "human-monitor-command", command_line=command % (size, address + register.offset)
        )
        found = re.search(r"(?:: |= )(0x[0-9a-f]+)", text)
        return int(found[1], 16) & register.mask if found else None


def slot_of(index: int, is_qemus: bool) -> int:
    """Where a NIC is on the root bus: the two of a model have different lines, and every other model others."""
    return LINES * (1 + index // 2) + 2 * (index % 2) + is_qemus


@contextmanager
def parity_rig(models: Sequence[GuestModel]) -> Iterator[Rig]:
    """Both NICs of each model are up, on a hub of their own."""
    options: list[str] = []
    nics = []
    for index, model in enumerate(models):
        options += ["-netdev", f"hubport,id={model.name}-netdev,hubid={index + 1}"]
        options += pci_nic(model.name, model.device, f"{model.name}-netdev")
    with vnic_run("-name", "parity", *options) as running:
        for index, model in enumerate(models):
            place = {"romfile": "", "addr": f"{slot_of(index, True):x}"}
            own = emulated(model.device, {"type": "hubport", "hubid": index + 1}, **place)
            ours = vfio_user(running.socket(model.name), addr=f"{slot_of(index, False):x}")
            nics += [ours, own.named(f"qemu-{model.name}")]
        with qemu(running, *nics, machine="q35", tools=True, modules=modules(models)) as guest:
            yield Rig(running, guest, models)


# -- the steps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    do: Callable[[Rig], None]
    repeats: bool = True
    """It can be done once more, from the link that was there before."""


def link(up: bool, what: str = "nic") -> Step:
    return Step(f"set_link {what} {'up' if up else 'down'}", lambda rig: rig.set_link(up, what))


def flap(*states: bool) -> Step:
    """All within the time that a negotiation takes."""

    def do(rig: Rig) -> None:
        before = rig.up
        while True:
            started = time.monotonic()
            for up in states:
                rig.set_link(up)
                time.sleep(PAUSE_S)  # in which the guest may notice
            if time.monotonic() - started < FLAP_S:
                return
            rig.set_link(before)
            settle(rig)
            rig.begin()

    return Step("flap " + " ".join("up" if up else "down" for up in states), do)


def admin(up: bool) -> Step:
    return Step(f"ip link set {'up' if up else 'down'}", lambda rig: rig.admin(up), repeats=False)


def bind(bound: bool) -> Step:
    return Step("bind" if bound else "unbind", lambda rig: rig.bind(bound), repeats=False)


RESET = Step("system_reset", Rig.system_reset, repeats=False)
D, U = False, True

STEPS = (
    *(link(D), link(D), link(U), link(U), link(D), link(U)),
    *(flap(D, U), flap(D, U, D), flap(U, D), link(U), flap(D, U, D, U), flap(D, D, U, U)),
    *(link(D, "netdev"), link(D, "netdev"), link(U, "netdev"), link(D), link(U, "netdev")),
    *(admin(D), link(D), admin(U), link(U), admin(D), link(D), link(U), admin(U), link(D)),
    *(RESET, link(U), flap(D, U), RESET, link(D), link(U)),
    *(bind(D), link(D), bind(U), link(U), bind(D), bind(U), flap(D, U)),
    Step("netdev_del", Rig.netdev_del, repeats=False),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What was not the same after a step, and stayed so."""

    step: str
    what: str
    vnic: object
    qemu: object


def settle(rig: Rig) -> Mapping[str, tuple[Seen, Seen]]:
    """Wait until each link is as it was set, where a driver runs and does not only look at times."""
    deadline = time.monotonic() + SETTLE_S
    time.sleep(QUIET_S)
    while True:
        seen = rig.look()
        if not rig.runs or all(
            shows(side.model, found, rig.up)
            for name, pair in rig.pairs.items()
            for side, found in zip(pair, seen[name], strict=True)
        ):
            return seen
        assert time.monotonic() < deadline, seen


def shows(model: GuestModel, seen: Seen, up: bool) -> bool:
    """The link's bit, and the carrier that follows from it."""
    if model.link is None:
        return True
    if model.link.register == "carrier":
        return seen.carrier == str(int(up))
    value = seen.registers[model.link.register]
    if value is None or (bool(value & model.link.mask) == model.link.up) != up:
        return False
    return model.polls or seen.carrier == str(int(up))


def run(rig: Rig, steps: Sequence[Step] = STEPS) -> dict[str, list[Difference]]:
    """By model, all differences."""
    settle(rig)
    different: dict[str, list[Difference]] = {name: [] for name in rig.pairs}
    for number, step in enumerate(steps, 1):
        before = rig.up
        for attempt in range(ATTEMPTS if step.repeats else 1):
            if attempt:
                rig.set_link(True, "netdev")  # both ends
                if not before:
                    rig.set_link(False)
                settle(rig)
            found = _once(rig, step)
            if not any(found.values()):
                break
        for name, values in found.items():
            different[name] += [
                Difference(f"{number}. {step.title}", *value)
                for value in values
                # A driver that starts interrupts as often as its start happens to take.
                if step.repeats or value[0] != "interrupts"
            ]
    return different


Values = list[tuple[str, object, object]]


def _once(rig: Rig, step: Step) -> dict[str, Values]:
    """Do a step; by model, what stays different."""
    started = time.monotonic()
    rig.begin()
    step.do(rig)
    seen = settle(rig)
    deadline = time.monotonic() + AGREE_S
    while True:
        found = compare(rig, seen, time.monotonic() - started)
        if not any(found.values()) or time.monotonic() > deadline:
            return found
        seen = rig.look()


def compare(rig: Rig, seen: Mapping[str, tuple[Seen, Seen]], elapsed_s: float) -> dict[str, Values]:
    """By model: what, vnic's and QEMU's, without what differs on purpose."""
    result: dict[str, Values] = {}
    for name, (ours, theirs) in seen.items():
        model = rig.pairs[name][0].model
        result[name] = [
            (what, value, theirs.values()[what])
            for what, value in ours.values().items()
            if value != theirs.values()[what]
            and what not in model.differs
            and (rig.runs or f"{what} while down" not in model.differs)
            and not (what == "interrupts" and _is_own(rig, model, ours, theirs, elapsed_s))
            and not (model.polls and what in ("carrier", "log"))
        ]
    return result


def _is_own(rig: Rig, model: GuestModel, ours: Seen, theirs: Seen, elapsed_s: float) -> bool:
    """Whether the interrupts differ by no more than those that drivers on the same line ask for themselves, and those
    that come again because the cause is still there when QEMU unmasks."""
    line = rig.pairs[model.name][0].line
    sharing = (
        [model] if line is None else [pair[0].model for pair in rig.pairs.values() if pair[0].line == line]
    )
    spare = sum(1 + int(elapsed_s / each.own_interrupts_s) for each in sharing if each.own_interrupts_s)
    more = theirs.interrupts if any(each.reads_first for each in sharing) else 0
    return -spare <= ours.interrupts - theirs.interrupts <= spare + more
