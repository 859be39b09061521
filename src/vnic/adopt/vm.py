"""AdoptedVm: an object that makes the NICs of a running VM part of vnic. Its hypervisor sets their links.

`qemu` makes it for `-object qemu`. The NICs are named `OBJECT/NAME`; they stay while the VM is away, and what vnic
wants of their links is put back when it returns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from vnic.adopt.hypervisor import NICS_MAX, FoundNic, Hypervisor
from vnic.adopt.nic import LINK_DOWN, AdoptedNic
from vnic.adopt.record import KEY, AdoptedNicRecord, AdoptedVmRecord
from vnic.backend.items import CLIENT, Kind, key_of
from vnic.keep import NO_HANDLES, NO_KEPT, NoHandles
from vnic.net.client_record import NetClientRecord
from vnic.net.objects import NetObject
from vnic.printable import one_line
from vnic.record import RecordError

if TYPE_CHECKING:
    from vnic.adopt.agent import AgentWatch
    from vnic.backend.base import BackendContext
    from vnic.net.client import NetClient

log = logging.getLogger(__name__)

LOOKING: Final = "it is being looked for"
TEXT_MAX: Final = 300


class AdoptedVm(NetObject):
    """One VM. It is the VmListener of its hypervisor."""

    def __init__(
        self, context: BackendContext, object_id: str, type_: str, hypervisor: Hypervisor, *, agent: bool
    ) -> None:
        """`agent`: the hypervisor may have a guest agent to ask."""
        super().__init__(object_id)
        self.type = type_
        self.hypervisor = hypervisor
        self.loop = context.loop
        self.there = False
        self.text = LOOKING
        """What is known of the VM, for people."""
        self.nics: dict[str, AdoptedNic] = {}
        """By the hypervisor's name for each."""
        self._context = context
        self._network = context.network
        self._described = ""
        self._state = ""
        self._identity = ""
        self._kept = NO_KEPT
        self._agent: AgentWatch | None = None
        self._parted = False
        self._too_many = False
        """That it has too many NICs was told."""
        if agent:
            from vnic.adopt.agent import AgentWatch  # here, since most runs have none

            self._agent = AgentWatch(self.loop, hypervisor.ask_agent, self.nics)

    # -- the object ---------------------------------------------------------------------------------------------

    def setup(self) -> None:
        keep = self._context.keep
        key = f"{KEY}/{self.id}"
        found = keep.inherited(key, AdoptedVmRecord, NoHandles)
        self._kept = keep.unit(key, self)
        if found is not None:
            self.restore(found[0])
        self.loop.call_soon(self._start)

    def _start(self) -> None:
        if not self._parted:
            self.hypervisor.start(self)

    def made(self) -> Iterable[NetClient]:
        return [adopted.client for adopted in self.nics.values()]

    def part(self) -> None:
        """Let the VM go with its links as they are."""
        if self._parted:
            return
        self._parted = True
        self.hypervisor.close()
        if self._agent is not None:
            self._agent.close()
        for name, adopted in self.nics.items():
            if self.there and adopted.shown is False and adopted.touched:
                self.warn(f"{adopted.client.name}: the link of {name} stays down in the VM")
        self.there = False
        for adopted in list(self.nics.values()):
            self._network.delete_nic(adopted.client.name)
        self.nics.clear()

    def cleanup(self) -> None:
        gone = [adopted.nic for adopted in self.nics.values()]
        self.part()
        self._kept.end()
        for nic in gone:
            self._network.emit("DEVICE_DELETED", {"device": nic.name, "path": nic.path})

    def all_properties(self) -> dict[str, object]:
        return {
            **self.options_shown(),
            "there": self.there,
            "status": self.text,
            "nics": ",".join(adopted.client.name for adopted in self.nics.values()),
        }

    def options_shown(self) -> dict[str, object]:
        """The options of the object, as QOM's properties."""
        return {}

    # -- VmListener ---------------------------------------------------------------------------------------------

    def vm_there(self, nics: Sequence[FoundNic], state: str, text: str) -> None:
        self._described, self._state = one_line(text)[:TEXT_MAX], one_line(state)[:TEXT_MAX]
        self.there = True
        self._say()
        log.info("%s: %s at %s, %d NICs", self.id, self.text, one_line(self.hypervisor.where), len(nics))
        if self._agent is not None:
            self._agent.vm_there()
        identity = self.hypervisor.identity
        same, self._identity = identity != "" and identity == self._identity, identity
        for adopted in self._sync(nics):
            adopted.vm_there(adopted.found, same=same)
        self.changed()

    def vm_gone(self, text: str, *, violated: bool = False) -> None:
        text = f"not there: {one_line(text)[:TEXT_MAX]}"
        if text != self.text:
            log.log(
                logging.WARNING if self.there or violated else logging.INFO,
                "%s: %s: %s",
                self.id,
                one_line(self.hypervisor.where),
                text,
            )
        self.text, self.there = text, False
        if self._agent is not None:
            self._agent.vm_gone()
        for adopted in list(self.nics.values()):
            adopted.vm_gone()

    def nics_changed(self, nics: Sequence[FoundNic]) -> None:
        before = set(self.nics)
        for adopted in self._sync(nics):
            if adopted.found.name not in before:
                adopted.vm_there(adopted.found)
            else:
                adopted.told(adopted.found.up)
        self.changed()

    def run_state(self, state: str) -> None:
        self._state = one_line(state)[:TEXT_MAX]
        if self.there:
            self._say()

    def guest_reset(self) -> None:
        for adopted in self.nics.values():
            adopted.attached()
        if self._agent is not None:
            self._agent.guest_reset()

    def netdev_connected(self, nic: str, connected: bool, text: str, link: bool | None = None) -> None:
        adopted = self.nics.get(nic)
        if adopted is not None:
            adopted.netdev.call(connected, one_line(text)[:TEXT_MAX], link)

    def agent_changed(self, there: bool, text: str) -> None:
        if self._agent is not None:
            self._agent.agent_changed(there, one_line(text)[:TEXT_MAX])

    # -- NICs ---------------------------------------------------------------------------------------------------

    def _sync(self, nics: Sequence[FoundNic]) -> list[AdoptedNic]:
        """Make the NICs those of this list."""
        if (too_many := len(nics) > NICS_MAX) and not self._too_many:
            self.warn(f"{self.id}: the VM has more than {NICS_MAX} NICs, of which {NICS_MAX} are adopted")
        self._too_many = too_many
        found = {nic.name: nic for nic in nics[:NICS_MAX]}
        for name in [name for name in self.nics if name not in found]:
            self._remove(name)
        for name, nic in found.items():
            there = self.nics.get(name)
            if there is not None and (there.found.mac, there.client.model) != (nic.mac, nic.model):
                self._remove(name)  # another one of that name
                there = None
            if there is None:
                self._adopt(AdoptedNic(self, nic), None)
            else:
                there.found = nic
        return [self.nics[name] for name in found]

    def _adopt(self, adopted: AdoptedNic, record: NetClientRecord | None) -> None:
        found, keep = adopted.found, self._context.keep
        name = f"{self.id}/{found.name}"
        key = key_of(CLIENT, Kind.DEVICE, name)

        def restore() -> None:
            assert record is not None
            try:
                adopted.client.restore(record, same_boot=True)
            except RecordError as error:
                keep.refused(key, error)

        nic = self._network.adopt_nic(
            name,
            found.model,
            adopted,
            mac=found.mac,
            path=f"/objects/{name}",
            by=self.id,
            held=LINK_DOWN if record is None and found.up is False else None,
            start=None if record is None else restore,
        )
        nic.kept = keep.unit(key, nic)
        self.nics[found.name] = adopted

    def restore(self, record: AdoptedVmRecord) -> None:
        """Have the NICs that the process before had. Their hypervisor is looked for as at any start."""
        self._identity = record.identity
        for each in record.nics:
            self._restore(each)

    def _restore(self, record: AdoptedNicRecord) -> None:
        """A NIC that the process before had."""
        found = FoundNic(record.name, record.model, record.mac, None, record.netdev)
        adopted = AdoptedNic(self, found, known=record.known, touched=record.touched)
        key = key_of(CLIENT, Kind.DEVICE, f"{self.id}/{record.name}")
        saved = self._context.keep.inherited(key, NetClientRecord, NoHandles)
        self._adopt(adopted, None if saved is None else saved[0])

    def _remove(self, name: str) -> None:
        nic = self.nics.pop(name).nic
        if self._agent is not None:
            self._agent.forget(name)
        self._network.delete_nic(nic.name)
        self._network.emit("DEVICE_DELETED", {"device": nic.name, "path": nic.path})

    # -- NicHost ------------------------------------------------------------------------------------------------

    def link_set(self, name: str) -> None:
        if self._agent is not None:
            self._agent.look(self.nics[name])

    def agent_text(self, name: str) -> str | None:
        return None if self._agent is None else self._agent.text(name)

    # -- the rest -----------------------------------------------------------------------------------------------

    def _say(self) -> None:
        self.text = ", ".join(filter(None, (self._described, self._state)))

    def warn(self, text: str) -> None:
        log.warning("%s", text)

    def changed(self) -> None:
        """What `save_kept` saves is another."""
        self._kept.changed()

    def save_kept(self) -> tuple[AdoptedVmRecord, NoHandles]:
        return self.save(), NO_HANDLES

    def save(self) -> AdoptedVmRecord:
        nics = [
            AdoptedNicRecord(
                name=name,
                model=adopted.client.model,
                mac=adopted.found.mac,
                netdev=adopted.found.netdev,
                known=adopted.known,
                touched=adopted.touched,
            )
            for name, adopted in self.nics.items()
        ]
        return AdoptedVmRecord(nics=nics, identity=self._identity)
