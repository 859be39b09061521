"""Tests of what else acts on an adopted NIC: cables, link-follow, flaps, faults; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.adopt.lab import AdoptLab, PlayedNic, run, until

from vnic.backend.options import CableOptions, EchoOptions, HubPortOptions
from vnic.filter import fault, object_add, object_del
from vnic.filter.impair import impair
from vnic.follow.options import LinkFollowOptions
from vnic.net.announce import AnnounceParameters
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.fault_info import FaultShape, FaultWords
from vnic.net.filters import Direction
from vnic.net.flaps import Pattern
from vnic.net.netem.words import NetemWords
from vnic.net.records import HoldKind, ShownBy

OTHER = "52:54:00:12:34:57"


def own_nic(lab: AdoptLab, netdev: str) -> Nic:
    """A NIC of vnic's own, whose guest is ready."""
    nic, _ = lab.nic(netdev, f"nic-{netdev}")
    nic.report.guest_attached(ShownBy.DEVICE)
    nic.report.driver_ok(True)
    return nic


def far_end(lab: AdoptLab, netdev: str) -> str | None:
    client = lab.network.find_netdev(netdev)
    assert client is not None
    hold = client.holds.get(HoldKind.FAR_END)
    return None if hold is None else hold.text


@pytest.mark.parametrize("cable_first", [True, False])
def test_cable_carries_link_state_both_ways(tmp_path: Path, cable_first: bool) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.qemu("vm1", PlayedNic("net0"))
            if not cable_first:
                vm = lab.adopt("vm1")
                await until(lambda: vm.there)
            lab.add(CableOptions(id="a", cable="c0", nic="vm1/net0"))
            lab.add(CableOptions(id="b", cable="c0"))
            own = own_nic(lab, "b")
            if cable_first:
                assert far_end(lab, "b") == "no NIC is plugged into a at the other end of cable c0"
                lab.adopt("vm1")
            await until(lambda: own.link_up)
            adopted = lab.client("vm1/net0")
            assert (adopted.link_up, lab.entry("vm1/net0").peer, lab.entry("b").datapath) == (
                True,
                "a",
                "python",
            )
            lab.set("nic-b", False)
            await until(lambda: not qemu.nics["net0"].link)
            assert far_end(lab, "a") == (
                "nic-b at the other end of cable c0 is held, operator: set_link nic-b off"
            )
            lab.set("nic-b", True)
            await until(lambda: qemu.nics["net0"].link)
            lab.set("vm1/net0", False)
            assert far_end(lab, "b") == (
                "vm1/net0 at the other end of cable c0 is held, operator: set_link vm1/net0 off"
            )
            lab.set("vm1/net0", True)
            qemu.kill()
            await until(lambda: not own.link_up)
            assert far_end(lab, "b") == "vm1/net0 at the other end of cable c0: its VM is not attached"
            await lab.qemu("vm1", PlayedNic("net0"))
            await until(lambda: own.link_up)
            lab.qemus["vm1"].unplug("net0")
            await until(lambda: not own.link_up)
            lab.qemus["vm1"].nics["net0"] = PlayedNic("net0")
            lab.qemus["vm1"].emit("RESUME")
            await until(lambda: own.link_up)

    run(main())


def test_cable_between_two_adopted_vms(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            first = await lab.adopted("vm1", PlayedNic("net0"))
            second = await lab.adopted("vm2", PlayedNic("net0", mac=OTHER))
            lab.add(CableOptions(id="a", cable="c0", nic="vm1/net0"))
            lab.add(CableOptions(id="b", cable="c0", nic="vm2/net0"))
            await until(lambda: lab.client("vm1/net0").link_up and lab.client("vm2/net0").link_up)
            lab.set("vm1/net0", False)
            await until(lambda: not second.nics["net0"].link)
            lab.set("vm1/net0", True)
            await until(lambda: second.nics["net0"].link and first.nics["net0"].link)
            first.kill()
            await until(lambda: not second.nics["net0"].link)
            lab.network.delete_netdev("b", "test")
            await until(lambda: second.nics["net0"].link)
            change = lab.network.journal.select("vm2/net0")[-1]
            assert (change.link, change.cause.kind) == ("up", "far-end")
            assert change.cause.text == "netdev b was deleted"

    run(main())


def test_cable_for_a_nic_that_is_none_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            await lab.adopted("vm1", PlayedNic("net0"))
            lab.wire(EchoOptions(id="e0"))
            for name in ("nic-e0", "nothing"):
                with pytest.raises(
                    NetError, match=r"^Parameter 'nic' expects a NIC of an adopted VM, as 'vm1/net0'"
                ):
                    lab.add(CableOptions(id="a", cable="c0", nic=name))
            lab.add(CableOptions(id="a", cable="c0", nic="vm1/net0"))
            lab.add(CableOptions(id="w", cable="c1", nic="vm2/net0"))
            for cable, name in (("a", "vm1/net0"), ("w", "vm2/net0")):
                with pytest.raises(NetError, match=f"^'{name}' has a cable already: '{cable}'$"):
                    lab.add(CableOptions(id="b", cable="c0", nic=name))
                with pytest.raises(NetError, match=r"it's in use$"):
                    lab.nic(cable, "nic0")
                with pytest.raises(NetError, match=r"is in use$"):
                    lab.add(HubPortOptions(id="h0", hubid=1, netdev=cable))
            lab.network.delete_netdev("w", "test")
            lab.add(CableOptions(id="w", cable="c1", nic="vm2/net0"))

    run(main())


def test_link_follow_flaps_and_faults(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            object_add(lab.context, LinkFollowOptions(id="f0", nic="vm1/net0", netdev="e0"))
            lab.wire(EchoOptions(id="e0"))
            lab.set("nic-e0", False)
            nic = (await lab.adopted("vm1", PlayedNic("net0"))).nics["net0"]
            await until(lambda: not nic.link)
            lab.set("nic-e0", True)
            await until(lambda: nic.link)
            object_del(lab.context, "f0")
            pattern = Pattern(down_ms=1, up_ms=1, count=3, jitter=0, seed=1)
            lab.network.flaps.start("vm1/net0", pattern, "test")
            await until(lambda: not list(lab.network.flaps.query()))
            await until(lambda: nic.link and len(nic.set_to) >= 4)
            fault.start(lab.context, "vm1/net0", FaultShape.SLOW_UP, FaultWords(delay_ms=1), "test")
            lab.set("vm1/net0", False)
            lab.set("vm1/net0", True)
            assert HoldKind.SLOW_UP in lab.client("vm1/net0").holds
            await until(lambda: nic.link and lab.client("vm1/net0").link_up)
            fault.clear(lab.context, "vm1/net0", None, "test")

    run(main())


def test_what_needs_packets_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            await lab.adopted("vm1", PlayedNic("net0"))
            lab.add(CableOptions(id="a", cable="c0", nic="vm1/net0"))
            for name in ("vm1/net0", "a"):
                with pytest.raises(
                    NetError, match=r"^'vm1/net0' is a NIC of an adopted VM: its packets do not pass"
                ):
                    impair(lab.context, name, Direction.ALL, NetemWords(delay="1ms"), "test", clear=False)
                with pytest.raises(
                    NetError, match=r"^'vm1/net0' is a NIC of an adopted VM: its packets do not pass"
                ):
                    fault.start(lab.context, name, FaultShape.DEAD, FaultWords(), "test")
            with pytest.raises(NetError, match="rx-filter"):
                lab.network.query_rx_filter("vm1/net0")
            lab.network.announce_self(AnnounceParameters(rounds=1))
            assert lab.client("vm1/net0").dropped == 0

    run(main())
