"""Tests of cables: what shows at the other end, what does not, frames, and ends that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.backend.helpers import Guest, Lab, run, until

from vnic.backend.options import CableOptions, HubPortOptions
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.records import HoldKind, LinkChange, ShownBy


class CableLab(Lab):
    """Cables c0, c1 …, each with a NIC at both ends: `nic-a` at netdev `a` …, whose guests are ready."""

    def end(self, name: str, cable: str = "c0", follow: str | None = None, *, ready: bool = True) -> Nic:
        self.add(CableOptions(id=name, cable=cable, follow=follow))
        return self.plug(name, ready=ready)

    def plug(self, name: str, *, ready: bool = True) -> Nic:
        nic, _ = self.nic(name, f"nic-{name}")
        if ready:
            start(nic)
        return nic

    def guest(self, nic: Nic) -> Guest:
        assert isinstance(nic.endpoint, Guest)
        return nic.endpoint

    def held(self, netdev_id: str) -> str | None:
        """The text of its far-end hold."""
        client = self.network.find_netdev(netdev_id)
        assert client is not None
        hold = client.holds.get(HoldKind.FAR_END)
        return None if hold is None else hold.text

    def up(self, *nics: Nic) -> list[bool]:
        return [nic.link_up for nic in nics]

    def last(self, name: str) -> LinkChange:
        return self.network.journal.select(name)[-1]


def start(nic: Nic, shown_by: ShownBy = ShownBy.DEVICE) -> None:
    nic.report.guest_attached(shown_by)
    nic.report.driver_ok(True)


def test_pulled_at_one_end_shows_at_other() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            a, b = lab.end("a"), lab.end("b")
            assert lab.up(a, b) == [True, True]
            lab.network.set_link("nic-a", False, "someone")
            assert lab.up(a, b) == [False, False]
            assert lab.held("b") == "nic-a at the other end of cable c0 is held, operator: set_link nic-a off"
            assert lab.held("a") is None, "a wire does not hold itself by way of the other end"
            assert b.operstate == "lowerlayerdown"
            change = lab.last("nic-b")
            assert (change.cause.kind, change.cause.by) == ("far-end", "someone")
            causes = {each.id: each for each in lab.network.journal.select()}
            chain = [change.name]
            while change.caused_by is not None:
                change = causes[change.caused_by]
                chain.append(change.name)
            assert chain == ["nic-b", "b", "nic-a"]
            lab.network.set_link("nic-a", True, "someone")
            assert lab.up(a, b) == [True, True]
            assert lab.guest(b).link == [False, True]

    run(main())


def test_cause_is_told_before_its_effect() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            lab.end("a")
            lab.end("b")
            lab.events.clear()
            lab.network.set_link("a", False, "test")
            told = [(data["name"], data["id"]) for name, data in lab.events if name == "LINK_CHANGED"]
            assert [name for name, _ in told] == ["a", "nic-a", "b", "nic-b"]
            assert sorted(told, key=lambda each: each[1]) == told

    run(main())


def test_both_ends_held_by_operator_come_back_in_either_order() -> None:
    async def main() -> None:
        for first, second in (("nic-a", "nic-b"), ("nic-b", "nic-a")):
            async with CableLab() as lab:
                a, b = lab.end("a"), lab.end("b")
                lab.network.set_link("nic-a", False, "test")
                lab.network.set_link("nic-b", False, "test")
                lab.network.set_link(first, True, "test")
                assert lab.up(a, b) == [False, False]
                lab.network.set_link(second, True, "test")
                assert lab.up(a, b) == [True, True]
                assert not any(client.holds for client in lab.network.clients)

    run(main())


def test_guest_of_other_end() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            _, b = lab.end("a"), lab.end("b", ready=False)
            assert lab.held("a") == "nic-b at the other end of cable c0: its VM is not attached"
            b.report.guest_attached(None)
            assert lab.held("a") is not None, "nothing is known before the VM has negotiated"
            b.report.guest_shown_by(ShownBy.DEVICE)
            assert lab.held("a") == "nic-b at the other end of cable c0: its driver is not ready"
            b.report.driver_ok(True)
            assert lab.held("a") is None
            b.report.driver_ok(False)
            assert lab.held("a") == "nic-b at the other end of cable c0: its driver is not ready"
            b.report.driver_ok(True)
            b.report.guest_detached()
            assert lab.held("a") == "nic-b at the other end of cable c0: its VM is not attached"

    run(main())


@pytest.mark.parametrize(
    ("follow", "held"),
    [
        (None, {"pulled", "detached", "driver stopped"}),
        ("operator", {"pulled"}),
        ("attached", {"detached"}),
        ("driver", {"detached", "driver stopped"}),
        ("admin", {"detached", "driver stopped", "interface down"}),
        ("operator+admin", {"pulled", "detached", "driver stopped", "interface down"}),
        ("none", set()),
    ],
)
def test_follow_says_what_counts(follow: str | None, held: set[str]) -> None:
    async def main() -> None:
        async with CableLab() as lab:
            a = lab.end("a", follow=follow)
            b = lab.end("b")
            happens: dict[str, Callable[[], None]] = {
                "pulled": lambda: lab.network.set_link("nic-b", False, "test"),
                "detached": b.report.guest_detached,
                "driver stopped": lambda: b.report.driver_ok(False),
                "interface down": lambda: b.report.driver_ok(True, admin_down=True),
            }
            found = set()
            for what, happen in happens.items():
                assert lab.up(a) == [True]
                happen()
                if lab.up(a) == [False]:
                    found.add(what)
                lab.network.set_link("nic-b", True, "test")
                start(b)
            assert found == held

    run(main())


def test_guests_that_see_link_by_socket_do_not_wait_for_each_other() -> None:
    """Their sockets are closed while their links are down, and they come back after that."""

    async def main() -> None:
        async with CableLab() as lab:
            nics = [lab.end("a", ready=False), lab.end("b", ready=False)]
            for nic in nics:
                start(nic, ShownBy.SOCKET)
            a, b = nics
            lab.network.set_link("nic-a", False, "test")
            for nic in nics:
                assert not nic.link_up
                nic.report.guest_detached(ShownBy.SOCKET)
            lab.network.set_link("nic-a", True, "test")
            assert lab.up(a, b) == [True, True]
            for nic in nics:
                nic.report.guest_attached(None)
                assert lab.up(a, b) == [True, True]
                nic.report.guest_shown_by(ShownBy.SOCKET)
                assert lab.up(a, b) == [True, True]
            b.report.guest_detached(None)  # it left by itself
            assert lab.up(a) == [False]

    run(main())


def test_ends_come_and_go_in_any_order() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            lab.add(CableOptions(id="a", cable="c0"))
            assert lab.held("a") == "the other end of cable c0 does not exist"
            b = lab.end("b")
            assert lab.held("b") == "no NIC is plugged into a at the other end of cable c0"
            a = lab.plug("a")
            assert a.link_up
            assert b.link_up
            lab.network.delete_netdev("a", "test")
            assert lab.held("b") == "the other end of cable c0 does not exist"
            assert lab.last("b").caused_by == lab.last("nic-a").id
            lab.add(CableOptions(id="a", cable="c0"))
            assert a.link_up
            assert b.link_up
            lab.network.delete_nic("nic-b")
            assert lab.held("a") == "no NIC is plugged into b at the other end of cable c0"
            b = lab.plug("b")
            assert a.link_up
            lab.network.delete_netdev("b", "test")
            lab.network.delete_netdev("a", "test")
            lab.add(CableOptions(id="b", cable="c1"))
            lab.add(CableOptions(id="a", cable="c1"))
            assert a.link_up
            assert b.link_up

    run(main())


def test_third_end_is_refused() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            a, b = lab.end("a"), lab.end("b")
            with pytest.raises(NetError, match=r"^cable 'c0' is in use: its two ends are 'a' and 'b'$"):
                lab.add(CableOptions(id="c", cable="c0"))
            assert lab.network.find_netdev("c") is None
            assert a.link_up
            assert b.link_up
            for word in ("driver+carrier", "", "none+driver"):
                with pytest.raises(
                    NetError, match=r"^Parameter 'follow' expects 'none', or some of 'operator"
                ):
                    lab.add(CableOptions(id="d", cable="c1", follow=word))
            assert lab.info().count("type=cable,cable=c0") == 2

    run(main())


def test_frames_pass_with_offloads_and_wait_for_room() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            a, b = lab.end("a"), lab.end("b")
            far = lab.guest(b)
            far.wants_offload = True
            assert a.send(0, bytes(100), b"\1" + bytes(9))
            assert far.offloads == [b"\1" + bytes(9)]
            far.got.clear()
            far.room = 1
            assert a.send(0, b"1")
            assert a.send(0, b"2"), "the cable took it: it waits at the guest"
            assert not a.send(0, b"3")
            far.make_room()
            await until(lambda: far.got == [b"1", b"2", b"3"])
            assert lab.guest(a).resumed
            lab.network.set_link("nic-b", False, "test")
            assert a.send(0, b"lost")
            assert far.got == [b"1", b"2", b"3"]

    run(main())


def test_removing_full_receiver_resumes_sender() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            a, b = lab.end("a", follow="none"), lab.end("b")
            lab.guest(b).room = 0
            a.send(0, b"1")
            assert not a.send(0, b"2")
            lab.network.delete_netdev("b", "test")
            await until(lambda: bool(lab.guest(a).resumed))
            assert a.send(0, b"3")

    run(main())


def test_cable_into_hub() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            a = lab.end("a")
            lab.add(CableOptions(id="trunk", cable="c0"))
            assert lab.up(a) == [False]
            lab.add(HubPortOptions(id="p0", hubid=1, netdev="trunk"))
            assert lab.up(a) == [True]
            _, _, guest = lab.wire(HubPortOptions(id="p1", hubid=1))
            a.send(0, b"hello")
            await asyncio.sleep(0)
            assert guest.got == [b"hello"]

    run(main())


def test_link_off_at_start_shows_at_other_end() -> None:
    async def main() -> None:
        async with CableLab() as lab:
            b = lab.end("b")
            lab.add(CableOptions(id="a", cable="c0", link=False))
            start(lab.nic("a", "nic-a")[0])
            assert lab.up(b) == [False]
            lab.network.set_link("a", True, "test")
            assert lab.up(b) == [True]

    run(main())
