"""Connection: one libvirt, which all sessions of its URI share. It delivers events to them.

`visitor` opens it, in its thread: libvirt's calls block. Events arrive in the thread of `library`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from vnic.adopt.domain.library import Library, message
from vnic.adopt.hypervisor import HypervisorError

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 5
KEEPALIVE_COUNT: Final = 3
"""A libvirt that answers nothing for some 15 seconds is lost."""
NETDEV_EVENTS: Final = "^NETDEV_.*CONNECTED$"
"""A regular expression: QEMU's events of netdevs whose other end came or went."""
AGAIN_S: Final = 1.0
"""The pause before a libvirt that could not be reached is tried again."""


class DomainEvents(Protocol):
    """What a connection tells. It is called in the thread of the events, and must not block."""

    def domain_changed(self) -> None:
        """Something about the domain is another: its state, its devices, its agent, or whether there is one."""

    def domain_reset(self) -> None:
        """Its guest boots anew."""

    def netdev_event(self, netdev: str, event: str) -> None:
        """QEMU's `event` NETDEV_…."""

    def connection_lost(self) -> None:
        """No event comes from this connection any more."""


class Connection:
    """The connection, while there is one. Its methods may be called in any thread."""

    def __init__(self, library: Library, uri: str) -> None:
        self.library = library
        self.uri = uri
        self._opening = threading.Lock()
        self._open: Any = None
        self._dead: list[Any] = []
        """Connections that have closed, and have to be freed in a session's thread."""
        self._undo: list[Callable[[], object]] = []
        """What ends the registrations of the present connection."""
        self._failed: tuple[float, str] | None = None
        """When the last attempt failed, and why."""
        self._listeners: dict[str, list[DomainEvents]] = {}
        """By the name, or the UUID, that the session was given."""
        self._changing = threading.Lock()

    def listen(self, domain: str, listener: DomainEvents) -> None:
        """Tell it of that domain."""
        with self._changing:
            self._listeners.setdefault(domain, []).append(listener)

    def forget(self, domain: str, listener: DomainEvents) -> bool:
        """End `listen`; whether it was the last."""
        with self._changing:
            self._listeners[domain].remove(listener)
            if not self._listeners[domain]:
                del self._listeners[domain]
            return not self._listeners

    def get(self) -> Any:
        """The virConnect; it is opened if it is not. Raises HypervisorError."""
        libvirt = self.library.libvirt
        with self._opening:
            if self._open is not None:
                return self._open
            self._free()
            if self._failed is not None and time.monotonic() - self._failed[0] < AGAIN_S:
                raise HypervisorError(self._failed[1])
            try:
                opened = self._prepare(libvirt.open(self.uri))
            except libvirt.libvirtError as error:
                self._failed = time.monotonic(), message(error)
                raise HypervisorError(message(error)) from None
            self._failed = None
            with self._changing:
                if not any(each is opened for each in self._dead):
                    self._open = opened
            return opened

    def close(self) -> None:
        """No session needs it any more."""
        with self._opening:
            if self._open is not None:
                self._dead.append(self._open)
                self._open = None
            self._free()

    def _free(self) -> None:
        for undo in self._undo:
            self._try(undo)
        self._undo.clear()
        while self._dead:
            self._try(self._dead.pop().close)

    # -- events -------------------------------------------------------------------------------------------------

    def _prepare(self, opened: Any) -> Any:
        """Have a new connection deliver its events. Drivers that lack some of them do without."""
        libvirt = self.library.libvirt
        changed = self._on(lambda listener: listener.domain_changed())
        reset = self._on(lambda listener: listener.domain_reset())
        self._try(opened.registerCloseCallback, lambda *_: self._closed(opened), None)
        self._undo.append(opened.unregisterCloseCallback)
        for number, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed),
            (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reset),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, changed),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, changed),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, changed),
        ):
            registered = self._try(opened.domainEventRegisterAny, None, number, callback, None)
            if registered is not None:
                self._undo.append(partial(opened.domainEventDeregisterAny, registered))
        qemu = self.library.qemu
        regex = qemu.VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX
        given = (opened, None, NETDEV_EVENTS, self._monitor_event, None, regex)
        registered = self._try(qemu.qemuMonitorEventRegister, *given)
        if registered is not None:
            self._undo.append(partial(qemu.qemuMonitorEventDeregister, opened, registered))
        self._try(opened.setKeepAlive, KEEPALIVE_S, KEEPALIVE_COUNT)
        return opened

    def _try(self, call: Callable[..., object], *arguments: object) -> object:
        """The result; None after an error."""
        try:
            return call(*arguments)
        except self.library.libvirt.libvirtError as error:
            log.debug("%s: %s", self.uri, message(error))
            return None

    def _of(self, domain: Any) -> list[DomainEvents]:
        with self._changing:
            return [
                *self._listeners.get(domain.name(), ()),
                *self._listeners.get(domain.UUIDString(), ()),
            ]

    def _on(self, tell: Callable[[DomainEvents], None]) -> Callable[..., None]:
        def callback(connection: Any, domain: Any, *_: object) -> None:
            for listener in self._of(domain):
                tell(listener)

        return callback

    def _monitor_event(
        self, connection: Any, domain: Any, event: str, seconds: int, micros: int, details: str, _: object
    ) -> None:
        try:
            data = json.loads(details or "{}")
        except (ValueError, RecursionError):
            return
        netdev = data.get("netdev-id") if isinstance(data, dict) else None
        if isinstance(netdev, str):
            for listener in self._of(domain):
                listener.netdev_event(netdev, event)

    def _closed(self, opened: Any) -> None:
        """That connection has ended by itself. libvirt holds a lock: it is freed later, in another thread."""
        with self._changing:
            self._dead.append(opened)
            if self._open is opened:
                self._open = None
            listeners = [each for listeners in self._listeners.values() for each in listeners]
        for listener in listeners:
            listener.connection_lost()


class Connections:
    """Those of a process, by URI."""

    def __init__(self) -> None:
        self._all: dict[str, Connection] = {}
        self._lock = threading.Lock()

    def known(self) -> set[str]:
        """The URIs of those that a session uses."""
        return set(self._all)

    def join(self, library: Library, uri: str, domain: str, listener: DomainEvents) -> Connection:
        with self._lock:
            connection = self._all.get(uri)
            if connection is None:
                connection = self._all[uri] = Connection(library, uri)
            connection.listen(domain, listener)
            return connection

    def leave(self, connection: Connection, domain: str, listener: DomainEvents) -> None:
        """It is closed with its last session."""
        with self._lock:
            last = connection.forget(domain, listener)
            if last:
                del self._all[connection.uri]
        if last:
            connection.close()


connections: Final = Connections()
"""The one instance of the process."""
