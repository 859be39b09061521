"""Visitor: one domain, as seen from a thread of its own, in which libvirt's calls may wait as long as they do.

`session` makes one and receives what it finds in the loop's thread. A second thread asks the guest agent, so that an
agent that does not answer delays no link.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from vnic.adopt.domain.connection import Connection, connections
from vnic.adopt.domain.library import Library, message, state_word, version_text
from vnic.adopt.domain.xml import DomainXml, DomainXmlError, Interface, parse
from vnic.adopt.hypervisor import AgentRefused, HypervisorError
from vnic.threads import thread_beside

AGAIN_S: Final = 1.0
"""The pause after an error."""
LOOK_S: Final = 5.0
"""The pause between two looks at the domain without an event: libvirt has none for links."""
LOOK_SHARE: Final = 20
"""A look that takes long is repeated seldom: the pause is at least so many times as long."""
AGENT_S: Final = 5
"""The time that a guest agent has for an answer."""
EVENTS_MAX: Final = 1000
"""Events of QEMU's netdevs that wait while libvirt does not answer. Of more, the last one of each netdev waits."""
ANSWER_MAX: Final = 1 << 18
"""The longest answer of a guest agent, in characters."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Job = Callable[[], None]
Done = Callable[[object, HypervisorError | None], None]
"""Called with the result, or the error, in the thread."""


class Found(msgspec.Struct, frozen=True):
    """A domain that runs."""

    identity: str
    """Another one after each start."""
    state: str
    text: str
    """What runs it."""
    xml: DomainXml


class Host(Protocol):
    """What a visitor tells. All is called in the visitor's threads."""

    def there(self, found: Found) -> None:
        """It runs."""

    def changed(self, found: Found) -> None:
        """It still runs, and is another than before in something."""

    def gone(self, text: str) -> None:
        """It does not run, or cannot be reached, and why."""

    def reset(self) -> None:
        """Its guest boots anew."""

    def netdev(self, alias: str, event: str) -> None:
        """QEMU's event of the netdev of that NIC."""


class Thread:
    """A thread that carries out jobs in their order. None ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._started = False

    def start(self, run: Callable[[], None]) -> None:
        if not self._started:
            self._started = True
            thread_beside(self.name, run).start()

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()


class Visitor:
    """It looks for the domain for ever, until `close`. It is the DomainEvents of its connection."""

    def __init__(self, library: Library, uri: str, domain: str, host: Host) -> None:
        self._library = library
        self._uri = uri
        self._name = domain
        self._by_uuid = _UUID.fullmatch(domain) is not None
        self._host = host
        self._thread = Thread(f"vnic-libvirt {domain}")
        self._agent = Thread(f"vnic-agent {domain}")
        self._stale = False
        """The domain has to be looked at."""
        self._reset_waits = False
        """A reset is among the jobs: another one before it is told adds nothing."""
        self._late: dict[str, str] = {}
        """The last event of each netdev, beyond EVENTS_MAX."""
        self._changing = threading.Lock()
        """Of `_late`."""
        self._ended = False
        self._domain: Any = None
        self._found: Found | None = None
        """What the host knows."""
        self._gone = ""
        """What the host knows, where there is no domain."""
        self.waits_since: float | None = None
        """Since when libvirt has been opened, by the monotonic clock."""

    # -- called in the loop's thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Raises RuntimeError where no thread can start."""
        self._thread.start(self._run)

    def set_link(self, alias: str, up: bool, done: Done) -> None:
        self._thread.jobs.put(partial(self._set_link, alias, up, done))

    def ask_agent(self, command: str, arguments: Mapping[str, object], done: Done) -> None:
        """Raises RuntimeError where no thread can start."""
        self._agent.start(self._agent.work)
        self._agent.jobs.put(partial(self._ask, command, dict(arguments), done))

    def close(self) -> None:
        """End the threads, as soon as libvirt's calls return."""
        self._ended = True
        self._thread.jobs.put(None)
        self._agent.jobs.put(None)

    # -- DomainEvents, in the thread of the events --------------------------------------------------------------

    def domain_changed(self) -> None:
        if not self._stale:
            self._stale = True
            self._thread.jobs.put(_nothing)

    def domain_reset(self) -> None:
        if not self._reset_waits:
            self._reset_waits = True
            self._thread.jobs.put(self._tell_reset)

    def netdev_event(self, netdev: str, event: str) -> None:
        with self._changing:
            if not self._late and self._thread.jobs.qsize() < EVENTS_MAX:
                self._thread.jobs.put(partial(self._netdev, netdev, event))
                return
            if not self._late:
                self._thread.jobs.put(self._netdevs_late)
            if netdev in self._late or len(self._late) < EVENTS_MAX:
                self._late[netdev] = event

    connection_lost = domain_changed

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        key = self._name.lower() if self._by_uuid else self._name
        connection = connections.join(self._library, self._uri, key, self)
        try:
            while not self._ended:
                pause = self._look_safely(connection)
                self._work(time.monotonic() + pause)
        finally:
            connections.leave(connection, key, self)

    def _work(self, until: float) -> None:
        """Carry out jobs until the domain has to be looked at."""
        while not (self._ended or self._stale) and (left := until - time.monotonic()) > 0:
            try:
                job = self._thread.jobs.get(timeout=left)
            except queue.Empty:
                return
            if job is not None:
                job()

    def _look_safely(self, connection: Connection) -> float:
        """The pause before the next look."""
        began = time.monotonic()
        self._stale = False
        try:
            self._look(connection)
        except (self._library.libvirt.libvirtError, DomainXmlError, HypervisorError) as error:
            self._tell_gone(message(error))
            return AGAIN_S
        return max(LOOK_S, LOOK_SHARE * (time.monotonic() - began))

    def _look(self, connection: Connection) -> None:
        self.waits_since = time.monotonic()
        try:
            opened = connection.get()
        finally:
            self.waits_since = None
        domain = self._look_up(opened)
        if domain is None:
            self._tell_gone(f"there is no domain '{self._name}'")
            return
        if not domain.isActive():
            self._tell_gone("it is shut off")
            return
        number = domain.ID()
        found = Found(
            identity=f"{domain.UUIDString()} {number}",
            state=state_word(domain.state()[0]),
            text=_described(opened),
            xml=parse(domain.XMLDesc()),
        )
        if domain.ID() != number:  # it was started anew meanwhile
            self.domain_changed()
            return
        self._domain, before, self._found = domain, self._found, found
        if before is not None and before.identity != found.identity:
            self._host.gone("it was started anew")
            before = None
        if before is None:
            self._host.there(found)
        elif before != found:
            self._host.changed(found)

    def _look_up(self, opened: Any) -> Any:
        """The virDomain; None if there is none."""
        libvirt = self._library.libvirt
        look_up = opened.lookupByUUIDString if self._by_uuid else opened.lookupByName
        try:
            return look_up(self._name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _tell_gone(self, text: str) -> None:
        if self._found is not None or text != self._gone:
            self._host.gone(text)
        self._domain, self._found, self._gone = None, None, text

    def _tell_reset(self) -> None:
        self._reset_waits = False
        self._host.reset()

    def _netdevs_late(self) -> None:
        with self._changing:
            late, self._late = self._late, {}
        for netdev, event in late.items():
            self._netdev(netdev, event)

    def _netdev(self, netdev: str, event: str) -> None:
        for each in self._interfaces():
            if each.netdev == netdev:
                self._host.netdev(each.alias, event)

    def _interfaces(self) -> Sequence[Interface]:
        return () if self._found is None else self._found.xml.interfaces

    def _set_link(self, alias: str, up: bool, done: Done) -> None:
        libvirt = self._library.libvirt
        there = next((each for each in self._interfaces() if each.alias == alias), None)
        if there is None or self._domain is None:
            done(None, HypervisorError(f"the domain has no NIC '{alias}'"))
            return
        try:
            self._domain.updateDeviceFlags(there.with_link(up), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            self._stale = True
            done(None, HypervisorError(message(error)))
            return
        self._note(there, up)
        done(None, None)

    def _note(self, of: Interface, up: bool) -> None:
        """Its link is `up` now."""
        assert self._found is not None
        link = msgspec.structs.replace(of, up=up, xml=of.with_link(up))
        interfaces = [link if each is of else each for each in self._found.xml.interfaces]
        xml = msgspec.structs.replace(self._found.xml, interfaces=interfaces)
        self._found = msgspec.structs.replace(self._found, xml=xml)

    # -- the agent's thread -------------------------------------------------------------------------------------

    def _ask(self, command: str, arguments: Mapping[str, object], done: Done) -> None:
        domain, libvirt = self._domain, self._library.libvirt
        if domain is None:
            done(None, HypervisorError("the domain is not there"))
            return
        request = json.dumps({"execute": command, "arguments": arguments})
        try:
            answer = self._library.qemu.qemuAgentCommand(domain, request, AGENT_S, 0)
            returned = _returned(answer)
        except libvirt.libvirtError as error:
            refused = error.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR  # qemuAgentCheckError
            done(None, (AgentRefused if refused else HypervisorError)(message(error)))
        except (ValueError, KeyError, TypeError, RecursionError):
            done(None, HypervisorError(f"its answer to {command} is none"))
        else:
            done(returned, None)


def _nothing() -> None:
    """Wakes the thread."""


def _returned(answer: str) -> object:
    """Raises ValueError and others for what is no answer."""
    if len(answer) > ANSWER_MAX:
        raise ValueError(f"more than {ANSWER_MAX} characters")
    return json.loads(answer)["return"]


def _described(opened: Any) -> str:
    """`QEMU 7.2.22, libvirt 9.0.0`."""
    hypervisor, libvirt = version_text(opened.getVersion()), version_text(opened.getLibVersion())
    return f"{opened.getType()} {hypervisor}, libvirt {libvirt}"
