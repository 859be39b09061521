"""Brings a lab up, or changes a running one to what its file says now; all of it or nothing.

`verb` calls `bring_up`. A lab that fails to come up is taken down; a change that fails is taken back.
"""

from __future__ import annotations

import contextlib
import copy
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self

from vnic.backend import NETDEVS
from vnic.cli.client import Refused
from vnic.cli.show import duration
from vnic.filter import OBJECTS
from vnic.lab.file.names import nic_id
from vnic.lab.file.plan import Guest, Plan, Step, make_plan, steps, take, types
from vnic.lab.file.types import Lab
from vnic.lab.guest import kit, qemu_kit
from vnic.lab.guest.cache import cache_folder
from vnic.lab.guest.errors import GuestError
from vnic.lab.live import guests, vnic, wire
from vnic.lab.live.down import clean
from vnic.lab.live.guests import Holders
from vnic.lab.live.holder import Told
from vnic.lab.live.place import Place, Record, place_of

Say = Callable[[str], None]

_INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)


def missing(plan: Plan) -> list[str]:
    """What the plan needs and this vnic does not have, each in words."""
    netdevs, objects = types(plan)
    return [
        *(
            f"this vnic has no netdev of type {name}, which the lab needs"
            for name in sorted(netdevs - NETDEVS.keys())
        ),
        *(
            f"this vnic has no object of type {name}, which impairments need"
            for name in sorted(objects - OBJECTS.keys())
        ),
    ]


def bring_up(lab: Lab, file: str, say: Say, web: Sequence[str] = ()) -> None:
    """Start the lab, or apply its file to the running one. Refused names what failed; then nothing has changed. `web`:
    options for the pages of a lab that is started."""
    place = place_of(lab.name)
    plan = make_plan(lab, str(place.folder))
    if texts := missing(plan):
        raise Refused("; ".join(texts))
    _fetch_kits(plan, say)
    with _Interrupts() as interrupts, place.locked():
        record = place.read()
        if record is not None and record.complete and vnic.alive(place, record.vnic_pid):
            if web:
                raise Refused(f"lab '{lab.name}' runs already: -web is for its start")
            _change(place, record, Record(file, lab, plan, record.vnic_pid), say)
        else:
            if record is not None:
                say(f"{lab.name}: removing what is left of an earlier one")
            clean(place, record)
            _start(place, Record(file, lab, plan), say, interrupts, web)
        for end in (end for link in lab.links for end in (link.a, link.b)):
            if lab.nodes[end.node].kind == "socket":
                attach = plan.nics[nic_id(end)]["attach"]
                say(f"{end}: plug its VM into {attach['path']} ({attach['type']})")


def _fetch_kits(plan: Plan, say: Say) -> None:
    """Have what the guests are made of before any of them starts."""
    kinds = {each.kind for each in plan.guests.values() if each.keys.program is None}
    if "uml" in kinds and kit.find_uml() is None:
        say(f"downloading User-Mode Linux into {cache_folder()} …")
        kit.download_kit()
    if "qemu" in kinds and qemu_kit.find_qemu() is None:
        say(f"downloading QEMU and a kernel into {cache_folder()} …")
        qemu_kit.download_kit()


class _Interrupts:
    """SIGTERM counts as Ctrl-C; after the first, further ones do not disturb the way back. A context manager."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._held = False
        self._came = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._interrupt) for number in _INTERRUPTS}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: object) -> None:
        if self._came:
            return
        self._came = True
        if not self._held:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is done within is done whole, as a start whose process id is not known before its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            raise KeyboardInterrupt


def _start(place: Place, record: Record, say: Say, interrupts: _Interrupts, web: Sequence[str]) -> None:
    """All or nothing: whatever goes wrong, also Ctrl-C, nothing stays behind."""
    holders = None
    try:
        place.write(record)
        with interrupts.held():
            record.vnic_pid = vnic.start(place, web, say)
        place.write(record)
        holders = Holders(place, record.vnic_pid)
        _Way(place, Plan(), holders, say).to(record.plan)
        _wait_links(place, record, say)
        record.complete = True
        place.write(record)
        holders.keep()
    except BaseException:
        if holders is not None:
            holders.end()
        clean(place, record)
        place.remove()
        raise


def _change(place: Place, old: Record, new: Record, say: Say) -> None:
    """The same for a running lab: what fails is taken back."""
    running = copy.deepcopy(old.plan)
    for name in [name for name in running.guests if guests.is_up(place, name) is None]:
        say(f"{name}: it has ended")
        del running.guests[name]
    todo = steps(running, new.plan)
    if not todo:
        say(f"{new.lab.name}: nothing differs")
        place.write(Record(new.file, new.lab, new.plan, old.vnic_pid, complete=True))
        return
    holders = Holders(place, old.vnic_pid)
    way = _Way(place, running, holders, say)
    try:
        way.to(new.plan)
        _wait_links(place, new, say)
        new.complete = True
        place.write(new)
        holders.keep()
    except BaseException:
        holders.end()
        say(f"{new.lab.name}: taking the change back")
        _back(place, way, old, say)
        raise


def _back(place: Place, way: _Way, old: Record, say: Say) -> None:
    """To the plan as it was. What cannot be had back is said, and the record tells what there is."""
    for name in [name for name in way.plan.guests if guests.is_up(place, name) is None]:
        del way.plan.guests[name]
    holders = way.holders = Holders(place, old.vnic_pid)
    try:
        way.to(old.plan)
    except (Refused, GuestError, OSError) as error:
        say(f"{old.lab.name}: not all is as it was: {error}")
    holders.keep()
    place.write(Record(old.file, old.lab, way.plan, old.vnic_pid, complete=True))


class _Way:
    """From one plan to another; `plan` is what there is at any moment."""

    def __init__(self, place: Place, plan: Plan, holders: Holders, say: Say) -> None:
        self._place = place
        self._say = say
        self.plan = plan
        self.holders = holders

    def to(self, new: Plan) -> None:
        todo = steps(self.plan, new)

        def done(step: Step) -> None:
            take(self.plan, step, new)

        stopped = [step for step in todo if step.do == "stop"]
        for step in stopped:
            self._say(f"{step.name}: ending its guest")
        guests.stop(self._place, [step.name for step in stopped])
        for step in stopped:
            done(step)
        commands = [step for step in todo if step.do not in ("stop", "boot")]
        vnic.execute(self._place, commands, done)
        if commands:
            self._say(f"vnic: {_counted(commands)}")
        booted = [new.guests[step.name] for step in todo if step.do == "boot"]

        def tell(name: str, told: Told) -> None:
            done(Step("boot", name))
            self._say(f"{name}: up after {duration(told.seconds)} ({told.label})")

        self.holders.boot(booted, tell)
        for guest in booted:
            self._run_commands(guest)

    def _run_commands(self, guest: Guest) -> None:
        for command in guest.keys.exec or ():
            output = bytearray()
            status = wire.run(self._place.control(guest.name), command, output.extend)
            said = output.decode(errors="replace").strip()
            if status:
                raise Refused(f"node '{guest.name}': `{command}` ended with status {status}: {said}")
            for line in said.splitlines():
                self._say(f"{guest.name}: {line}")


_WORDS: Final = {
    "netdev_add": ("netdev", "added"),
    "netdev_del": ("netdev", "deleted"),
    "device_add": ("NIC", "added"),
    "device_del": ("NIC", "deleted"),
    "link-impair": ("impairment", "set or cleared"),
    "set_link": ("end", "plugged or pulled"),
}


def _counted(commands: Sequence[Step]) -> str:
    counts = Counter(step.do for step in commands)
    return ", ".join(
        f"{counts[do]} {noun}{'s' * (counts[do] > 1)} {verb}"
        for do, (noun, verb) in _WORDS.items()
        if do in counts
    )


def _wait_links(place: Place, record: Record, say: Say) -> None:
    """Wait for the links between guests whose drivers are ready by now; say which stay down, and which are down that
    wait for something beyond this lab."""
    lab = record.lab

    nics, others = [], []
    for link in lab.links:
        if link.down or not lab.nodes[link.a.node].built_in:
            continue
        if lab.nodes[link.b.node].built_in:
            nics += [nic_id(link.a), nic_id(link.b)]
        elif lab.nodes[link.b.node].kind == "hub":
            nics.append(nic_id(link.a))
        elif lab.nodes[link.b.node].kind != "socket":
            others.append(nic_id(link.a))
    for entry in vnic.wait_settled(place, nics, others) if nics or others else ():
        held = "; ".join(str(hold["text"]) for hold in entry["holds"])
        say(f"{entry['name']}: still down: {held}")
