"""Stands in for libvirt-python: domains that a test changes, calls that wait or fail. `vnic.adopt.domain` uses it as it
uses the real modules."""

from __future__ import annotations

import json
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from vnic.adopt.domain.library import Library

VIR_DOMAIN_EVENT_ID_LIFECYCLE = 0
VIR_DOMAIN_EVENT_ID_REBOOT = 1
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED = 15
VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE = 18
VIR_DOMAIN_EVENT_ID_DEVICE_ADDED = 19
VIR_DOMAIN_AFFECT_LIVE = 1
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_INTERNAL_ERROR = 1
VIR_ERR_AGENT_UNRESPONSIVE = 86
VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX = 1

RUNNING, PAUSED = 1, 3


class libvirtError(Exception):
    """An error of a call."""

    def __init__(self, text: str, code: int = VIR_ERR_INTERNAL_ERROR) -> None:
        super().__init__(text)
        self._code = code

    def get_error_code(self) -> int:
        return self._code


class FakeDomain:
    """One domain, and the virDomain of it."""

    def __init__(self, libvirt: FakeLibvirt, name: str, nics: int) -> None:
        self._libvirt = libvirt
        self._name = name
        self.number = -1
        self.state_number = RUNNING
        self.agent = "disconnected"
        self.nics = {f"net{index}": _interface(index) for index in range(nics)}
        self.updates: list[str] = []
        """The links that were set: `net0 down`."""
        self.answers: dict[str, object] = {}
        """What the guest agent answers, by command."""
        self.asked: list[str] = []

    # -- virDomain ------------------------------------------------------------------------------------------------

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return f"00000000-0000-4000-8000-{sum(self._name.encode()):012d}"

    def ID(self) -> int:
        return self.number

    def isActive(self) -> bool:
        self._libvirt.enter()
        return self.number >= 0

    def state(self) -> list[int]:
        return [self.state_number, 1]

    def XMLDesc(self) -> str:
        self._libvirt.enter()
        channel = (
            f"<channel type='unix'><target name='org.qemu.guest_agent.0' state='{self.agent}'/></channel>"
            if self.agent
            else ""
        )
        return f"<domain><devices>{''.join(self.nics.values())}{channel}</devices></domain>"

    def updateDeviceFlags(self, text: str, flags: int) -> None:
        self._libvirt.enter()
        assert flags == VIR_DOMAIN_AFFECT_LIVE
        element = ET.fromstring(text)
        alias, link = element.find("alias"), element.find("link")
        assert alias is not None
        assert link is not None
        name, state = alias.get("name", ""), link.get("state", "")
        if name not in self.nics:
            raise libvirtError(f"device not found: {name}")
        self.nics[name] = text
        self.updates.append(f"{name} {state}")

    # -- what a test does ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self.number = self._libvirt.next_number()
        self.changed()

    def stop(self) -> None:
        self.number = -1
        self.changed()

    def changed(self) -> None:
        self._libvirt.tell(VIR_DOMAIN_EVENT_ID_LIFECYCLE, self)

    def rebooted(self) -> None:
        self._libvirt.tell(VIR_DOMAIN_EVENT_ID_REBOOT, self)

    def set_link(self, alias: str, state: str) -> None:
        """As `virsh domif-setlink` does: there is no event."""
        element = ET.fromstring(self.nics[alias])
        link = element.find("link")
        if link is None:
            link = ET.SubElement(element, "link")
        link.set("state", state)
        self.nics[alias] = ET.tostring(element, encoding="unicode")


def _interface(index: int) -> str:
    return (
        f"<interface type='user'><mac address='52:54:00:00:00:{index:02x}'/><model type='virtio'/>"
        f"<alias name='net{index}'/></interface>"
    )


class FakeConnection:
    """A virConnect."""

    def __init__(self, libvirt: FakeLibvirt) -> None:
        self._libvirt = libvirt
        self.callbacks: dict[int, tuple[int, Callable[..., None]]] = {}
        self.on_close: Callable[..., None] | None = None
        self.is_closed = False

    def registerCloseCallback(self, callback: Callable[..., None], opaque: object) -> None:
        self.on_close = callback

    def unregisterCloseCallback(self) -> None:
        self.on_close = None

    def domainEventRegisterAny(
        self, domain: object, number: int, callback: Callable[..., None], opaque: object
    ) -> int:
        self.callbacks[len(self.callbacks)] = number, callback
        return len(self.callbacks) - 1

    def domainEventDeregisterAny(self, registered: int) -> None:
        del self.callbacks[registered]

    def setKeepAlive(self, interval: int, count: int) -> None:
        pass

    def getType(self) -> str:
        return "QEMU"

    def getVersion(self) -> int:
        return 7_002_022

    def getLibVersion(self) -> int:
        return 9_000_000

    def lookupByName(self, name: str) -> FakeDomain:
        self._libvirt.enter()
        if self.is_closed:
            raise libvirtError("the connection is closed")
        found = self._libvirt.domains.get(name)
        if found is None:
            raise libvirtError(f"no domain with matching name '{name}'", VIR_ERR_NO_DOMAIN)
        return found

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        for each in self._libvirt.domains.values():
            if each.UUIDString() == uuid.lower():
                return each
        raise libvirtError("no domain with matching uuid", VIR_ERR_NO_DOMAIN)

    def close(self) -> None:
        self.is_closed = True


class FakeLibvirt:
    """Both modules, and the daemon behind them."""

    VIR_DOMAIN_EVENT_ID_LIFECYCLE = VIR_DOMAIN_EVENT_ID_LIFECYCLE
    VIR_DOMAIN_EVENT_ID_REBOOT = VIR_DOMAIN_EVENT_ID_REBOOT
    VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED = VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED
    VIR_DOMAIN_EVENT_ID_DEVICE_ADDED = VIR_DOMAIN_EVENT_ID_DEVICE_ADDED
    VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE = VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE
    VIR_DOMAIN_AFFECT_LIVE = VIR_DOMAIN_AFFECT_LIVE
    VIR_ERR_NO_DOMAIN = VIR_ERR_NO_DOMAIN
    VIR_ERR_INTERNAL_ERROR = VIR_ERR_INTERNAL_ERROR
    VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX = (
        VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX
    )
    libvirtError = libvirtError

    def __init__(self) -> None:
        self.domains: dict[str, FakeDomain] = {}
        self.connections: list[FakeConnection] = []
        self.opened = 0
        self.refuses: str | None = None
        """Why nobody can connect."""
        self.answers = threading.Event()
        """Cleared: calls wait."""
        self.answers.set()
        self.waiting = 0
        """How many calls wait."""
        self.never = threading.Event()
        """As an agent's answer: none, before the test ends."""
        self.monitor: Callable[..., None] | None = None
        self._number = 0

    @property
    def library(self) -> Library:
        return Library(self, self)

    def enter(self) -> None:
        """At the begin of each call that asks the daemon."""
        self.waiting += not self.answers.is_set()
        assert self.answers.wait(60)

    def add(self, name: str, nics: int = 1, *, start: bool = True) -> FakeDomain:
        made = self.domains[name] = FakeDomain(self, name, nics)
        if start:
            made.start()
        return made

    def next_number(self) -> int:
        self._number += 1
        return self._number

    # -- the module libvirt ---------------------------------------------------------------------------------------

    def open(self, uri: str) -> FakeConnection:
        self.enter()
        self.opened += 1
        if self.refuses is not None:
            raise libvirtError(self.refuses)
        made = FakeConnection(self)
        self.connections.append(made)
        return made

    # -- the module libvirt_qemu ----------------------------------------------------------------------------------

    def qemuMonitorEventRegister(
        self,
        connection: object,
        domain: object,
        event: str,
        callback: Callable[..., None],
        opaque: object,
        flags: int,
    ) -> int:
        self.monitor = callback
        return 0

    def qemuMonitorEventDeregister(self, connection: object, registered: int) -> None:
        self.monitor = None

    def qemuAgentCommand(self, domain: FakeDomain, request: str, seconds: int, flags: int) -> str:
        command = json.loads(request)["execute"]
        domain.asked.append(command)
        answer = domain.answers.get(command)
        if isinstance(answer, threading.Event):
            answer.wait(60)
            answer = None
        if answer is None:
            raise libvirtError("Guest agent is not responding", VIR_ERR_AGENT_UNRESPONSIVE)
        if isinstance(answer, libvirtError):
            raise answer
        return answer if isinstance(answer, str) else json.dumps({"return": answer})

    # -- the daemon -----------------------------------------------------------------------------------------------

    def tell(self, number: int, domain: FakeDomain) -> None:
        """An event."""
        for connection in list(self.connections):
            for wanted, callback in list(connection.callbacks.values()):
                if wanted == number and not connection.is_closed:
                    callback(connection, domain, 0, 0, None)

    def tell_monitor(self, domain: FakeDomain, event: str, details: Any) -> None:
        """An event of QEMU."""
        assert self.monitor is not None
        text = details if isinstance(details, str) else json.dumps(details)
        self.monitor(None, domain, event, int(time.time()), 0, text, None)

    def die(self) -> None:
        """The daemon ends, as by SIGKILL: its connections tell."""
        self.refuses = "Failed to connect socket"
        connections, self.connections = self.connections, []
        for each in connections:
            each.is_closed = True
            if each.on_close is not None:
                each.on_close(each, 1, None)
