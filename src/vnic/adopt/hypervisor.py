"""What an adopted VM needs of its hypervisor, and tells it: Hypervisor and VmListener.

`qemu` speaks QMP behind it. `vm.AdoptedVm` is the listener. All calls, both ways, are made in the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

NICS_MAX: Final = 256
"""The most NICs of one VM that are adopted."""


AGENT_PORT: Final = "org.qemu.guest_agent.0"
"""The name of the virtio-serial port that a guest agent opens."""


class FoundNic(msgspec.Struct, frozen=True):
    """A NIC as the hypervisor lists it."""

    name: str
    """What `Hypervisor.set_link` takes."""
    model: str
    mac: bytes
    up: bool | None = None
    """Its link; None: the hypervisor does not tell."""
    netdev: str = ""
    """For people: what it is plugged into there."""


class HypervisorError(Exception):
    """The hypervisor refused, or is gone; `str()` is for a person."""


class AgentRefused(HypervisorError):
    """The guest agent answered, with an error."""


class VmListener(Protocol):
    """What a Hypervisor tells."""

    def vm_there(self, nics: Sequence[FoundNic], state: str, text: str) -> None:
        """The VM is there, for the first time or again; `nics` are all that it has. `state` is the hypervisor's word
        (`running`, `paused`, `prelaunch`), `text` what runs it (`QEMU 11.1.3`)."""

    def vm_gone(self, text: str, *, violated: bool = False) -> None:
        """The VM is not there, or cannot be reached, and why. Told at each change of the reason; the first may come
        before `vm_there`. `violated`: what listens there does not speak the protocol."""

    def nics_changed(self, nics: Sequence[FoundNic]) -> None:
        """NICs were added or removed; `nics` are all, or more than NICS_MAX of them."""

    def run_state(self, state: str) -> None:
        """The VM runs, or pauses."""

    def guest_reset(self) -> None:
        """The guest boots anew: what it had seen is past."""

    def netdev_connected(self, nic: str, connected: bool, text: str, link: bool | None = None) -> None:
        """The far end of what a NIC is plugged into there came or went. `link`: the hypervisor itself has set the
        NIC's link with it, to this."""

    def agent_changed(self, there: bool, text: str) -> None:
        """The guest agent answers, or does not; `text` says so for people."""


class Hypervisor(Protocol):
    """One VM at its hypervisor. `set_link` and `ask_agent` are called only between `vm_there` and `vm_gone`, at which
    what is pending fails."""

    @property
    def where(self) -> str:
        """How it is reached, for people: `qmp=PATH`."""

    @property
    def identity(self) -> str:
        """While the VM is there: another text for each start of it, such as that of a process; "" if unknown."""

    def start(self, vm: VmListener) -> None:
        """Begin to look for the VM, and go on for ever. It neither waits nor raises."""

    def set_link(self, nic: str, up: bool) -> asyncio.Future[None]:
        """Set a NIC's link. Calls are carried out in their order. HypervisorError in the future, which is done before
        the listener is told of what came after it."""

    def ask_agent(self, command: str, arguments: Mapping[str, object]) -> asyncio.Future[object]:
        """The `return` of a guest agent's command, of the agent that runs now. One at a time. HypervisorError in the
        future: AgentRefused where it answered so."""

    def close(self) -> None:
        """Let the VM go, as it is."""
