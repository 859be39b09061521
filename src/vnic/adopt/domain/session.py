"""DomainSession: the Hypervisor of one domain of libvirt, in the loop's thread. `vm.LibvirtVm` has one.

`visitor` works for it in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from vnic.adopt.domain.library import Library
from vnic.adopt.domain.visitor import Done, Found, Visitor
from vnic.adopt.domain.xml import Interface
from vnic.adopt.hypervisor import FoundNic, HypervisorError, VmListener

SLOW_S: Final = 10.0
"""A libvirt that has not answered for so long is said to be silent."""
CHECK_S: Final = 5.0


class DomainSession:
    """One domain. It is the Host of its visitor: the methods of that name only pass on to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, library: Library, uri: str, domain: str) -> None:
        self._loop = loop
        self._uri = uri
        self._name = domain
        self._visitor = Visitor(library, uri, domain, self)
        self._vm: VmListener | None = None
        self._found: Found | None = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._silent = False
        self._reset_waits = False
        """A reset is on its way to the loop."""

    # -- Hypervisor ---------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        return f"domain {self._name} of {self._uri}"

    @property
    def identity(self) -> str:
        return "" if self._found is None else self._found.identity

    def start(self, vm: VmListener) -> None:
        self._vm = vm
        try:
            self._visitor.start()
        except RuntimeError as error:
            vm.vm_gone(f"no thread for libvirt: {error}")
            return
        self._check()

    def set_link(self, nic: str, up: bool) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._begin(future, lambda done: self._visitor.set_link(nic, up, done))
        return future

    def ask_agent(self, command: str, arguments: Mapping[str, object]) -> asyncio.Future[object]:
        future: asyncio.Future[object] = self._loop.create_future()
        self._begin(future, lambda done: self._visitor.ask_agent(command, arguments, done))
        return future

    def close(self) -> None:
        self._vm = None
        self._fail("the VM is let go")
        if self._timer is not None:
            self._timer.cancel()
        self._visitor.close()

    def _begin(self, future: asyncio.Future[Any], begin: Callable[[Done], None]) -> None:
        def done(result: object, error: HypervisorError | None) -> None:
            self._in_loop(self._done, future, result, error)

        self._pending.add(future)
        try:
            begin(done)
        except RuntimeError as error:
            self._done(future, None, HypervisorError(str(error)))

    def _done(self, future: asyncio.Future[Any], result: object, error: HypervisorError | None) -> None:
        self._pending.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _fail(self, text: str) -> None:
        """All that is asked of the domain: it is gone."""
        for future in list(self._pending):
            self._done(future, None, HypervisorError(text))

    def _check(self) -> None:
        """Say so while libvirt does not answer."""
        self._timer = self._loop.call_later(CHECK_S, self._check)
        since = self._visitor.waits_since
        silent = since is not None and time.monotonic() - since >= SLOW_S
        if silent and not self._silent and self._vm is not None:
            self._on_gone(f"{self._uri} does not answer")
        self._silent = silent

    # -- Host, in the visitor's threads -------------------------------------------------------------------------

    def there(self, found: Found) -> None:
        self._in_loop(self._on_there, found)

    def changed(self, found: Found) -> None:
        self._in_loop(self._on_changed, found)

    def gone(self, text: str) -> None:
        self._in_loop(self._on_gone, text)

    def reset(self) -> None:
        if not self._reset_waits:
            self._reset_waits = True
            self._in_loop(self._on_reset)

    def netdev(self, alias: str, event: str) -> None:
        self._in_loop(self._on_netdev, alias, event)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop is closed

    # -- the same, in the loop ----------------------------------------------------------------------------------

    def _on_there(self, found: Found) -> None:
        if self._vm is None:
            return
        self._found = found
        self._vm.vm_there([_found(each) for each in found.xml.interfaces], found.state, found.text)
        self._tell_agent(found)

    def _on_changed(self, found: Found) -> None:
        if self._vm is None:
            return
        before, self._found = self._found, found
        if before is None or before.xml.interfaces != found.xml.interfaces:
            self._vm.nics_changed([_found(each) for each in found.xml.interfaces])
        if before is None or before.state != found.state:
            self._vm.run_state(found.state)
        if before is None or _agent(before) != _agent(found):
            self._tell_agent(found)

    def _tell_agent(self, found: Found) -> None:
        assert self._vm is not None
        self._vm.agent_changed(*_agent(found))

    def _on_gone(self, text: str) -> None:
        if self._vm is None:
            return
        self._found = None
        self._fail(text)
        self._vm.vm_gone(text)

    def _on_reset(self) -> None:
        self._reset_waits = False
        if self._vm is not None and self._found is not None:
            self._vm.guest_reset()

    def _on_netdev(self, alias: str, event: str) -> None:
        if self._vm is None or self._found is None:
            return
        connected = not event.endswith("_DISCONNECTED")
        # QEMU has set the NIC's link with a vhost-user connection (net_vhost_user_event), with no other.
        link = connected if event.startswith("NETDEV_VHOST_USER_") else None
        word = "connected" if connected else "not connected"
        self._vm.netdev_connected(alias, connected, f"the netdev of {alias} in the VM is {word}", link)


def _found(each: Interface) -> FoundNic:
    return FoundNic(each.alias, each.model, each.mac, each.up, each.backend)


def _agent(found: Found) -> tuple[bool, str]:
    """Whether the guest agent is there, and what to say of it."""
    if not found.xml.has_agent:
        return False, "the domain has no channel for a guest agent"
    return (True, "") if found.xml.agent_there else (False, "its guest agent does not run")
