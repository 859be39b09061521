"""The XML of a domain."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from vnic.adopt.domain.xml import NICS_MAX, XML_MAX, DomainXmlError, parse

NIC = (
    "<interface type='network'><mac address='52:54:00:aa:00:01'/>"
    "<source network='default' portid='7' bridge='virbr0'/>"
    "<target dev='vnet3'/><model type='virtio'/><alias name='net0'/>"
    "<address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></interface>"
)


def domain(*devices: str) -> str:
    return f"<domain type='kvm'><name>x</name><devices>{''.join(devices)}</devices></domain>"


def test_a_nic_is_read() -> None:
    (nic,) = parse(domain(NIC)).interfaces
    assert (nic.alias, nic.mac.hex(), nic.model, nic.up) == ("net0", "525400aa0001", "virtio", True)
    assert (nic.backend, nic.netdev) == ("network default, vnet3", "hostnet0")


@pytest.mark.parametrize(("state", "up"), [("up", True), ("down", False)])
def test_the_link_is_read(state: str, up: bool) -> None:
    (nic,) = parse(domain(NIC.replace("<alias", f"<link state='{state}'/><alias"))).interfaces
    assert nic.up is up


@pytest.mark.parametrize("link", ["", "<link state='up'/>", "<link state='down'/>"])
def test_only_the_link_is_written(link: str) -> None:
    (nic,) = parse(domain(NIC.replace("<alias", f"{link}<alias"))).interfaces
    written = ET.fromstring(nic.with_link(False))
    (state,) = written.findall("link")
    assert state.attrib == {"state": "down"}
    written.remove(state)
    before = ET.fromstring(NIC)
    assert [(each.tag, each.attrib) for each in written] == [(each.tag, each.attrib) for each in before]


@pytest.mark.parametrize(
    "nic",
    [
        NIC.replace("<alias name='net0'/>", ""),
        NIC.replace("52:54:00:aa:00:01", "52:54:00:aa:00"),
        NIC.replace("52:54:00:aa:00:01", "zz:54:00:aa:00:01"),
        "<interface/>",
    ],
)
def test_a_nic_without_alias_or_mac_is_left_out(nic: str) -> None:
    assert parse(domain(nic)).interfaces == []


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("", (False, False)),
        ("<channel><target name='com.redhat.spice.0' state='connected'/></channel>", (False, False)),
        ("<channel><target name='org.qemu.guest_agent.0'/></channel>", (True, False)),
        ("<channel><target name='org.qemu.guest_agent.0' state='connected'/></channel>", (True, True)),
    ],
)
def test_the_agents_channel_is_read(channel: str, expected: tuple[bool, bool]) -> None:
    found = parse(domain(channel))
    assert (found.has_agent, found.agent_there) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "<network/>",
        domain(*[NIC] * (NICS_MAX + 1)),
        f"<domain>{' ' * XML_MAX}</domain>",
        '<!DOCTYPE d [<!ENTITY a "x">' + "".join(f'<!ENTITY a{n} "{"&a;" * 9}">' for n in range(3)) + "]><d>",
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(DomainXmlError):
        parse(text)
