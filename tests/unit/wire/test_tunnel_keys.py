"""The key of TUNNEL ports: a trailer that tells datagrams of the peer from all others, and new ones from old ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.tunnel_peer import KEY, MEP, Ccm, TunnelPeer, TunnelSocket, sealed, vxlan
from tests.fakes.wire_ends import Stream
from tests.fakes.wire_program import WireProgram, frame, until

from vnic.dataplane.wire.messages import PortRemove
from vnic.dataplane.wire.tunnel_messages import CcmMode, Heard, TunnelState

pytestmark = pytest.mark.needs("loopback")

SLOW = 1_000_000
LONGEST = 65507 - 8 - 28


def test_frames_pass_both_ways(program: Path) -> None:
    sizes = [14, 60, 1514, 1514, 1514, 200, 9000, LONGEST]
    sent = [frame(number, 64)[:size].ljust(size, b"k") for number, size in enumerate(sizes)]
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as stream,
        TunnelPeer(TunnelSocket(wire), 2, key=KEY) as peer,
    ):
        wire.wire(1, 1, 2)
        stream.send(*sent)
        assert peer.receive(len(sent)) == sent
        assert peer.remote_counter == len(sent)
        peer.send(*sent)
        assert stream.receive_all(len(sent)) == sent
        stats = wire.stats(2)
        assert stats.bytes_out == stats.bytes_in == sum(sizes)
        stream.send(frame(1, LONGEST + 1), frame(2))
        assert peer.receive() == [frame(2)]
        assert wire.stats(2).too_long == 1


def test_what_the_key_does_not_vouch_for_has_no_effect(program: Path) -> None:
    datagram = vxlan(frame(1))
    whole = sealed(datagram, 5)
    bad = [
        *(datagram, datagram + bytes(28), sealed(datagram, 5, bytes(32)), whole[:-1], whole + b"\0"),
        *(bytes([whole[0], 1]) + whole[2:], whole[:20] + b"!" + whole[21:], sealed(datagram, 5, version=2)),
        sealed(vxlan(Ccm(1).frame()), 5, bytes(32)),
    ]
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as stream,
        TunnelPeer(TunnelSocket(wire), 2, key=KEY, mode=CcmMode.ON, interval_us=SLOW) as peer,
    ):
        wire.wire(1, 1, 2)
        for each in bad:
            peer.send_raw(each)
        peer.send_raw(sealed(datagram, 5, mep=MEP))  # as if it was sent back
        peer.send_raw(vxlan(b"short"))
        peer.send_raw(sealed(vxlan(b"short"), 6))
        peer.send_raw(sealed(vxlan(frame(2)), 7))
        assert stream.receive() == frame(2)
        stats = peer.stats
        assert (stats.bad_key, stats.wrong_mep, stats.truncated) == (len(bad), 1, 2)
        assert (stats.ccm_received, stats.bad_ccm) == (0, 0)
        assert sorted(peer.troubles) == ["bad_key", "truncated", "wrong_mep"]


def test_repeated_datagrams_are_dropped(program: Path) -> None:
    """A window of 64 lets datagrams overtake each other."""
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as stream,
        TunnelPeer(TunnelSocket(wire), 2, key=KEY) as peer,
    ):
        wire.wire(1, 1, 2)
        counters = [1000, 1000, 998, 998, 1001, 938, 937, 0, 1 << 63, 1001, (1 << 63) - 63, (1 << 63) - 64]
        for counter in counters:
            peer.send_raw(sealed(vxlan(frame(counter & 0xFFFF)), counter))
        passing = [1000, 998, 1001, 938, 1 << 63, (1 << 63) - 63]
        assert stream.receive_all(6) == [frame(counter & 0xFFFF) for counter in passing]
        until(lambda: peer.stats.replayed == 6)


def test_ccms_have_the_trailer(program: Path) -> None:
    with (
        WireProgram(program) as wire,
        TunnelPeer(TunnelSocket(wire), 2, key=KEY, mode=CcmMode.ON, interval_us=10_000) as peer,
    ):
        assert peer.hear().rdi
        peer.say(Ccm(1, interval_us=SLOW))
        peer.await_state(lambda state: state.heard == Heard.YES)
        assert peer.hear(lambda ccm: not ccm.rdi)


def test_counters_are_handed_over(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        shared = TunnelSocket(wire)
        state = TunnelState(counter=1 << 60)
        with TunnelPeer(shared, 2, key=KEY, state=state) as peer:
            wire.wire(1, 1, 2)
            stream.send(frame(1), frame(2))
            peer.receive(2)
            assert peer.remote_counter == (1 << 60) + 1
            peer.send_raw(sealed(vxlan(frame(3)), 100))
            peer.send_raw(sealed(vxlan(frame(4)), 98))
            stream.receive_all(2)
            state = TunnelState.parse(wire.request(PortRemove(2)))
        assert state == TunnelState(counter=(1 << 60) + 2, remote_counter=100, remote_window=0b101)
        with TunnelPeer(shared, 2, key=KEY, state=state) as peer:
            wire.wire(1, 1, 2)
            for counter in (100, 99, 98):
                peer.send_raw(sealed(vxlan(frame(counter)), counter))
            assert stream.receive() == frame(99)
            until(lambda: peer.stats.replayed == 2)
