"""link-follow with interfaces of the kernel, in a network namespace of their own."""

from __future__ import annotations

from tests.integration.namespace import in_namespace, ip
from tests.unit.backend.helpers import Lab, until

from vnic.backend.options import EchoOptions
from vnic.filter import object_add, object_del
from vnic.follow.options import LinkFollowOptions
from vnic.net.records import HoldKind


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
        assert held() == "interface v0 does not exist"
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
