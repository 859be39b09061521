"""Tests of link-follow: a NIC that follows another wire, chains, circles; what it follows may come and go."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.unit.backend.helpers import Lab, run

from vnic.backend.options import CableOptions, EchoOptions
from vnic.filter import object_add, object_del
from vnic.follow.options import LinkFollowOptions
from vnic.net import qom
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.records import HoldKind, ShownBy


class FollowLab(Lab):
    """NICs `nic-a` at `a` …, and objects that have them follow each other."""

    def wired(self, name: str) -> Nic:
        self.add(EchoOptions(id=name))
        return self.nic(name, f"nic-{name}")[0]

    def follow(self, object_id: str, nic: str, netdev: str, invert: bool = False) -> None:
        object_add(self.context, LinkFollowOptions(id=object_id, nic=nic, netdev=netdev, invert=invert))

    def up(self) -> dict[str, bool]:
        return {nic.name.removeprefix("nic-"): nic.link_up for nic in self.network.nics}

    def held(self, nic: str) -> str | None:
        client = self.network.find_nic(nic)
        assert client is not None
        hold = client.holds.get(HoldKind.UPLINK)
        return None if hold is None else hold.text


def test_nic_follows_wire() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            lab.wired("a")
            lab.wired("b")
            lab.follow("f0", "nic-a", "b")
            assert lab.up() == {"a": True, "b": True}
            lab.network.set_link("nic-b", False, "someone")
            assert lab.up() == {"a": False, "b": False}
            assert lab.held("nic-a") == "the wire of b is held at nic-b, operator: set_link nic-b off"
            [change] = lab.network.journal.select("nic-a")[-1:]
            assert change.cause.kind == "uplink"
            assert change.caused_by == lab.network.journal.select("nic-b")[-1].id
            lab.network.set_link("nic-b", True, "someone")
            assert lab.up() == {"a": True, "b": True}
            lab.network.set_link("b", False, "someone")
            assert lab.held("nic-a") == "the wire of b is held, operator: set_link b off"
            object_del(lab.context, "f0")
            assert lab.up() == {"a": True, "b": False}

    run(main())


def test_inverted() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            lab.wired("a")
            lab.wired("b")
            lab.follow("f0", "nic-a", "b", invert=True)
            assert lab.up() == {"a": False, "b": True}
            assert lab.held("nic-a") == "the wire of b is up"
            lab.network.set_link("nic-b", False, "test")
            assert lab.up() == {"a": True, "b": False}
            lab.network.delete_netdev("b", "test")
            assert lab.up()["a"]

    run(main())


def test_nic_and_netdev_may_come_later_and_go() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            lab.follow("f0", "nic-a", "b")
            a = lab.wired("a")
            assert lab.held("nic-a") == "b does not exist"
            assert lab.up() == {"a": False}
            [created] = lab.network.journal.select("nic-a")
            assert (created.link, created.cause.kind) == ("down", "uplink")
            lab.wired("b")
            assert a.link_up
            lab.network.delete_netdev("b", "test")
            assert lab.held("nic-a") == "b does not exist"
            lab.network.delete_nic("nic-a")
            lab.add(EchoOptions(id="b"))
            a, _ = lab.nic("a", "nic-a")
            assert a.link_up
            lab.network.set_link("b", False, "test")
            assert not a.link_up

    run(main())


def test_chain_of_cable_follower_and_cable() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            for name, cable in (("a", "c0"), ("b", "c0"), ("c", "c1"), ("d", "c1")):
                lab.add(CableOptions(id=name, cable=cable))
                nic, _ = lab.nic(name, f"nic-{name}")
                nic.report.guest_attached(ShownBy.DEVICE)
                nic.report.driver_ok(True)
            lab.follow("f0", "nic-c", "b")
            lab.events.clear()
            lab.network.set_link("nic-a", False, "someone")
            assert not any(lab.up().values())
            told = [data["name"] for name, data in lab.events if name == "LINK_CHANGED"]
            assert told == ["nic-a", "b", "nic-b", "nic-c", "d", "nic-d"]
            causes = {each.id: each for each in lab.network.journal.select()}
            change, chain = lab.network.journal.select("nic-d")[-1], ["nic-d"]
            while change.caused_by is not None:
                change = causes[change.caused_by]
                chain.append(change.name)
            assert chain == ["nic-d", "d", "nic-c", "b", "nic-a"]
            [entry] = lab.network.query_links("d")
            assert [hold.via for hold in entry.holds] == [("c", "b", "a")]
            lab.network.set_link("nic-a", True, "someone")
            assert all(lab.up().values())

    run(main())


def test_circle_is_told_once_and_does_not_keep_itself_down(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            for name in "abc":
                lab.wired(name)
            with caplog.at_level(logging.WARNING):
                lab.follow("f0", "nic-a", "b")
                lab.follow("f1", "nic-b", "c")
                assert not caplog.messages
                lab.follow("f2", "nic-c", "a")
            rule = "none is down only because of the others"
            assert sorted(caplog.messages) == [
                f"nic-a: a circle of followers, f0 → f2 → f1 → f0: {rule}",
                f"nic-b: a circle of followers, f1 → f0 → f2 → f1: {rule}",
                f"nic-c: a circle of followers, f2 → f1 → f0 → f2: {rule}",
            ]
            caplog.clear()
            for name in "abc":
                lab.network.set_link(f"nic-{name}", False, "test")
                assert not any(lab.up().values())
                lab.network.set_link(f"nic-{name}", True, "test")
                assert all(lab.up().values())
            assert not caplog.messages

    run(main())


def test_inverted_circle_stays_down_and_says_so() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            for name in "abc":
                lab.wired(name)
            lab.follow("f0", "nic-a", "b", invert=True)
            lab.follow("f1", "nic-b", "c", invert=True)
            lab.follow("f2", "nic-c", "a", invert=True)
            assert not any(lab.up().values())
            text = "link-follow f0 has invert=on in a circle of followers: f0 → f2 → f1 → f0"
            assert lab.held("nic-a") == text
            object_del(lab.context, "f2")
            assert lab.up() == {"a": True, "b": False, "c": True}

    run(main())


def test_circle_through_own_cable() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            for name in "ab":
                lab.add(CableOptions(id=name, cable="c0", follow="operator"))
                lab.nic(name, f"nic-{name}")
            lab.follow("f0", "nic-b", "a")
            lab.network.set_link("nic-a", False, "test")
            assert lab.up() == {"a": False, "b": False}
            lab.network.set_link("nic-a", True, "test")
            assert lab.up() == {"a": True, "b": True}

    run(main())


def test_bad_options_are_refused() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            lab.wired("a")

            def add(**options: Any) -> None:
                object_add(lab.context, LinkFollowOptions(**options))

            for options in ({}, {"ifname": "eth0", "netdev": "b"}):
                with pytest.raises(NetError, match=r"^exactly one of 'ifname' and 'netdev' has to be given$"):
                    add(id="f0", nic="nic-a", **options)
            add(id="f0", nic="nic-a", netdev="b")
            with pytest.raises(NetError, match=r"^attempt to add duplicate property 'f0'"):
                add(id="f0", nic="nic-b", netdev="b")
            with pytest.raises(NetError, match=r"^'nic-a' follows already: object 'f0'$"):
                add(id="f1", nic="nic-a", netdev="a")
            with pytest.raises(NetError, match=r"^Parameter 'id' expects an identifier$"):
                add(id="1f", nic="nic-b", netdev="a")
            with pytest.raises(NetError, match=r"^object 'f1' not found$"):
                object_del(lab.context, "f1")

    run(main())


def test_qom() -> None:
    async def main() -> None:
        async with FollowLab() as lab:
            lab.follow("f0", "nic-a", "b", invert=True)
            assert ("f0", "child<link-follow>") in qom.list_(lab.network, "/objects")
            assert qom.list_(lab.network, "/objects/f0") == [
                ("type", "string"),
                ("invert", "bool"),
                ("netdev", "string"),
                ("ifname", "string"),
                ("nic", "string"),
            ]
            assert qom.get(lab.network, "f0", "netdev") == "b"
            assert qom.get(lab.network, "f0", "invert") is True
            with pytest.raises(NetError, match=r"^Property 'link-follow.nic' is not writable$"):
                qom.set_(lab.network, "f0", "nic", "nic-b", "test")

    run(main())


def test_end_of_vnic_brings_no_link_up() -> None:
    async def main() -> None:
        lab = FollowLab()
        lab.wired("a")
        lab.follow("f0", "nic-a", "b")
        lab.events.clear()
        lab.network.close()
        assert not [data for name, data in lab.events if data.get("link") == "up"]
        assert not list(lab.network.objects)

    run(main())
