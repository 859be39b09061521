"""What becomes of each frame: probabilities, their independence of the time, corruption that a receiver notices."""

from __future__ import annotations

import itertools

import pytest

from vnic.net.errors import NetError
from vnic.net.netem.decide import Copy, Decider, wire_length
from vnic.net.netem.info import Counts
from vnic.net.netem.parameters import NOTHING, changed
from vnic.net.netem.random import streams
from vnic.net.offload import GSO_TCPV4, GSO_UDP, GSO_UDP_L4, encode
from vnic.net.queue import Frame

FRAME = bytes(range(64)) * 4
N = 20_000


def decider(**given: object) -> Decider:
    words = {name.replace("_", "-"): value for name, value in given.items()}
    return Decider(changed(NOTHING, words), streams(42)[0], Counts())


def fates(unit: Decider, frames: int = N, frame: Frame = FRAME) -> list[list[Copy]]:
    return [unit.decide(frame, b"") for _ in range(frames)]


def test_nothing_is_done_without_parameters() -> None:
    unit = decider()
    before = unit.random.save()
    assert unit.decide(FRAME, b"") == [Copy([(FRAME, b"")], 0)]
    assert unit.random.save() == before, "no number is drawn for what is not there"


@pytest.mark.parametrize("percent", [0.1, 1, 10, 50])
def test_probabilities_are_those_asked_for(percent: float) -> None:
    unit = decider(loss=f"{percent}%", duplicate=f"{percent}%", corrupt=f"{percent}%")
    done = fates(unit)
    passed = sum(len(each) for each in done)
    expected = N * percent / 100
    spread = 5 * expected**0.5 + 5  # five standard deviations; the seed makes it repeat
    assert unit.counts.lost == pytest.approx(expected, abs=spread)
    assert unit.counts.duplicated == pytest.approx((N - unit.counts.lost) * percent / 100, abs=spread)
    assert unit.counts.corrupted == pytest.approx(passed * percent / 100, abs=spread)
    assert passed == N - unit.counts.lost + unit.counts.duplicated


def test_all_and_none() -> None:
    unit = decider(loss="100%")
    assert not any(fates(unit, 100))
    assert unit.counts.lost == 100


def test_correlated_losses_come_together() -> None:
    def bursts(**given: object) -> int:
        lost = [not each for each in fates(decider(loss="30%", **given))]
        return sum(before and not after for before, after in itertools.pairwise(lost))

    assert bursts(loss_correlation="75%") < bursts() * 0.8


def test_the_same_seed_gives_the_same_fates() -> None:
    words = {"loss": "10%", "duplicate": "5%", "corrupt": "5%", "delay": "9ms", "jitter": "3ms", "gap": 3}
    one, another = decider(**words), decider(**words)
    assert fates(one, 500) == fates(another, 500)
    assert one.random.save() == another.random.save()
    assert Decider(changed(NOTHING, words), streams(43)[0], Counts()).decide(FRAME, b"") is not None


@pytest.mark.parametrize("distribution", ["uniform", "normal", "pareto", "paretonormal"])
def test_jitter_spreads_around_the_delay(distribution: str) -> None:
    unit = decider(delay="10ms", jitter="2ms", distribution=distribution)
    delays = [each[0].delay_ns for each in fates(unit)]
    assert all(delay is not None and delay >= 0 for delay in delays)
    times = [delay for delay in delays if delay is not None]
    assert sum(times) / N == pytest.approx(10e6, rel=0.02)
    if distribution == "uniform":
        assert min(times) >= 8_000_000
        assert max(times) < 12_000_000
    assert max(times) - min(times) > 3_000_000


def test_a_delay_is_never_negative() -> None:
    times = [each[0].delay_ns for each in fates(decider(delay="1ms", jitter="5ms"))]
    assert min(time for time in times if time is not None) == 0


def test_one_of_gap_frames_overtakes() -> None:
    unit = decider(delay="10ms", gap=4)
    overtakes = [each[0].delay_ns is None for each in fates(unit, 12)]
    assert overtakes == [False, False, False, True] * 3
    assert unit.counts.reordered == 3


def test_reorder_takes_its_part() -> None:
    unit = decider(delay="10ms", reorder="25%")
    overtaking = sum(each[0].delay_ns is None for each in fates(unit))
    assert overtaking == unit.counts.reordered
    assert overtaking == pytest.approx(N * 0.25, rel=0.05)


def test_one_bit_is_flipped() -> None:
    unit = decider(corrupt="100%")
    for _ in range(200):
        [copy] = unit.decide(FRAME, b"")
        [(frame, offload)] = copy.parts
        difference = int.from_bytes(frame) ^ int.from_bytes(FRAME)
        assert difference.bit_count() == 1
        assert not offload


def test_an_empty_frame_can_be_corrupted() -> None:
    assert decider(corrupt="100%").decide(b"", b"")[0].parts == [(b"", b"")]


def tcp_frame(payload: int) -> bytes:
    head = bytes(12) + b"\x08\x00"
    ip = bytes([0x45, 0]) + (40 + payload).to_bytes(2) + bytes(5) + b"\x06" + bytes(10)
    return head + ip + bytes(12) + b"\x50" + bytes(7) + bytes(payload)


def test_a_corrupted_frame_is_complete_first() -> None:
    """Else the receiver's checksum, which is made later, would cover the error."""
    unit = decider(corrupt="100%")
    frame = tcp_frame(3000)
    [copy] = unit.decide(frame, encode(GSO_TCPV4, 1000, 54, 34, 16))
    assert [len(part) for part, _ in copy.parts] == [1054] * 3
    assert not any(offload for _, offload in copy.parts)
    wrong = encode(GSO_TCPV4, 0, 54, 34, 16)
    [copy] = unit.decide(frame, wrong)
    assert copy.parts == [(frame, wrong)], "a header that does not fit: the receiver drops it"


def test_black_hole_takes_what_is_long_on_the_wire() -> None:
    unit = decider(max_frame=1054)
    frame = tcp_frame(3000)
    assert unit.decide(frame, encode(GSO_TCPV4, 1000, 54, 34, 16))
    assert not unit.decide(frame, encode(GSO_TCPV4, 1001, 54, 34, 16))
    assert not unit.decide(frame, b"")
    assert unit.decide(bytes(1054), b"")
    assert unit.counts.too_long == 2


def test_wire_length() -> None:
    frame = tcp_frame(3000)
    assert wire_length(frame, b"") == 3054
    assert wire_length(frame, encode(GSO_UDP_L4, 500, 42, 34, 6)) == 34 + 8 + 500
    assert wire_length(frame, encode(GSO_UDP, 512, 42, 34, 6)) == 34 + 512
    assert wire_length(frame, encode(GSO_TCPV4, 60000, 54, 34, 16)) == 3054
    assert wire_length(frame[:40], encode(GSO_TCPV4, 10, 54, 34, 16)) == 40


def test_parameters_change_and_the_stream_goes_on() -> None:
    one, another = decider(loss="50%"), decider(loss="50%")
    first = fates(one, 10)
    one.set(changed(NOTHING, {"loss": "50%", "max-frame": 9000}))
    assert [*first, *fates(one, 10)] == fates(another, 20)
    with pytest.raises(NetError):
        changed(NOTHING, {"loss": "x"})
