"""Tests of hubs: every port receives from the others, a port whose link is down is cut off, and no port waits for
ever."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.options import EchoOptions, HubPortOptions
from vnic.net.client_record import NetClientRecord
from vnic.net.errors import NetError


def test_frame_reaches_all_other_ports() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ends = [lab.wire(HubPortOptions(id=f"h{i}", hubid=1)) for i in range(3)]
            other = lab.wire(HubPortOptions(id="elsewhere", hubid=2))
            assert ends[0][1].send(0, b"hello")
            assert [guest.got for _, _, guest in ends] == [[], [b"hello"], [b"hello"]]
            assert other[2].got == []

    run(main())


def test_offloads_pass_through() -> None:
    async def main() -> None:
        async with Lab() as lab:
            _, first, _ = lab.wire(HubPortOptions(id="h0", hubid=1))
            _, _, guest = lab.wire(HubPortOptions(id="h1", hubid=1))
            guest.wants_offload = True
            assert first.send(0, bytes(100), b"\1" + bytes(9))
            assert guest.offloads == [b"\1" + bytes(9)]

    run(main())


def test_port_with_link_down_drops_only_its_traffic() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ends = [lab.wire(HubPortOptions(id=f"h{i}", hubid=1)) for i in range(3)]
            lab.network.set_link("h1", False, "test")
            ends[0][1].send(0, b"a")
            ends[1][1].send(0, b"b")
            assert [guest.got for _, _, guest in ends] == [[], [], [b"a"]]
            assert [nic.link_up for _, nic, _ in ends] == [True, False, True]

    run(main())


def test_full_receiver_pauses_sender() -> None:
    async def main() -> None:
        async with Lab() as lab:
            _, first, sender = lab.wire(HubPortOptions(id="h0", hubid=1))
            _, _, guest = lab.wire(HubPortOptions(id="h1", hubid=1))
            guest.room = 1
            assert first.send(0, b"1")
            assert first.send(0, b"2"), "the hub took it: it waits at the guest"
            assert not first.send(0, b"3")
            guest.make_room()
            await until(lambda: guest.got == [b"1", b"2", b"3"])
            assert sender.resumed

    run(main())


def test_removing_only_receiver_resumes_sender() -> None:
    async def main() -> None:
        async with Lab() as lab:
            _, first, sender = lab.wire(HubPortOptions(id="h0", hubid=1))
            _, _, guest = lab.wire(HubPortOptions(id="h1", hubid=1))
            guest.room = 0
            first.send(0, b"1")
            assert not first.send(0, b"2")
            lab.network.delete_netdev("h1", "test")
            await until(lambda: sender.resumed)
            assert first.send(0, b"3"), "a hub with one port drops"

    run(main())


def test_port_connects_to_netdev() -> None:
    async def main() -> None:
        async with Lab() as lab:
            lab.add(EchoOptions(id="host"))
            lab.add(HubPortOptions(id="h0", hubid=0, netdev="host"))
            lab.add(HubPortOptions(id="h1", hubid=0))
            lab.nic("h1")
            assert lab.info() == (
                "hub 0\n"
                " \\ h1: nic0: index=0,type=nic,\n"
                " \\ h0: host: index=0,type=echo,ip=10.0.2.2,ip6=fec0::2,mac=52:55:0a:00:02:02\n"
            )
            with pytest.raises(NetError, match=r"^netdev 'host' is in use$"):
                lab.add(HubPortOptions(id="h2", hubid=0, netdev="host"))
            with pytest.raises(NetError, match=r"^netdev 'zz' not found$"):
                lab.add(HubPortOptions(id="h3", hubid=0, netdev="zz"))
            assert [client.name for client in lab.network.clients] == ["host", "h0", "h1", "nic0"]

    run(main())


def test_hub_remains_without_ports() -> None:
    async def main() -> None:
        async with Lab() as lab:
            lab.add(HubPortOptions(id="h0", hubid=7))
            lab.add(HubPortOptions(id="h1", hubid=8))
            assert lab.info() == "hub 8\n \\ h1\nhub 7\n \\ h0\n"
            lab.network.delete_netdev("h0", "test")
            assert lab.info() == "hub 8\n \\ h1\nhub 7\n"
            lab.add(HubPortOptions(id="h2", hubid=7))
            assert lab.info() == "hub 8\n \\ h1\nhub 7\n \\ h2\n"

    run(main())


def test_storm_in_ring_of_hubs_does_not_block_loop() -> None:
    """As with real ones; the loop keeps turning, what waits is bounded, and the storm ends with the ring."""

    async def main() -> None:
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with Lab() as lab:
            for number in range(2):
                lab.add(HubPortOptions(id=f"a{number}", hubid=1))
                lab.add(HubPortOptions(id=f"b{number}", hubid=2, netdev=f"a{number}"))
            _, nic, _ = lab.wire(HubPortOptions(id="p1", hubid=1))
            _, _, far = lab.wire(HubPortOptions(id="p2", hubid=2))
            for number in range(100):
                nic.send(0, bytes([number]) * 60)
            await until(lambda: len(far.got) > 10_000)
            lab.network.delete_netdev("b1", "test")
            got = 0
            while got != len(far.got):
                got = len(far.got)
                await asyncio.sleep(0.02)
            assert nic.send(0, b"after the storm")
            await until(lambda: far.got[-1] == b"after the storm")
            assert len(far.got) == got + 1
        assert not failures

    run(main())


def test_frames_of_several_senders_wait_in_a_restored_hub() -> None:
    """No port has room: the frames of one sender wait at the guests, those of the others at their ports."""

    async def main() -> None:
        names = ["h0", "h1", "h2"]
        records: dict[str, NetClientRecord] = {}
        async with Lab() as before:
            ends = [before.wire(HubPortOptions(id=name, hubid=1)) for name in names]
            for _, _, guest in ends:
                guest.room = 0
            taken = [ends[at][1].send(0, b"%d" % at) for at in (0, 1, 0, 1, 2)]
            assert taken == [True, True, False, False, False]
            records = {each.name: each.save() for each in before.network.clients}
            assert [len(records[name].incoming[0].frames) for name in names] == [1, 1, 1]

        async with Lab() as after:
            guests = []
            for name in names:
                netdev, nic, guest = after.wire(HubPortOptions(id=name, hubid=1))
                guest.room = 0
                for client in (netdev, nic):
                    client.restore(records[client.name])
                guests.append(guest)
            await asyncio.sleep(0)
            assert not any(guest.got for guest in guests)
            for guest in guests:
                guest.make_room()
            await until(lambda: [len(guest.got) for guest in guests] == [3, 3, 4])
            got = [b"".join(sorted(guest.got)) for guest in guests]
            assert got == [b"112", b"002", b"0011"]

    run(main())
