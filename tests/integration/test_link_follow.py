"""link-follow with interfaces of the kernel, in a network namespace of their own."""

from __future__ import annotations

import pytest
from tests.integration.namespace import in_namespace, ip, up
from tests.unit.backend.helpers import Lab, until

from vnic.backend.options import CableOptions, EchoOptions, InterfaceOptions, TapOptions
from vnic.filter import object_add, object_del
from vnic.follow.options import LinkFollowOptions
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.records import HoldKind, ShownBy


async def follow_interface() -> None:
    async with Lab() as lab:
        lab.add(EchoOptions(id="net0"))
        lab.add(EchoOptions(id="net1"))
        nic, _ = lab.nic("net0", "nic0")
        spare, _ = lab.nic("net1", "nic1")

        def held() -> str | None:
            hold = nic.holds.get(HoldKind.UPLINK)
            return None if hold is None else hold.text

        object_add(lab.context, LinkFollowOptions(id="f0", nic="nic0", ifname="v0"))
        object_add(lab.context, LinkFollowOptions(id="f1", nic="nic1", ifname="v0", invert=True))
        await until(lambda: held() == "interface v0 does not exist")
        assert spare.link_up
        ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        await until(lambda: held() == "interface v0 is down")
        ip("link", "set", "v0", "up")
        assert not nic.link_up, "its other end is down"
        ip("link", "set", "v1", "up")
        await until(lambda: nic.link_up and not spare.link_up)
        ip("link", "set", "v1", "down")
        await until(lambda: held() == "interface v0 is down" and spare.link_up)
        ip("link", "set", "v1", "up")
        await until(lambda: nic.link_up)
        ip("link", "delete", "v0")
        await until(lambda: held() == "interface v0 does not exist")
        object_del(lab.context, "f0")
        object_del(lab.context, "f1")
        assert nic.link_up


def test_nic_follows_interface() -> None:
    in_namespace(follow_interface)


# -- interfaces that show the link of a wire of this vnic --------------------------------------------------------------


def follow(lab: Lab, object_id: str, nic: str, ifname: str) -> None:
    object_add(lab.context, LinkFollowOptions(id=object_id, nic=nic, ifname=ifname))


async def pull_and_plug(lab: Lab, nic: Nic) -> None:
    """Its own interface follows, and nothing waits for itself."""
    interface = {"net0": "v0", "net1": "t0"}[str(nic.netdev_id)]
    await until(lambda: nic.link_up)
    for _ in range(3):
        lab.network.set_link(nic.name, False, "test")
        await until(lambda: "LOWER_UP" not in ip("link", "show", interface))
        assert {hold.kind for hold in nic.holds.values()} == {HoldKind.OPERATOR}
        lab.network.set_link(nic.name, True, "test")
        await until(lambda: nic.link_up and "LOWER_UP" in ip("link", "show", interface))


async def follow_own_interface(netns: str | None) -> None:
    ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    up("v0")
    up("v1")
    async with Lab() as lab:
        follow(lab, "f0", "nic0", "v0")
        await lab.add_prepared(InterfaceOptions(id="net0", ifname="v0", propagate=True, netns=netns))
        nic, _ = lab.nic("net0", "nic0")
        await pull_and_plug(lab, nic)
        ip("link", "set", "v1", "down")
        await until(lambda: not nic.link_up)
        assert not nic.holds, "the netdev has the interface's hold"
        ip("link", "set", "v1", "up")
        await until(lambda: nic.link_up)
        object_del(lab.context, "f0")
        with pytest.raises(
            NetError, match=r"^'nic0' has the link of interface v0 already, by netdev 'net0'$"
        ):
            follow(lab, "f0", "nic0", "v0")
        follow(lab, "f0", "nic1", "t0")
        lab.add(TapOptions(id="net1", ifname="t0", script="no", downscript="no"))
        up("t0")
        nic, _ = lab.nic("net1", "nic1")
        await pull_and_plug(lab, nic)


@pytest.mark.parametrize(
    "netns",
    [
        pytest.param(None, id="of vnic's namespace"),
        pytest.param("/proc/self/ns/net", id="of the same, by its path"),
    ],
)
def test_nic_that_follows_its_own_interface_does_not_wait_for_itself(netns: str | None) -> None:
    in_namespace(follow_own_interface, netns)


async def circle_through_cable() -> None:
    """nic-a follows v0, which shows the wire of nic-c, which follows the other end of the cable of nic-a."""
    ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    up("v0")
    up("v1")
    async with Lab() as lab:
        nics = {}
        for name in "ab":
            lab.add(CableOptions(id=name, cable="c0"))
        await lab.add_prepared(InterfaceOptions(id="c", ifname="v0", propagate=True))
        for name in "abc":
            nics[name], _ = lab.nic(name, f"nic-{name}")
            nics[name].report.guest_attached(ShownBy.DEVICE)
            nics[name].report.driver_ok(True)
        follow(lab, "f0", "nic-a", "v0")
        object_add(lab.context, LinkFollowOptions(id="f1", nic="nic-c", netdev="b"))

        def are(link_up: bool) -> bool:
            return all(nic.link_up is link_up for nic in nics.values())

        await until(lambda: are(True))
        for name, nic in nics.items():
            lab.network.set_link(nic.name, False, "test")
            await until(lambda: are(False))
            await until(lambda: "UP" not in ip("link", "show", "v0").partition(">")[0].split(","))
            lab.network.set_link(nic.name, True, "test")
            await until(lambda: are(True))
            assert name in nics
        ip("link", "set", "v1", "down")
        await until(lambda: are(False))
        hold = nics["a"].holds[HoldKind.UPLINK]
        assert (hold.text, hold.via) == ("interface v0 is down", ("c",))
        ip("link", "set", "v1", "up")
        await until(lambda: are(True))
        nics["c"].report.guest_detached()
        await until(lambda: not nics["a"].link_up)
        assert nics["a"].holds[HoldKind.UPLINK].text == "interface v0 is down: no VM is plugged into nic-c"
        nics["c"].report.guest_attached(ShownBy.DEVICE)
        nics["c"].report.driver_ok(True)
        await until(lambda: are(True))


def test_circle_through_an_interface_and_a_cable_does_not_keep_itself_down() -> None:
    in_namespace(circle_through_cable)
