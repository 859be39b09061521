"""The parts of a domain's XML that matter here: its NICs with their links, and the guest agent's channel.

The session reads them, and sends an `<interface>` back with another link (libvirt.org/formatdomain.html).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

import msgspec

from vnic.adopt.hypervisor import AGENT_PORT

XML_MAX = 4 << 20
"""The largest XML that is parsed, in characters."""
NICS_MAX = 1024


class DomainXmlError(ValueError):
    """The XML is none of a domain; `str()` says why."""


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One NIC."""

    alias: str
    """libvirt's name of the device, which is also QEMU's id of it."""
    mac: bytes
    model: str
    up: bool
    backend: str
    """Where it is plugged in, for a person: `network default, vnet3`."""
    xml: str
    """Its element, as it stands in the domain's XML."""

    @property
    def netdev(self) -> str:
        """QEMU's id of its netdev (qemuAssignDeviceNetAlias's `host` and the alias)."""
        return f"host{self.alias}"

    def with_link(self, up: bool) -> str:
        """Its element with the link `up`, and otherwise the same: libvirt refuses other differences."""
        element = ET.fromstring(self.xml)
        link = element.find("link")
        if link is None:
            link = ET.SubElement(element, "link")
        link.set("state", "up" if up else "down")
        return ET.tostring(element, encoding="unicode")


class DomainXml(msgspec.Struct, frozen=True):
    """A running domain."""

    interfaces: list[Interface]
    has_agent: bool
    """There is a channel for a guest agent."""
    agent_there: bool
    """The guest has opened it."""


def parse(text: str) -> DomainXml:
    """Raises DomainXmlError."""
    if len(text) > XML_MAX:
        raise DomainXmlError(f"it has {len(text)} characters, and at most {XML_MAX} are read")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise DomainXmlError(str(error)) from None
    elements = root.findall("devices/interface")
    if root.tag != "domain" or len(elements) > NICS_MAX:
        raise DomainXmlError(
            f"it is a <{root.tag[:40]}>" if root.tag != "domain" else f"it has {len(elements)} interfaces"
        )
    try:
        interfaces = [each for element in elements if (each := _interface(element)) is not None]
    except RecursionError:
        raise DomainXmlError("its elements are nested too deeply") from None
    targets = [
        target for target in root.iterfind("devices/channel/target") if target.get("name") == AGENT_PORT
    ]
    there = any(target.get("state") == "connected" for target in targets)
    return DomainXml(interfaces, bool(targets), there)


def _interface(element: ET.Element) -> Interface | None:
    """None for one that has no alias, which no running domain has, or no valid MAC."""
    alias = _attribute(element, "alias", "name")
    try:
        mac = bytes.fromhex(_attribute(element, "mac", "address").replace(":", ""))
    except ValueError:
        return None
    if not alias or len(mac) != 6:
        return None
    return Interface(
        alias=alias,
        mac=mac,
        model=_attribute(element, "model", "type") or "unknown",
        up=_attribute(element, "link", "state") != "down",
        backend=", ".join(_backend(element)),
        xml=ET.tostring(element, encoding="unicode"),
    )


_SOURCES = ("network", "bridge", "dev", "path", "name", "address")
"""The attributes of <source> that name what the NIC is plugged into."""


def _backend(element: ET.Element) -> Iterator[str]:
    kind = element.get("type", "unknown")
    source = element.find("source")
    named = "" if source is None else next((source.get(key, "") for key in _SOURCES if source.get(key)), "")
    yield f"{kind} {named}" if named else kind
    if target := _attribute(element, "target", "dev"):
        yield target


def _attribute(element: ET.Element, child: str, name: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(name, "")
