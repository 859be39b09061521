"""AdoptedNic: the end of an adopted VM's NIC. It has the hypervisor set the link that vnic wants.

`vm.AdoptedVm` makes one for each NIC. One request of a NIC is under way at a time; when it is answered, the newest
state is asked for if it is another.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from vnic.adopt.hypervisor import FoundNic, Hypervisor, HypervisorError
from vnic.adopt.limits import Newest
from vnic.net.client import Endpoint, Nic
from vnic.net.records import Adopted, HoldKind, ShownBy, VmInfo, link_word
from vnic.printable import one_line

LINK_DOWN: Final = "the hypervisor has the link down"
"""Until vnic is asked to set a link, it is as the hypervisor says."""
RETRY_S: Final = 1.0
"""The pause before a request is repeated that the hypervisor refused."""
NETDEV_CHANGES, NETDEV_S = 20, 10.0
"""So many comings and goings of the far end of a netdev are recorded in this time, as of a guest."""
SLOW_S: Final = 1.0
"""A request without an answer for so long is worth a word."""


class NicHost(Protocol):
    """The part of AdoptedVm that its NICs use."""

    id: str
    there: bool
    text: str
    loop: asyncio.AbstractEventLoop
    hypervisor: Hypervisor

    def link_set(self, name: str) -> None:
        """The hypervisor has set the link of the NIC of that name."""

    def agent_text(self, name: str) -> str | None:
        """What is known of the guest agent; None: none was named."""

    def warn(self, text: str) -> None: ...

    def changed(self) -> None:
        """What outlives the process is another."""


class AdoptedNic(Endpoint):
    """The endpoint of one NIC."""

    elsewhere = True

    def __init__(self, vm: NicHost, found: FoundNic, *, known: bool = False, touched: bool = False) -> None:
        """`known`, `touched`: of the process before."""
        self._vm = vm
        self.found = found
        self.known = known or found.up is not None
        """Whether vnic has learned or set the link at least once; until then it is assumed."""
        self.touched = touched
        """Whether vnic has been asked to set the link."""
        self.shown: bool | None = found.up
        """The link that the hypervisor shows; None: unknown, as after its start."""
        self._request: asyncio.Future[None] | None = None
        """What is under way."""
        self._asked = False
        """The state that it asks for."""
        self._asked_at = 0.0
        self._refused = ""
        """Why the last request failed."""
        self._retry: asyncio.TimerHandle | None = None
        self.netdev = Newest(vm.loop, self._netdev_connected, count=NETDEV_CHANGES, seconds=NETDEV_S)
        """Whether the far end of what it is plugged into is connected, why, and the link that the hypervisor has set
        with it."""
        self.count = 0
        """How often the hypervisor has changed the link since the VM came, and the guest should have seen it."""

    @property
    def nic(self) -> Nic:
        client = self.client
        assert isinstance(client, Nic)
        return client

    # -- the link -----------------------------------------------------------------------------------------------

    def link_status_changed(self) -> None:
        if not self.touched:
            self.touched = True
            self._vm.changed()
        self.update()

    def link_shown(self) -> bool | None:
        return self.shown

    @property
    def settled(self) -> bool | None:
        """The link that the hypervisor shows, or is assumed to show; None: it is to change."""
        up = self.client.link_up
        if self._request is not None or self._retry is not None:
            return None
        return up if self.shown is up or (self.shown is None and up and not self.touched) else None

    def update(self) -> None:
        """Have the hypervisor show the link, if it does not."""
        up = self.client.link_up
        if not self._vm.there or self._request is not None or self._retry is not None:
            return
        if self.shown is up:
            self.nic.report.notified(up, interrupts=False)
            return
        if up and self.shown is None and not self.touched:
            return  # it is assumed to be so
        self.touched = True
        self._asked, self._asked_at = up, time.monotonic()
        self._request = self._vm.hypervisor.set_link(self.found.name, up)
        self._request.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if future is not self._request:
            return  # that VM is gone
        self._request = None
        if future.cancelled():
            return
        asked = self._asked
        if error is None:
            self._refused = ""
            self.set_shown(asked)
        elif isinstance(error, HypervisorError):
            text = one_line(str(error))
            if not self._refused:
                self._vm.warn(f"{self.client.name}: the link is not set {link_word(asked)}: {text}")
            self._refused = text
            self._retry = self._vm.loop.call_later(RETRY_S, self._again)
            return
        else:
            raise error
        self.update()

    def set_shown(self, up: bool) -> None:
        """The hypervisor has set the link."""
        if self.shown is (not up) or (self.shown is None and not self.known and not up):
            self.count += 1
        self.shown = up
        if not self.known:
            self.known = True
            self._vm.changed()
        if up is self.client.link_up:
            self.nic.report.notified(up, interrupts=False)
        self._vm.link_set(self.found.name)

    def told(self, up: bool | None) -> None:
        """The hypervisor has the link `up` (None: it does not tell), which vnic may not have asked for: another client
        of the hypervisor is an operator, too."""
        if up is None or up is self.shown or self._request is not None or self._retry is not None:
            return
        self.set_shown(up)
        self._follow(up, f"another client of the hypervisor set the link {link_word(up)}")
        self.update()

    def _follow(self, up: bool, text: str) -> None:
        """The operator is at the hypervisor."""
        if up:
            self.client.release(HoldKind.OPERATOR, self._vm.id, text)
        else:
            self.client.hold(HoldKind.OPERATOR, self._vm.id, text)

    def _netdev_connected(self, connected: bool, text: str, link: bool | None) -> None:
        if link is not None:
            self.set_shown(link)
        if connected:
            self.client.release(HoldKind.DISCONNECTED, self._vm.id, text)
        else:
            self.client.hold(HoldKind.DISCONNECTED, self._vm.id, text)
        self.update()

    def _again(self) -> None:
        self._retry = None
        self.update()

    # -- the VM -------------------------------------------------------------------------------------------------

    def vm_there(self, found: FoundNic, *, same: bool = False) -> None:
        """The VM is there, and has this NIC. `same`: it is the one that was there before."""
        self._forget()
        self.found = found
        self.known = self.known or found.up is not None
        self.shown = found.up
        self.count = 0
        if found.up is not None and not self.touched:
            self._follow(found.up, LINK_DOWN if not found.up else "the hypervisor has the link up")
            self.touched = False
        if not (same and self.nic.guest.attached):
            self.attached()
        self.update()

    def vm_gone(self) -> None:
        self._forget()
        self.shown = None
        if self.nic.guest.attached:
            self.nic.report.guest_detached()

    def attached(self) -> None:
        """The VM runs, as far as is known: what an earlier guest had seen is past."""
        self.nic.report.guest_attached(ShownBy.HYPERVISOR)

    def _forget(self) -> None:
        """What is under way is for another VM."""
        self.netdev.forget()
        self._request, self._refused = None, ""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def cleanup(self) -> None:
        self._forget()
        self.netdev.close()

    # -- what is known of it ------------------------------------------------------------------------------------

    def idle(self) -> bool:
        return True

    def datapath_word(self) -> str:
        return "elsewhere"

    def info_text(self, queue: int) -> str:
        return f"model={self.client.model},macaddr={self.nic.mac_text()}"

    def adopted(self) -> Adopted:
        vm, found = self._vm, self.found
        info = VmInfo(
            vm.id, found.name, vm.text, found.netdev or None, self._trouble(), vm.agent_text(found.name)
        )
        return Adopted(info, assumed=not self.known)

    def _trouble(self) -> str | None:
        if not self._vm.there:
            return None
        if self._request is not None and (waits := time.monotonic() - self._asked_at) >= SLOW_S:
            return f"no answer to set_link {link_word(self._asked)} for {waits:.0f} s"
        return f"set_link was refused: {self._refused}" if self._refused else None
