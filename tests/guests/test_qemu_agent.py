"""A real guest agent in a QEMU guest that vnic has adopted: `seen` is what the guest's kernel shows, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.needs import need

import vnic
from vnic.lab.guest.agent_kit import find_agent
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_kit import find_qemu

WAIT_S = 120.0
NOT_S = 2.0
"""How long an agent is asked about what its guest never sees."""
MACS = {"vm1/net0": "52:54:00:00:00:01", "vm1/net1": "52:54:00:00:00:02", "vm1/blind": "52:54:00:00:00:03"}
OPTIONS = f"""
    -netdev user,id=hn0 -device virtio-net-pci,netdev=hn0,id=net0,mac={MACS["vm1/net0"]}
    -netdev user,id=hn1 -device e1000,netdev=hn1,id=net1,mac={MACS["vm1/net1"]}
    -netdev user,id=hn2 -device virtio-net-pci,netdev=hn2,id=blind,mac={MACS["vm1/blind"]},status=off
    -device virtio-serial -device virtserialport,chardev=qga,name=org.qemu.guest_agent.0
"""
"""QEMU's own NICs; of `blind`, whose driver is offered no status, the guest always takes the link to be up."""


class Adopted(NamedTuple):
    """The VM, and its guest's own word."""

    vm: vnic.Vm
    guest: QemuGuest

    def interface(self, nic: vnic.Nic) -> str:
        """Its name in the guest."""
        path = self.guest.run(f"grep -l {MACS[nic.name]} /sys/class/net/eth*/address")
        return path.strip().split("/")[-2]

    def carrier(self, nic: vnic.Nic) -> bool:
        return self.guest.carrier(self.interface(nic))


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopted]:
    need("qemu-guest", "guest-agent")
    agent = find_agent()
    assert agent is not None
    folder: Path = tmp_path_factory.mktemp("agent")
    qmp, qga = folder / "vm.qmp", folder / "vm.qga"
    sockets = [
        "-qmp",
        f"unix:{qmp},server=on,wait=off",
        "-chardev",
        f"socket,path={qga},server=on,wait=off,id=qga",
    ]
    options = [*sockets, *OPTIONS.split()]
    with QemuGuest(kit=find_qemu(), files=agent.files(), options=options) as guest:
        guest.run(agent.command)
        with vnic.Lab() as lab, lab.adopt(id="vm1", qmp=qmp, qga=qga, wait=WAIT_S) as vm:
            yield Adopted(vm, guest)


@pytest.mark.parametrize("name", ["net0", "net1"])
def test_agent_says_what_the_guest_saw(adopted: Adopted, name: str) -> None:
    nic = adopted.vm.nic(name)
    for set_link in (nic.down, nic.up, nic.down, nic.up):
        change = set_link()
        seen = nic.wait_seen(timeout=WAIT_S)
        assert (seen.id, seen.link, seen.seen_by) == (change.id, change.link, "agent")
        assert adopted.carrier(nic) is (change.link == "up")


def test_carrier_that_does_not_follow_is_not_seen(adopted: Adopted) -> None:
    nic = adopted.vm.nic("blind")
    with nic.unplugged(wait=None):
        with pytest.raises(vnic.NotSeen, match="no guest agent has proven that its guest saw it"):
            nic.wait_seen(timeout=NOT_S)
        assert adopted.carrier(nic)
        assert "it has not seen this: it last read up (says its agent)" in str(nic.why())


def test_interface_that_is_down_in_the_guest_has_seen_nothing(adopted: Adopted) -> None:
    nic = adopted.vm.nic("net0")
    interface = adopted.interface(nic)
    adopted.guest.run(f"ip link set {interface} down")
    nic.down()
    with pytest.raises(vnic.NotSeen):
        nic.wait_seen(timeout=NOT_S)
    nic.up()
    adopted.guest.run(f"ip link set {interface} up")
    nic.down()
    nic.wait_seen(timeout=WAIT_S)
    assert not adopted.carrier(nic)
    nic.up()
    nic.wait_seen(timeout=WAIT_S)


def test_agent_that_is_stopped_proves_nothing(adopted: Adopted) -> None:
    nic = adopted.vm.nic("net1")
    adopted.guest.run("kill -STOP $(cat /tmp/agent.pid)")
    try:
        nic.down()
        with pytest.raises(vnic.NotSeen):
            nic.wait_seen(timeout=NOT_S)
        assert not adopted.carrier(nic)
    finally:
        adopted.guest.run("kill -CONT $(cat /tmp/agent.pid)")
    assert nic.wait_seen(timeout=WAIT_S).link == "down"
    nic.up()
    assert nic.wait_seen(timeout=WAIT_S).link == "up"
