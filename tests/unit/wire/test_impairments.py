"""IMPAIR: frames that are lost, doubled, corrupted, delayed and held up on their way, and what changes meanwhile."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.wire_ends import Stream, datagram_pair, tcp_frame
from tests.fakes.wire_program import PLAIN, Flow, Refused, Sink, WireProgram, frame, until

from vnic.dataplane.wire.impair_messages import (
    ALWAYS,
    MAX_ENTRIES,
    MAX_LIMIT,
    MAX_NS,
    MAX_RATE,
    GetImpairment,
    Impair,
    ImpairDirection,
    Impairment,
    ImpairReply,
    ImpairState,
)
from vnic.dataplane.wire.messages import HEAD, Direction, Dump, Inject, PortRemove
from vnic.net.offload import GSO_TCPV4, complete, encode
from vnic.nic.virtio_net.features import CSUM, HOST_TSO4

IN = ImpairDirection.IN
OUT = ImpairDirection.OUT
MS = 1_000_000
HOUR = MAX_NS
"""A delay that no test waits for."""
SEED = ImpairState(random=0x1234_5678_9ABC_DEF0, last=(1 << 31,) * 5)


def impair(
    wire: WireProgram, port: int, direction: ImpairDirection, state: ImpairState = SEED, **parameters: Any
) -> ImpairReply:
    return ImpairReply.parse(wire.request(Impair(port, direction, Impairment(**parameters), state)))


def end(wire: WireProgram, port: int, direction: ImpairDirection) -> ImpairReply:
    return ImpairReply.parse(wire.request(Impair(port, direction)))


def counted(wire: WireProgram, port: int, direction: ImpairDirection) -> ImpairReply:
    return ImpairReply.parse(wire.request(GetImpairment(port, direction)))


def part(percent: float) -> int:
    return int(ALWAYS * percent / 100)


def draws(state: int) -> Iterator[int]:
    """SplitMix64's."""
    mask = (1 << 64) - 1
    while True:
        state = (state + 0x9E37_79B9_7F4A_7C15) & mask
        z = (state ^ state >> 30) * 0xBF58_476D_1CE4_E5B9 & mask
        z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB & mask
        yield (z ^ z >> 31) >> 32


class Lab:
    """Two streams on a wire, by turns small enough that the program reads each at once."""

    def __init__(self, program: Path, **options: Any) -> None:
        self.wire = WireProgram(program, **options)

    def __enter__(self) -> Lab:
        self.wire.__enter__()
        self.one, self.two = Stream(self.wire, 1), Stream(self.wire, 2)
        self.wire.wire(1, 1, 2)
        return self

    def __exit__(self, *raised: Any) -> None:
        self.one.sock.close()
        self.two.sock.close()
        self.wire.__exit__(*raised)

    def sent(self, *frames: bytes) -> None:
        """The program has read them all."""
        before = self.wire.stats(1).frames_in
        self.one.send(*frames)
        until(lambda: self.wire.stats(1).frames_in == before + len(frames))


def test_random_numbers_are_splitmix64s(program: Path) -> None:
    """The state tells how many were drawn; the generator's published outputs for the state 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    numbers = draws(1234567)
    assert [next(numbers) for _ in expected] == [each >> 32 for each in expected]
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, ImpairState(random=1234567), loss=expected[1] >> 32)
        lab.sent(*map(frame, range(3)))
        assert lab.two.receive_all(2) == [frame(0), frame(2)]
        state = counted(lab.wire, 1, IN).state
        assert state.random == 1234567 + 3 * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1


@pytest.mark.parametrize("direction", [IN, OUT])
def test_the_frames_that_are_lost_are_those_of_the_seed(program: Path, direction: ImpairDirection) -> None:
    loss, numbers = part(20), draws(SEED.random)
    lost = [next(numbers) <= loss for _ in range(1000)]
    with Lab(program) as lab:
        port = 1 if direction == IN else 2
        impair(lab.wire, port, direction, loss=loss)
        for first in range(0, 1000, 50):
            lab.sent(*(frame(number) for number in range(first, first + 50)))
        passed = [frame(number) for number in range(1000) if not lost[number]]
        assert lab.two.receive_all(len(passed)) == passed
        until(lambda: counted(lab.wire, port, direction).passed == len(passed))
        reply = counted(lab.wire, port, direction)
        assert (reply.lost, reply.waiting, reply.over_limit) == (sum(lost), 0, 0)
        lab.two.send(frame(1))  # the other direction is as it was
        assert lab.one.receive() == frame(1)


def test_duplicates_follow_their_frames(program: Path) -> None:
    duplicate, numbers = part(30), draws(SEED.random)
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, duplicate=duplicate)
        frames = [frame(number, 60 + number) for number in range(200)]
        expected = [each for each in frames for _ in range(1 + (next(numbers) <= duplicate))]
        for first in range(0, 200, 50):
            lab.sent(*frames[first : first + 50])
        assert lab.two.receive_all(len(expected)) == expected
        assert counted(lab.wire, 1, IN).duplicated == len(expected) - len(frames)


def test_one_bit_of_a_corrupted_frame_is_flipped(program: Path) -> None:
    corrupt, numbers = part(50), draws(SEED.random)
    with Lab(program) as lab:
        impair(lab.wire, 2, OUT, corrupt=corrupt)
        corrupted = 0
        for number, size in enumerate((14, 15, 60, 1514, 1992, 1993, 4032, 4033, 9000, 69632) * 5):
            expected = bytearray(frame(number, size))
            if next(numbers) <= corrupt:
                next(numbers)  # the part: there is one
                bit = next(numbers) * 8 * len(expected) >> 32
                expected[bit >> 3] ^= 1 << (bit & 7)
                corrupted += 1
            lab.sent(frame(number, size))
            assert lab.two.receive() == expected
        assert counted(lab.wire, 2, OUT).corrupted == corrupted > 10


@pytest.mark.parametrize("to_segment", [False, True])
def test_a_corrupted_frame_is_completed_first(program: Path, to_segment: bool) -> None:
    """A checksum that is completed after the damage would make the frame good again."""
    data, l4 = tcp_frame(bytes(range(256)) * 40)
    header = encode(GSO_TCPV4 if to_segment else 0, 1448 if to_segment else 0, l4 + 20, l4, 16)
    expected = [bytearray(each) for each in complete(header, data)]
    numbers = draws(SEED.random)
    next(numbers)
    damaged = expected[next(numbers) * len(expected) >> 32]
    bit = next(numbers) * 8 * len(damaged) >> 32
    damaged[bit >> 3] ^= 1 << (bit & 7)
    with WireProgram(program) as wire, Stream(wire, 2) as far:
        guest = wire.started_guest(1, PLAIN | CSUM | HOST_TSO4)
        wire.wire(1, 1, 2)
        impair(wire, 1, IN, corrupt=ALWAYS)
        guest.driver.queue_tx(data, 0, header)
        guest.driver.rings[1].publish()
        assert far.receive_all(len(expected)) == expected


def test_offloads_pass_a_line(program: Path) -> None:
    data, l4 = tcp_frame(bytes(range(256)) * 200)
    header = encode(GSO_TCPV4, 1448, l4 + 20, l4, 16)
    with WireProgram(program) as wire, Stream(wire, 2) as far:
        guest = wire.started_guest(1, PLAIN | CSUM | HOST_TSO4)
        wire.wire(1, 1, 2)
        impair(wire, 1, IN, delay_ns=MS)
        impair(wire, 2, OUT, delay_ns=MS)
        guest.driver.queue_tx(data, 0, header)
        guest.driver.rings[1].publish()
        expected = complete(header, data)
        assert far.receive_all(len(expected)) == expected
        assert counted(wire, 2, OUT).passed == 1


def test_a_corrupted_frame_with_a_wrong_header_is_left_to_its_receiver(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 2) as far:
        guest = wire.started_guest(1, PLAIN | CSUM | HOST_TSO4)
        wire.wire(1, 1, 2)
        impair(wire, 1, IN, corrupt=ALWAYS)
        guest.driver.queue_tx(frame(1), 0, encode(GSO_TCPV4, 1448, 54, 14, 16))
        guest.driver.rings[1].publish()
        until(lambda: wire.stats(2).bad_offload == 1)
        impair(wire, 1, IN)
        guest.send(frame(2))
        assert far.receive() == frame(2)


def test_no_frame_is_early(program: Path) -> None:
    delay = 20 * MS
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=delay)
        impair(lab.wire, 2, OUT, delay_ns=delay)
        for size in (14, 1514, 69632):
            began = time.monotonic_ns()
            lab.one.send(frame(1, size))
            assert lab.two.receive() == frame(1, size)
            assert time.monotonic_ns() - began >= 2 * delay


def test_the_rate_is_not_exceeded(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, rate=1_000_000)
        began = time.monotonic_ns()
        lab.one.send(*(frame(number, 1000) for number in range(50)))
        assert lab.two.receive_all(50) == [frame(number, 1000) for number in range(50)]
        assert time.monotonic_ns() - began >= 50 * MS


def test_frames_leave_in_the_order_in_which_they_are_due(program: Path) -> None:
    """One batch of a guest has one time of arrival. The table's steps are long enough to tell the frames apart."""
    table = tuple(random.Random(1).sample(range(0, 32000, 250), 128))
    numbers = draws(SEED.random)
    delays = {number: table[next(numbers) * len(table) >> 32] for number in range(60)}
    expected = sorted(delays, key=lambda number: (delays[number], number))
    with WireProgram(program) as wire:
        one, two = wire.joined()
        impair(wire, 1, IN, jitter_ns=40 * MS, table=table)
        two.driver.fill_rx(100)
        one.send(*map(frame, range(60)))
        assert two.receive(60) == [frame(number) for number in expected]


def test_uniform_jitter_loses_and_doubles_nothing(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        impair(wire, 2, OUT, delay_ns=3 * MS, jitter_ns=3 * MS, limit=10000)
        flow, sink = Flow(one), Sink(two, 128)
        while flow.sent < 5000:
            flow.push(64)
            sink.take()
        until(lambda: len(sink.take()) == flow.sent)
        assert sorted(sink.frames) == [frame(number) for number in range(flow.sent)]
        assert sink.frames != sorted(sink.frames)


def test_every_nth_frame_overtakes_the_others(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        impair(wire, 1, IN, delay_ns=20 * MS, gap=5, reorder=ALWAYS)
        two.driver.fill_rx(100)
        one.send(*map(frame, range(20)))
        assert two.receive(20) == [frame(n) for n in (4, 9, 14, 19, *(n for n in range(20) if n % 5 != 4))]
        reply = counted(wire, 1, IN)
        assert (reply.reordered, reply.state.counter, reply.state.random) == (
            *(4, 0),
            (SEED.random + 4 * 0x9E37_79B9_7F4A_7C15) & (1 << 64) - 1,
        )


def test_more_frames_than_the_limit_are_dropped(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=HOUR, limit=3)
        lab.sent(*map(frame, range(10)))
        reply = counted(lab.wire, 1, IN)
        assert (reply.waiting, reply.over_limit, reply.passed) == (3, 7, 0)
        assert lab.wire.stats(1).drops == {}


def test_long_frames_disappear_in_a_black_hole(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, max_frame=1000)
        lab.sent(frame(1, 1001), frame(2, 1000), frame(3, 69632), frame(4, 14))
        assert lab.two.receive_all(2) == [frame(2, 1000), frame(4, 14)]
        assert counted(lab.wire, 1, IN).too_long == 2
        assert counted(lab.wire, 1, IN).state == SEED


@pytest.mark.parametrize(("longest", "passes"), [(1502, True), (1501, False)])
def test_a_black_hole_asks_for_the_length_of_the_segments(program: Path, longest: int, passes: bool) -> None:
    data, l4 = tcp_frame(bytes(range(256)) * 40)
    header = encode(GSO_TCPV4, 1502 - l4 - 20, l4 + 20, l4, 16)
    with WireProgram(program) as wire, Stream(wire, 2) as far:
        guest = wire.started_guest(1, PLAIN | CSUM | HOST_TSO4)
        wire.wire(1, 1, 2)
        impair(wire, 1, IN, max_frame=longest)
        guest.driver.queue_tx(data, 0, header)
        guest.driver.rings[1].publish()
        guest.send(frame(1))
        expected = complete(header, data) if passes else []
        assert {len(each) for each in expected[:-1]} <= {1502}
        assert far.receive_all(len(expected) + 1) == [*expected, frame(1)]


def test_changes_keep_what_is_under_way(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=HOUR)
        lab.sent(frame(1))
        reply = impair(lab.wire, 1, IN, ImpairState(random=1), delay_ns=0)
        assert (reply.waiting, reply.state) == (1, SEED)
        lab.sent(frame(2))
        assert lab.two.receive() == frame(2)
        lab.wire.request(Impair(1, IN, Impairment(), ImpairState(random=1), take_state=True))
        reply = counted(lab.wire, 1, IN)
        assert (reply.waiting, reply.passed, reply.state.random) == (1, 1, 1)
        reply = end(lab.wire, 1, IN)
        assert (reply.waiting, reply.passed) == (1, 1)
        lab.one.send(frame(3))
        assert lab.two.receive() == frame(3)
        with pytest.raises(Refused) as refused:
            end(lab.wire, 1, IN)
        assert (refused.value.error, refused.value.text) == (errno.ENOENT, "direction: it is not impaired")


def test_changes_under_load_lose_only_what_they_say(program: Path) -> None:
    """The parameters change all the time, and each frame arrives or is counted."""
    source = random.Random(7)
    with WireProgram(program, workers=2) as wire:
        one, two = wire.joined()
        flow, sink = Flow(one), Sink(two, 128)
        dropped = 0
        for _ in range(200):
            flow.push(40)
            sink.take()
            direction, port = source.choice([(IN, 1), (OUT, 2)])
            if source.random() < 0.2:
                try:
                    reply = end(wire, port, direction)
                except Refused:
                    continue
                dropped += reply.waiting + reply.lost + reply.over_limit
            else:
                impair(
                    *(wire, port, direction),
                    delay_ns=source.choice([0, MS]),
                    loss=source.choice([0, 0, part(5)]),
                    jitter_ns=source.choice([0, MS]),
                    limit=source.choice([50, 1000]),
                    rate=source.choice([0, 10**9]),
                )
        for port, direction in ((1, IN), (2, OUT)):
            try:
                impair(wire, port, direction)
                while counted(wire, port, direction).waiting:  # for room in the sink, too
                    sink.take()
                reply = end(wire, port, direction)
                dropped += reply.lost + reply.over_limit
            except Refused:
                pass
        until(lambda: len(sink.take()) + dropped == flow.sent)
        assert len(set(sink.frames)) == len(sink.frames)


def test_frames_under_way_go_where_the_wire_leads_then(program: Path) -> None:
    with Lab(program) as lab, Stream(lab.wire, 3) as three:
        impair(lab.wire, 1, IN, delay_ns=MS, limit=MAX_LIMIT)
        frames = [frame(number, 9000) for number in range(400)]
        for first in range(0, 400, 20):
            lab.sent(*frames[first : first + 20])
        until(lambda: counted(lab.wire, 1, IN).passed)  # as many as find room: the far end does not read
        lab.wire.wire(1, 1, 3)
        passed = lab.wire.stats(2).frames_out
        assert lab.two.receive_all(passed) == frames[:passed]
        assert three.receive_all(400 - passed) == frames[passed:]


def test_frames_that_are_due_without_a_wire_are_lost(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=MS)
        lab.wire.wire(1)
        lab.sent(frame(1))
        until(lambda: counted(lab.wire, 1, IN).passed == 1)
        assert lab.wire.stats(1).no_peer == 1


def test_a_line_waits_for_room(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, limit=MAX_LIMIT)
        impair(lab.wire, 2, OUT, limit=MAX_LIMIT)
        frames = [frame(number, 9000) for number in range(1000)]
        for first in range(0, 1000, 20):
            lab.sent(*frames[first : first + 20])
        assert counted(lab.wire, 2, OUT).waiting > 0
        assert lab.two.receive_all(1000) == frames
        until(lambda: counted(lab.wire, 2, OUT).passed == 1000)


def test_a_line_waits_for_buffers_of_a_guest(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        impair(wire, 1, IN)
        one.send(*map(frame, range(20)))
        until(lambda: wire.stats(1).frames_in == 20)
        assert counted(wire, 1, IN).waiting == 20
        for count in (1, 2, 17):
            two.driver.fill_rx(count)
        assert two.receive(20) == [frame(number) for number in range(20)]


def test_a_frame_whose_segments_find_no_room_goes_on_where_it_was(program: Path) -> None:
    data, l4 = tcp_frame(bytes(range(256)) * 40)
    header = encode(GSO_TCPV4, 1448, l4 + 20, l4, 16)
    expected = complete(header, data)
    with WireProgram(program) as wire:
        one, two = wire.started_guest(1, PLAIN | CSUM | HOST_TSO4), wire.started_guest(2)
        wire.wire(1, 1, 2)
        impair(wire, 1, IN)
        one.driver.queue_tx(data, 0, header)
        one.driver.rings[1].publish()
        received = []
        for _ in expected:
            two.driver.fill_rx(1)
            received += two.receive(1)
        assert received == expected
        until(lambda: counted(wire, 1, IN).passed == 1)


def test_queues_keep_their_frames(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(pairs=2)
        impair(wire, 1, IN, delay_ns=MS)
        for pair in range(2):
            two.driver.fill_rx(10, pair=pair)
            one.send(frame(pair), frame(10 + pair), pair=pair)
        for pair in range(2):
            assert two.receive(2, pair) == [frame(pair), frame(10 + pair)]


def test_a_port_is_removed_with_its_frames(program: Path) -> None:
    with Lab(program) as lab:
        for port, direction in ((1, IN), (1, OUT), (2, OUT)):
            impair(lab.wire, port, direction, delay_ns=HOUR if port == 1 else 0)
        lab.sent(*(frame(number, 69632) for number in range(5)))
        lab.two.send(frame(1))
        until(lambda: counted(lab.wire, 1, OUT).waiting == 1)
        lab.wire.remove(1)
        with Stream(lab.wire, 1) as again:
            lab.wire.wire(1, 1, 2)
            again.send(frame(9))
            assert lab.two.receive() == frame(9)
            with pytest.raises(Refused):
                counted(lab.wire, 1, IN)


def test_memory_of_a_burst_is_given_back(program: Path) -> None:
    """An empty line that was full once keeps a few MiB."""

    def mapped() -> int:
        return int(Path(f"/proc/{lab.wire.child.pid}/statm").read_text().split()[0]) * os.sysconf(
            "SC_PAGESIZE"
        )

    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=HOUR, limit=1000)
        began = mapped()
        for _ in range(50):
            lab.sent(*(frame(number, 69632) for number in range(10)))
        assert mapped() - began > 30 << 20
        end(lab.wire, 1, IN)
        until(lambda: mapped() - began < 8 << 20)
        impair(lab.wire, 1, IN)
        for _ in range(20):
            lab.sent(*(frame(number, 69632) for number in range(200)))
            lab.two.receive_all(200)
        for number in range(40):
            lab.one.send(frame(number))
            assert lab.two.receive() == frame(number)
        until(lambda: mapped() - began < 12 << 20)


def test_a_killed_program_leaves_the_streams_whole(program: Path) -> None:
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=HOUR)
        lab.sent(frame(1), frame(2))
        lab.one.sock.sendall(b"\0\0\0\x40half")
        until(lambda: lab.wire.memories[1].read()[0] == b"\0\0\0\x40half")
        os.kill(lab.wire.child.pid, signal.SIGKILL)
        lab.wire.child.wait()
        assert lab.wire.memories[1].read() == (b"\0\0\0\x40half", b"")


def test_lines_move_with_their_ports_to_another_worker(program: Path) -> None:
    with Lab(program, workers=2) as lab:
        impair(lab.wire, 1, IN, delay_ns=2 * MS, limit=MAX_LIMIT)
        impair(lab.wire, 2, OUT, delay_ns=2 * MS, limit=MAX_LIMIT)
        sent = 0
        for number in range(50):
            lab.one.send(*(frame(each) for each in range(sent, sent + 20)))
            sent += 20
            lab.wire.wire(2 + number % 2, 1, 2)
        assert lab.two.receive_all(sent) == [frame(each) for each in range(sent)]


def test_dumps_are_nearer_to_the_port_than_lines(program: Path, tmp_path: Path) -> None:
    """A dump sees what its netdev sent, before it is lost, and what it got, after that."""
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, loss=ALWAYS)
        impair(lab.wire, 2, OUT, loss=ALWAYS)
        sizes = []
        for port, direction in ((1, Direction.TX), (2, Direction.RX)):
            path = tmp_path / f"{port}.pcap"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
            lab.wire.request(Dump(port, 1, 65536, direction), [fd])
            os.close(fd)
        lab.sent(frame(1))
        end(lab.wire, 1, IN)
        lab.sent(frame(2))
        until(lambda: counted(lab.wire, 2, OUT).lost == 1)
        sizes = [(tmp_path / f"{port}.pcap").stat().st_size for port in (1, 2)]
        assert sizes == [2 * (16 + 64), 0]


def test_what_control_sends_out_passes_by_the_line(program: Path) -> None:
    """Control has impaired it; what it sends into a wire passes the other port's line."""
    with Lab(program) as lab:
        impair(lab.wire, 1, IN, delay_ns=MS)
        impair(lab.wire, 2, OUT, delay_ns=MS)
        lab.wire.request(Inject(1, 0, frame(1), inward=True))
        assert lab.two.receive() == frame(1)
        lab.wire.request(Inject(2, 0, frame(2)))
        assert lab.two.receive() == frame(2)
        assert (counted(lab.wire, 1, IN).passed, counted(lab.wire, 2, OUT).passed) == (1, 1)


def test_a_hub_is_impaired_by_port(program: Path) -> None:
    with Lab(program) as lab, datagram_pair(lab.wire, 3) as three:
        lab.wire.wire(1, 1, 2, 3)
        impair(lab.wire, 2, OUT, loss=ALWAYS)
        impair(lab.wire, 1, IN, delay_ns=MS)
        lab.one.send(frame(1))
        assert three.recv(2000) == frame(1)
        end(lab.wire, 2, OUT)
        lab.one.send(frame(2))
        assert lab.two.receive() == three.recv(2000) == frame(2)


def test_memory_of_a_guest_that_is_lost_breaks_its_rings_only(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 3) as far, Stream(wire, 4) as other:
        one = wire.started_guest(1)
        wire.wire(1, 1, 3)
        wire.wire(2, 4)
        impair(wire, 1, IN, corrupt=part(50), delay_ns=MS)
        ring = one.driver.rings[1]
        lost = one.memory.guest_addr + one.memory.size - 4096
        os.truncate(one.memory.fd, one.memory.size - 8192)
        for _ in range(4):
            ring.add([(one.memory.alloc(12 + 2000), 12 + 2000), (lost, 3000)])
        ring.publish()
        until(lambda: wire.all_stats() and wire.events)
        wire.remove(1)
        wire.wire(2, 3, 4)
        far.send(frame(1))
        assert other.receive() == frame(1)


def test_frames_of_a_line_meet_lost_memory_of_their_guest(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 3) as far:
        one = wire.started_guest(1)
        wire.wire(1, 1, 3)
        impair(wire, 1, OUT, delay_ns=MS)
        one.driver.rings[0].add([], [(one.memory.guest_addr + one.memory.size - 4096, 2048)])
        os.truncate(one.memory.fd, one.memory.size - 8192)
        one.driver.rings[0].publish()
        far.send(frame(1), frame(2))
        until(lambda: counted(wire, 1, OUT).passed == 2)
        assert wire.stats(1).broken + wire.stats(1).no_peer == 2


BAD: dict[str, Impair] = {
    "port: there is no port 9": Impair(9, IN, Impairment()),
    "limit: 0": Impair(1, IN, Impairment(limit=0)),
    "limit: 1000001": Impair(1, IN, Impairment(limit=MAX_LIMIT + 1)),
    "delay_ns: too long": Impair(1, IN, Impairment(delay_ns=MAX_NS + 1)),
    "jitter_ns: too long": Impair(1, IN, Impairment(jitter_ns=MAX_NS + 1)),
    "rate: 1000000000001": Impair(1, IN, Impairment(rate=MAX_RATE + 1)),
    "entries: 16385 in 32898 bytes": Impair(1, IN, Impairment(table=(0,) * (MAX_ENTRIES + 1))),
}


@pytest.mark.parametrize(("text", "request_"), BAD.items(), ids=BAD)
def test_what_is_out_of_bounds_is_refused(program: Path, text: str, request_: Impair) -> None:
    with Lab(program) as lab:
        with pytest.raises(Refused) as refused:
            lab.wire.request(request_)
        assert refused.value.text == text
        with pytest.raises(Refused) as refused:
            counted(lab.wire, 1, IN)
        assert refused.value.error == errno.ENOENT


def test_misshapen_requests_are_refused(program: Path) -> None:
    with Lab(program) as lab:
        body = Impair(1, IN, Impairment(table=(1, 2))).body()
        for wrong in (body[:-1], body[:-2], body + b"\0", body[:119]):
            assert lab.wire.send_raw(HEAD.pack(20, 1) + wrong).error == errno.EINVAL
        for at, value, text in ((4, 3, b"direction: 3"), (4, 0, b"direction: 0"), (8, 4, b"flags: 0x4")):
            wrong = body[:at] + bytes([value]) + body[at + 1 :]
            assert lab.wire.send_raw(HEAD.pack(20, 1) + wrong).data == text
        assert lab.wire.send_raw(HEAD.pack(21, 1) + bytes(7)).error == errno.EINVAL
        assert lab.wire.send_raw(HEAD.pack(21, 1) + b"\1\0\0\0\7\0\0\0").error == errno.ENOENT


def test_extremes_do_no_harm(program: Path) -> None:
    with Lab(program) as lab:
        impair(
            *(lab.wire, 1, IN, ImpairState(ALWAYS, (ALWAYS,) * 5, ALWAYS)),
            delay_ns=MAX_NS,
            jitter_ns=MAX_NS,
            rate=1,
            duplicate=ALWAYS,
            corrupt=ALWAYS,
            reorder=ALWAYS,
            correlation=(ALWAYS,) * 5,
            gap=ALWAYS,
            max_frame=ALWAYS,
            table=(-32768, 32767) * (MAX_ENTRIES // 2),
        )
        lab.sent(*(frame(number, 69632) for number in range(20)))
        reply = counted(lab.wire, 1, IN)
        assert (reply.duplicated, reply.corrupted) == (20, 40)
        assert reply.waiting + reply.passed == 40


def test_ports_of_these_numbers_can_be_made_again(program: Path) -> None:
    with Lab(program) as lab:
        for _ in range(20):
            impair(lab.wire, 1, IN, delay_ns=HOUR)
            lab.sent(frame(1, 9000))
            lab.wire.request(PortRemove(1))
            lab.one.sock.close()
            lab.one = Stream(lab.wire, 1)
            lab.wire.wire(1, 1, 2)
        lab.one.send(frame(1))
        assert lab.two.receive() == frame(1)
