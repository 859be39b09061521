"""CCMs of TUNNEL ports: made and judged by the program's own thread, on the frames' own path."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.tunnel_peer import (
    DOWN,
    MEP,
    NOT_PRESENT,
    UP,
    VNI,
    Ccm,
    TunnelPeer,
    TunnelSocket,
    vxlan,
)
from tests.fakes.wire_ends import Stream
from tests.fakes.wire_program import WireProgram, frame, until

from vnic.dataplane.wire.messages import PortRemove
from vnic.dataplane.wire.tunnel_messages import CcmMode, CcmSet, CcmState, Heard, TunnelState

pytestmark = pytest.mark.needs("loopback")

SLOW = 1_000_000
"""An interval that does not pass in a test by itself."""
LOST_US = 35_000
"""3.5 intervals of 10 ms."""


def tunnel(
    wire: WireProgram, interval_us: int = 10_000, mode: CcmMode = CcmMode.ON, **more: Any
) -> TunnelPeer:
    return TunnelPeer(TunnelSocket(wire), 2, mode=mode, interval_us=interval_us, **more)


class Talker:
    """Says CCMs from a thread, until it ends. Their interval is 20 times as long as the pauses between them, so that it
    may be late."""

    def __init__(self, peer: TunnelPeer, first: int = 1) -> None:
        self.peer = peer
        self.sequence = first
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.ended.is_set():
            self.peer.say(Ccm(self.sequence, interval_us=100_000))
            self.sequence += 1
            self.ended.wait(0.005)

    def __enter__(self) -> Talker:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


@pytest.mark.parametrize("interval_us", [3333, 10_000, 100_000])
def test_ccms_are_sent_each_interval(program: Path, interval_us: int) -> None:
    state = TunnelState(sequence=0xFFFF_FFFE)
    start = time.monotonic()
    with WireProgram(program) as wire, tunnel(wire, interval_us, state=state, level=3, status=DOWN) as peer:
        got = [peer.hear() for _ in range(5)]
        # The first one at once, the next at a multiple of the interval, then each interval.
        assert time.monotonic() - start >= 3 * interval_us / 1e6
        assert got == [
            Ccm(number % (1 << 32), MEP, True, DOWN, interval_us, 3)
            for number in range(0xFFFF_FFFE, 0xFFFF_FFFE + 5)
        ]
        assert peer.stats.ccm_sent >= 5


def test_ccm_is_sent_at_once_when_the_status_changes(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer:
        first = peer.hear()
        for status in (DOWN, NOT_PRESENT, UP):
            wire.request(CcmSet(2, status))
            sent = peer.hear(lambda ccm, status=status: ccm.status == status)  # type: ignore[misc]  # bound
        assert sent.sequence in (first.sequence + 3, first.sequence + 4)


def test_peer_is_heard_and_its_word_told(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer:
        assert peer.hear().rdi
        peer.say(Ccm(1, rdi=True, interval_us=SLOW))
        state = peer.await_state(lambda _: True)
        assert (state.heard, state.rdi, state.status, state.refused) == (Heard.YES, True, UP, False)
        assert not peer.hear(lambda ccm: not ccm.rdi).rdi  # at once, since this end hears now
        for number, (rdi, status) in enumerate([(False, UP), (False, DOWN), (False, 0), (False, 7)]):
            peer.say(Ccm(2 + number, rdi=rdi, status=status, interval_us=SLOW))
            state = peer.await_state(lambda _: True)
            assert (state.heard, state.rdi, state.status) == (Heard.YES, rdi, status)
            assert state.remote_sequence == 2 + number
        peer.say(Ccm(9, status=7, interval_us=SLOW))  # nothing new
        until(lambda: peer.stats.ccm_received == 6)
        assert wire.events == []


def test_silent_peer_is_lost_and_heard_again(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire) as peer:
        peer.say(Ccm(1))
        assert peer.hear(lambda ccm: not ccm.rdi)
        lost = peer.await_state(lambda state: state.heard == Heard.LOST)
        assert lost.silent_us >= LOST_US
        assert peer.hear(lambda ccm: ccm.rdi)
        peer.say(Ccm(2, interval_us=SLOW))
        peer.await_state(lambda state: state.heard == Heard.YES)
        assert peer.hear(lambda ccm: not ccm.rdi)


def test_silence_is_judged_by_the_interval_of_the_peer(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer:
        peer.say(Ccm(1, interval_us=3333))
        lost = peer.await_state(lambda state: state.heard == Heard.LOST)
        assert lost.silent_us >= 11_666


def test_automatic_mode_expects_nothing_before_the_first_ccm(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, mode=CcmMode.AUTO) as peer:
        assert not any(peer.hear().rdi for _ in range(5))
        assert wire.events == []
        peer.say(Ccm(1))
        peer.await_state(lambda state: state.heard == Heard.LOST)
        assert peer.hear(lambda ccm: ccm.rdi)


def test_without_ccms_they_pass_as_frames(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        peer.say(Ccm(1))
        assert stream.receive() == Ccm(1).frame()
        stream.send(Ccm(2).frame())
        assert peer.receive() == [Ccm(2).frame()]


def test_only_cfm_of_higher_levels_passes(program: Path) -> None:
    """Those at the tunnel's level and below are its own: a guest can neither hear nor forge them."""
    tagged = Ccm(1).frame()[:12] + bytes.fromhex("81000007") + Ccm(1).frame()[12:]
    loopback = bytearray(Ccm(1, level=3).frame())
    loopback[15] = 3  # LBM
    with WireProgram(program) as wire, Stream(wire, 1) as stream, tunnel(wire, SLOW, level=3) as peer:
        wire.wire(1, 1, 2)
        higher = Ccm(1, level=4).frame()
        stream.send(
            Ccm(9, MEP, level=3).frame(), bytes(loopback), Ccm(9, MEP, level=0).frame(), tagged, higher
        )
        assert peer.hear(lambda ccm: ccm.level == 4)
        assert peer.receive() == [tagged]
        assert wire.stats(2).filtered == 3
        assert {ccm.sequence for ccm in peer.ccms} <= {0, 1}
        peer.send(
            bytes(loopback),
            Ccm(1, level=0).frame(),
            Ccm(1, level=3, interval_us=SLOW).frame(),
            tagged,
            higher,
        )
        assert stream.receive_all(2) == [tagged, higher]
        assert wire.stats(2).filtered == 4
        assert (peer.stats.ccm_received, peer.stats.wrong_level) == (1, 1)


def cut(ccm: bytes, at: int, value: int) -> bytes:
    changed = bytearray(ccm)
    changed[14 + at] = value
    return bytes(changed)


def test_bad_ccms_are_counted_and_logged_once(program: Path) -> None:
    good = Ccm(5).frame()
    malformed = [
        *(good[:14], good[:80], good[:87], cut(good, 2, 0), cut(good, 3, 69), cut(good, 3, 255)),
        *(cut(good, 76, 0), cut(good, 76, 2), cut(good, 77, 0), cut(good, 77, 8), cut(good, 76, 255)),
        *(cut(good, 74, 9)[:90], good[:91]),
    ]
    with WireProgram(program) as wire, tunnel(wire, SLOW, level=1) as peer:
        level1 = [cut(each, 0, 0x20) if len(each) > 14 else each for each in malformed]
        for _ in range(3):
            peer.send(*level1)
            peer.send(good)  # of level 0
            peer.send(Ccm(1, level=1, maid=bytes(48)).frame())
            peer.send(*(Ccm(1, mep, level=1).frame() for mep in (MEP, 0, 8192)))
        until(lambda: peer.stats.wrong_mep == 9)
        stats = peer.stats
        assert (stats.bad_ccm, stats.wrong_level, stats.wrong_maid) == (3 * len(malformed), 3, 3)
        assert stats.ccm_received == 0
        assert sorted(peer.troubles) == ["bad_ccm", "wrong_level", "wrong_maid", "wrong_mep"]
        assert not [event for event in wire.events if isinstance(event, CcmState)]


def test_unknown_tlvs_and_versions_are_passed_over(program: Path) -> None:
    """802.1Q §20.46: what a later version adds."""
    good = Ccm(5, interval_us=SLOW).frame()
    later = [
        cut(good, 0, 0x1F),
        good[:88] + bytes.fromhex("02 0001 02 1f 0003 000000 04 0001 02 00"),
        cut(good[:88] + bytes(4) + good[88:], 3, 74),
        good[:88],
        good[:92],
        good + bytes(20),
    ]
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer:
        for number, each in enumerate(later):
            peer.send(each[:18] + (10 + number).to_bytes(4, "big") + each[22:])
        until(lambda: peer.stats.ccm_received == len(later))
        assert peer.stats.bad_ccm == 0


def test_old_and_repeated_sequence_numbers_are_ignored(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer:
        numbers = [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 5, 5, 4, 0xFFFF_FFFF, 6, 6 + (1 << 31), 7 + (1 << 31), 7]
        for number in numbers:
            peer.say(Ccm(number, status=UP, interval_us=SLOW))
        until(lambda: peer.stats.ccm_received + peer.stats.old_sequence == len(numbers))
        assert (peer.stats.ccm_received, peer.stats.old_sequence) == (6, 5)
        assert peer.troubles == ["old_sequence"]


def test_peer_that_does_not_number_is_heard(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer:
        for _ in range(3):
            peer.say(Ccm(0, interval_us=SLOW))
        until(lambda: peer.stats.ccm_received == 3)
        assert peer.stats.old_sequence == 0


def test_peer_started_anew_with_an_old_number_is_heard_when_it_was_lost(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire) as peer:
        peer.say(Ccm(1_000_000))
        with Talker(peer, first=1):
            until(lambda: peer.stats.ccm_received > 2)
        assert peer.stats.old_sequence > 0


def test_lack_of_processor_is_not_the_silence_of_the_peer(program: Path) -> None:
    """The program is stopped for more than 3.5 intervals; its peer's CCMs wait at the socket meanwhile."""
    with WireProgram(program) as wire, tunnel(wire) as peer, Talker(peer) as talker:
        peer.await_state(lambda state: state.heard == Heard.YES)
        for _ in range(3):
            os.kill(wire.child.pid, signal.SIGSTOP)
            first = talker.sequence
            until(lambda first=first: talker.sequence > first + 120)  # type: ignore[misc]  # bound
            os.kill(wire.child.pid, signal.SIGCONT)
            before = peer.stats.ccm_received
            until(lambda before=before: peer.stats.ccm_received >= before + 20)  # type: ignore[misc]  # bound
        assert not [event for event in wire.events if isinstance(event, CcmState)]
        assert peer.stats.old_sequence == 0


def test_flood_does_not_hide_a_dead_peer(program: Path) -> None:
    """The socket is never empty, and the worker has always something to read."""
    ended = threading.Event()
    with WireProgram(program) as wire, tunnel(wire) as peer, socket.socket(type=socket.SOCK_DGRAM) as other:

        def flood() -> None:
            datagram = vxlan(frame(1), VNI + 1)
            while not ended.is_set():
                other.sendto(datagram, peer.shared.address)

        peer.say(Ccm(1))
        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        lost = peer.await_state(lambda state: state.heard == Heard.LOST)
        ended.set()
        for thread in threads:
            thread.join()
        assert lost.silent_us >= LOST_US


def test_flood_between_ccms_makes_no_false_alarm(program: Path) -> None:
    """The program finds its socket never empty after it was stopped; but each CCM is there."""
    with WireProgram(program) as wire, tunnel(wire) as peer, Talker(peer) as talker:
        peer.await_state(lambda state: state.heard == Heard.YES)
        os.kill(wire.child.pid, signal.SIGSTOP)
        end = talker.sequence + 120
        for number in range(100):  # the socket has room for them
            peer.send_raw(vxlan(frame(number), VNI + 1))
        until(lambda: talker.sequence > end)
        os.kill(wire.child.pid, signal.SIGCONT)
        for number in range(1000):
            peer.send_raw(vxlan(frame(number), VNI + 1))
        until(lambda: peer.stats.ccm_received >= 100)
        assert not [event for event in wire.events if isinstance(event, CcmState)]


def test_peer_that_does_not_listen_is_told_at_once(program: Path) -> None:
    """ICMP; the CCMs go on, and the next one from there ends it."""
    with WireProgram(program) as wire, tunnel(wire) as peer:
        address = peer.sock.getsockname()
        peer.say(Ccm(1, interval_us=SLOW))
        peer.await_state(lambda state: state.heard == Heard.YES)
        peer.sock.close()
        state = peer.await_state(lambda state: state.refused)
        assert state.heard == Heard.YES
        peer.sock = socket.socket(type=socket.SOCK_DGRAM)
        peer.sock.bind(address)
        peer.sock.settimeout(60)
        peer.ccms.clear()
        assert peer.hear()
        peer.say(Ccm(2, interval_us=SLOW))
        peer.await_state(lambda state: not state.refused)


def test_end_of_control_is_told_to_all_peers(program: Path) -> None:
    with WireProgram(program) as wire:
        shared = TunnelSocket(wire)
        key = bytes(32)
        with (
            TunnelPeer(shared, 2, mode=CcmMode.ON, interval_us=SLOW) as one,
            TunnelPeer(shared, 3, vni=3, mode=CcmMode.AUTO, interval_us=SLOW, key=key) as two,
            TunnelPeer(shared, 4, vni=4) as off,
        ):
            wire.sock.close()
            assert wire.child.wait(60) == 0
            for peer in (one, two):
                last = peer.hear(lambda ccm: ccm.status == NOT_PRESENT)
                assert last.interval_us == SLOW
                assert not peer.ccms
            off.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                off.sock.recv(1 << 17)


def test_state_is_handed_over_and_back(program: Path) -> None:
    before = TunnelState(sequence=500)
    with WireProgram(program) as wire, Stream(wire, 1):
        shared = TunnelSocket(wire)
        with TunnelPeer(shared, 2, mode=CcmMode.ON, interval_us=10_000, state=before) as peer:
            peer.say(Ccm(70, status=DOWN, rdi=True, interval_us=SLOW))
            peer.await_state(lambda state: state.status == DOWN)
            state = TunnelState.parse(wire.request(PortRemove(2)))
            last = peer.hear(lambda ccm: not ccm.rdi)
            peer.sock.setblocking(False)
            try:
                while True:
                    last = peer.hear()
            except BlockingIOError:
                pass
            assert state.sequence == last.sequence + 1
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            assert 0 < state.heard_ns < now
            assert msgspec.structs.replace(state, heard_ns=0, sequence=0) == TunnelState(
                remote_sequence=70,
                remote_interval_us=SLOW,
                remote_mep=MEP + 1,
                heard=Heard.YES,
                rdi=True,
                remote_status=DOWN,
            )
        wire.events.clear()
        with TunnelPeer(shared, 2, mode=CcmMode.ON, interval_us=SLOW, state=state) as peer:
            assert peer.hear() == Ccm(state.sequence, MEP, False, UP, SLOW)  # it hears still
            peer.say(Ccm(70, interval_us=SLOW))
            peer.say(Ccm(71, interval_us=SLOW))
            assert peer.await_state(lambda _: True).status == UP
            assert (peer.stats.ccm_received, peer.stats.old_sequence) == (1, 1)


def test_states_that_control_does_not_read_are_one(program: Path) -> None:
    with WireProgram(program) as wire, tunnel(wire, SLOW) as peer, Stream(wire, 1) as stream:
        other = TunnelPeer(TunnelSocket(wire, 2), 3)
        wire.wire(1, 1, 3)
        for number in range(1, 40_000):
            peer.say(Ccm(number, status=1 + number % 2, interval_us=SLOW))
            if number % 100 == 0:
                other.send(frame(number))
                stream.receive()
        until(lambda: peer.stats.ccm_received == 39_999)
        states = [event for event in wire.events if isinstance(event, CcmState)]
        assert len(states) < 2000  # what the channel's socket holds
        assert states[-1].status == 1 + 39_999 % 2
        other.sock.close()
