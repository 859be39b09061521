"""`-object qemu`: a VM under QEMU, by its QMP socket and that of its guest agent.

The registry of objects calls `make`. QEMU tells of no link, so that links are assumed to be up until they are set; it
tells of no new NIC either, so that its list is asked for now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vnic.adopt.hypervisor import NICS_MAX, FoundNic, HypervisorError, VmListener
from vnic.adopt.info_network import Listed, listed
from vnic.adopt.options import QemuOptions
from vnic.adopt.qga import AgentConnection
from vnic.adopt.qmp import QmpConnection, State
from vnic.adopt.vm import AdoptedVm
from vnic.protocol.qmp.client import Event

if TYPE_CHECKING:
    from vnic.backend.base import BackendContext

LIST_S: Final = 3.0
"""How often the NICs are asked for, without an event."""
LIST_SHARE: Final = 20
"""A list that takes long is asked for seldom: the pause is at least so many times as long."""
CHANGED_S: Final = 0.05
"""The pause for each NIC that came or went with the last list: each is a record of the journal."""
AGAIN_S: Final = 0.2
"""The pause before a VM that is there, but does not list its NICs, is asked again."""

_STATES: Final = {
    "STOP": "paused",
    "RESUME": "running",
    "SHUTDOWN": "shutdown",
    "SUSPEND": "suspended",
    "WAKEUP": "running",
    "GUEST_PANICKED": "guest-panicked",
}
"""Events that tell of another run state."""
_NICS_CHANGE: Final = frozenset(("DEVICE_DELETED", "ACPI_DEVICE_OST", "NIC_RX_FILTER_CHANGED", "RESUME"))
"""Events after which other NICs may be there."""


class QemuHypervisor:
    """A Hypervisor: one QEMU after another at one path."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: QemuOptions) -> None:
        """Raises NetError for a path that no socket can have."""
        self._loop = loop
        self._options = options
        self._qmp = QmpConnection(loop, options.qmp, ready=self._ready, event=self._event, lost=self._lost)
        self._agent = None if options.qga is None else AgentConnection(loop, options.qga, self._agent_changed)
        self._vm: VmListener | None = None
        self._version = ""
        self._there = False
        self._task: asyncio.Task[None] | None = None
        """Asks for the list of NICs."""
        self._timer: asyncio.TimerHandle | None = None
        self._list_from = 0.0
        """No list is asked for before this time."""
        self._names: set[tuple[str, str, bytes]] = set()
        """What tells one NIC from another."""
        self._by_netdev: dict[str, list[str]] = {}
        self._types: dict[str, str] = {}
        """By netdev."""
        self._identity = ""

    # -- Hypervisor ---------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        return f"qmp={self._options.qmp}"

    @property
    def identity(self) -> str:
        return self._identity

    def start(self, vm: VmListener) -> None:
        self._vm = vm
        self._qmp.start()

    def set_link(self, nic: str, up: bool) -> asyncio.Future[None]:
        return self._qmp.execute("set_link", {"name": nic, "up": up})

    def ask_agent(self, command: str, arguments: Mapping[str, object]) -> asyncio.Future[object]:
        if self._agent is None:
            future: asyncio.Future[object] = self._loop.create_future()
            future.set_exception(HypervisorError("no agent was named"))
            return future
        return self._agent.execute(command, arguments)

    def close(self) -> None:
        if self._qmp.state is not State.CLOSED:
            self._qmp.close()
        if self._agent is not None:
            self._agent.close()
        self._end_session()

    # -- QmpConnection ------------------------------------------------------------------------------------------

    def _ready(self, version: str) -> None:
        self._version = version
        self._identity = self._qmp.peer
        self._list()

    def _lost(self, text: str, violated: bool) -> None:
        self._end_session()
        assert self._vm is not None
        self._vm.vm_gone(text, violated=violated)

    def _end_session(self) -> None:
        self._there = False
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._agent is not None:
            self._agent.stop()

    def _event(self, event: Event) -> None:
        vm = self._vm
        if vm is None or not self._there:
            return  # the list that is under way has it
        match event.name:
            case "RESET":
                vm.guest_reset()
            case "NETDEV_STREAM_CONNECTED" | "NETDEV_STREAM_DISCONNECTED":
                # QEMU tells the NIC nothing.
                self._netdev(event, event.name.endswith("_CONNECTED"), tells_nic=False)
            case "NETDEV_VHOST_USER_CONNECTED" | "NETDEV_VHOST_USER_DISCONNECTED":
                self._netdev(event, event.name.endswith("_CONNECTED"), tells_nic=True)
            case "VSERPORT_CHANGE" if self._agent is not None:
                self._agent.retry()
        if event.name in _STATES:
            vm.run_state(_STATES[event.name])
        if event.name in _NICS_CHANGE:
            self._list()

    def _netdev(self, event: Event, connected: bool, *, tells_nic: bool) -> None:
        assert self._vm is not None
        netdev = event.data.get("netdev-id")
        if not isinstance(netdev, str):
            return
        for nic in self._by_netdev.get(netdev, ()):
            text = _text(self._types.get(netdev, "netdev"), netdev, connected=connected)
            self._vm.netdev_connected(nic, connected, text, connected if tells_nic else None)

    def _agent_changed(self, there: bool, text: str) -> None:
        if self._vm is not None:
            self._vm.agent_changed(there, text)

    # -- the list of NICs ---------------------------------------------------------------------------------------

    def _list(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        pause = self._list_from - self._loop.time()
        self._timer = self._loop.call_later(pause if pause > 0 else LIST_S, self._list)
        if pause > 0:
            return
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._find_nics())
        elif not self._there:
            assert self._vm is not None
            self._vm.vm_gone("it does not answer")

    async def _find_nics(self) -> None:
        try:
            if self._there:
                self._found(await self._ask_for_nics())
            else:
                await self._find_all()
        except HypervisorError as error:
            if self._qmp.state is State.READY and self._timer is not None and not self._there:
                assert self._vm is not None
                self._vm.vm_gone(f"it does not list its NICs: {error}")
                self._timer.cancel()
                self._timer = self._loop.call_later(AGAIN_S, self._list)

    async def _ask_for_nics(self) -> list[Listed]:
        text = await self._qmp.execute("human-monitor-command", {"command-line": "info network"})
        if not isinstance(text, str):
            raise HypervisorError("its answer to `info network` is no text")
        began = time.thread_time()
        nics = listed(text)[: NICS_MAX + 1]
        self._list_from = self._loop.time() + LIST_SHARE * (time.thread_time() - began)
        return nics

    async def _find_all(self) -> None:
        """The VM is there, for vnic: what it is, and what was before it came."""
        assert self._vm is not None
        status = self._qmp.execute("query-status")
        nics = await self._ask_for_nics()
        match await status:
            case {"status": str(state)}:
                pass
            case _:
                state = "of an unknown state"
        missing = await self._unconnected_chardevs() if any(nic.chardev for nic in nics) else set()
        self._there = True
        self._note(nics)
        if self._agent is not None:
            self._agent.start()
        self._vm.vm_there([_found(nic) for nic in nics], state, f"QEMU {self._version}")
        for nic in nics:
            if nic.unconnected or (nic.chardev is not None and nic.chardev in missing):
                text = _text(nic.type, nic.netdev, connected=False)
                self._vm.netdev_connected(nic.name, False, text, None if nic.type == "stream" else False)
            else:
                self._vm.netdev_connected(nic.name, True, f"{nic.netdev or nic.name} is plugged in")

    def _found(self, nics: Sequence[Listed]) -> None:
        assert self._vm is not None
        before = self._names
        self._note(nics)
        self._list_from += CHANGED_S * len(before ^ self._names)
        self._vm.nics_changed([_found(nic) for nic in nics])
        for nic in nics:
            if nic.unconnected and (nic.name, nic.model, nic.mac) not in before:
                self._vm.netdev_connected(nic.name, False, _text(nic.type, nic.netdev, connected=False))

    def _note(self, nics: Sequence[Listed]) -> None:
        self._names = {(nic.name, nic.model, nic.mac) for nic in nics}
        self._by_netdev, self._types = {}, {}
        for nic in nics:
            self._by_netdev.setdefault(nic.netdev, []).append(nic.name)
            self._types[nic.netdev] = nic.type

    async def _unconnected_chardevs(self) -> set[str]:
        found = set()
        answer = await self._qmp.execute("query-chardev")
        for each in answer if isinstance(answer, list) else ():
            match each:
                case {"label": str(label), "filename": str(filename)} if filename.startswith("disconnected:"):
                    found.add(label)
        return found


def _found(nic: Listed) -> FoundNic:
    return FoundNic(nic.name, nic.model, nic.mac, None, nic.text)


def _text(kind: str, netdev: str, *, connected: bool) -> str:
    return f"{kind} netdev {netdev} of the VM is {'connected' if connected else 'not connected'}"


class QemuVm(AdoptedVm):
    """The object."""

    def __init__(self, context: BackendContext, options: QemuOptions) -> None:
        super().__init__(
            context,
            options.id,
            "qemu",
            QemuHypervisor(context.loop, options),
            agent=options.qga is not None,
        )
        self.options = options

    def options_shown(self) -> dict[str, object]:
        return {"qmp": self.options.qmp, "qga": self.options.qga or ""}


def make(context: BackendContext, options: Any) -> QemuVm:
    """Raises NetError for options that cannot be."""
    return QemuVm(context, options)
