"""Impairments at vnic-wire itself, as the engine has them: the fate of each frame is the seed's on both paths, and when
the wire moves between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fakes.wire_lab import Guest, WireLab, frame, real_program, wire_lab

from vnic.filter import fault, impair, object_add, object_del
from vnic.filter.netem import Netem
from vnic.filter.options import BufferOptions, NetemOptions
from vnic.net.fault_info import FaultShape, FaultWords
from vnic.net.filter_set import find_filter
from vnic.net.filters import Direction
from vnic.net.netem.decide import Decider
from vnic.net.netem.info import Counts, DirectionInfo
from vnic.net.netem.parameters import NOTHING, changed
from vnic.net.netem.random import streams
from vnic.net.netem.words import NetemWords

WORDS: dict[str, Any] = {"loss": "30%", "loss-correlation": "20%", "duplicate": "20%", "max-frame": 1000}


@pytest.fixture
def lab() -> Iterator[WireLab]:
    with wire_lab(real_program()) as lab:
        yield lab


def netem(lab: WireLab, netdev: str, *, name: str = "n0", **words: Any) -> Netem:
    given = {key.replace("-", "_"): value for key, value in words.items()}
    object_add(lab.context, NetemOptions(id=name, netdev=netdev, **given), "test")
    found = find_filter(lab.network, name)
    assert isinstance(found, Netem)
    return found


def cable(lab: WireLab) -> tuple[Guest, Guest]:
    """Two guests, joined by a cable, on vnic-wire."""
    for name in ("a", "b"):
        lab.netdev("cable", f"{name}-end", cable="c", follow="none")
    guests = lab.guest("a", "a-end"), lab.guest("b", "b-end")
    for guest in guests:
        guest.plug(room=200)
    lab.until(lambda: all(guest.on_wire for guest in guests))
    return guests


def counted(lab: WireLab, name: str = "n0") -> dict[str, DirectionInfo]:
    """What query-impairments has of an object."""
    told: list[bool] = []
    lab.engine.count_impaired(lambda: told.append(True))
    lab.until(lambda: told)
    [found] = [each for each in impair.query(lab.network) if each.id == name]
    return {each.direction: each for each in found.directions}


def expected(
    words: dict[str, Any], seed: int, direction: Direction, frames: list[bytes]
) -> tuple[list[bytes], Counts]:
    """What arrives of these frames, by the reference."""
    counts = Counts()
    rx, tx = streams(seed)
    decider = Decider(changed(NOTHING, words), rx if direction is Direction.RX else tx, counts)
    found = [bytes(part) for each in frames for copy in decider.decide(each, b"") for part, _ in copy.parts]
    counts.passed = len(found)
    return found, counts


def arrived(lab: WireLab, guest: Guest, count: int) -> list[bytes]:
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, guest) >= count)
    guest.driver.fill_rx(count)
    return found


def test_the_fate_of_each_frame_is_the_seeds_on_both_paths(lab: WireLab) -> None:
    """The wire moves to Python and back, again and again, while frames pass in both directions. What is under way in a
    line when it ends is lost, and counted."""
    left, right = cable(lab)
    unit = netem(lab, "b-end", seed=7, **WORDS)
    lab.settle()
    sent: list[bytes] = []
    to_right: list[bytes] = []
    to_left: list[bytes] = []
    for turn in range(13):
        wanted = turn % 3 != 2
        if find_filter(lab.network, "f0") is not None:
            object_del(lab.context, "f0", "test")
        if not wanted:
            object_add(lab.context, BufferOptions(id="f0", netdev="a-end", interval=1), "test")
        for number in range(20):
            sent.append(frame(turn * 20 + number, 60 if number % 7 else 1200))
            left.driver.send(sent[-1])
            right.driver.send(sent[-1])
            lab.kick()
            lab.turn()
        if wanted:
            lab.until(lambda: left.on_wire and right.on_wire)
        else:
            lab.until(lambda: left.path == right.path == "python")
        for guest, found in ((right, to_right), (left, to_left)):
            before = len(found)
            guest.driver.fill_rx(lab._took(found, guest) - before)
    # A cable's end receives what its NIC sent: rx comes from `right`.
    there, tx = expected(WORDS, 7, Direction.TX, sent)
    back, rx = expected(WORDS, 7, Direction.RX, sent)
    lab.until(lambda: left.on_wire and right.on_wire)

    def all_arrived() -> bool:
        """But those that were under way when the program's line ended."""
        missing = len(there) - lab._took(to_right, right) + len(back) - lab._took(to_left, left)
        return missing == unit.netdev.dropped

    lab.until(all_arrived)
    assert is_part_of(to_right, there)
    assert is_part_of(to_left, back)
    shown = counted(lab)
    for counts, found, of in ((tx, there, to_right), (rx, back, to_left)):
        counts.passed -= len(found) - len(of)
    assert (shown["tx"].counts, shown["rx"].counts) == (tx, rx)


def is_part_of(some: list[bytes], frames: list[bytes]) -> bool:
    """In their order."""
    rest = iter(frames)
    return all(each in rest for each in some)


def test_parameters_change_at_the_program(lab: WireLab) -> None:
    left, right = cable(lab)
    unit = netem(lab, "a-end", loss="50%", seed=3)
    lab.settle()
    sent = [frame(number) for number in range(20)]
    left.driver.send(*sent)
    there, counts = expected({"loss": "50%"}, 3, Direction.RX, sent)
    assert arrived(lab, right, len(there)) == there
    unit.change({"loss": "100%"}, "test")
    lab.settle()
    left.driver.send(*sent)
    lab.until(lambda: counted(lab)["rx"].counts.lost == counts.lost + 20)
    unit.change({"loss": "50%"}, "test", seed=3)
    lab.settle()
    left.driver.send(*sent)
    assert arrived(lab, right, len(there)) == there, "the seed begins its stream anew"
    assert left.on_wire


def test_frames_under_way_are_counted_and_lost_at_the_end(lab: WireLab) -> None:
    left, right = cable(lab)
    unit = netem(lab, "a-end", delay="1000s")
    lab.settle()
    left.driver.send(frame(1), frame(2))
    lab.until(lambda: counted(lab)["rx"].waiting == 2)
    unit.change({"delay": "0"}, "test")
    lab.settle()
    left.driver.send(frame(3))
    assert arrived(lab, right, 1) == [frame(3)]
    assert counted(lab)["rx"].waiting == 2
    object_del(lab.context, "n0", "test")
    lab.until(lambda: unit.netdev.dropped == 2)
    lab.settle()
    left.driver.send(frame(4))
    assert arrived(lab, right, 1) == [frame(4)]


def test_frames_that_python_has_under_way_arrive_after_the_move(lab: WireLab) -> None:
    """They are not impaired a second time."""
    left, right = cable(lab)
    object_add(lab.context, BufferOptions(id="f0", netdev="a-end", interval=1, queue=Direction.TX), "test")
    netem(lab, "b-end", delay="0.3s")
    lab.until(lambda: left.path == right.path == "python")
    left.driver.send(frame(1))
    lab.kick()
    lab.until(lambda: counted(lab)["tx"].waiting == 1)
    object_del(lab.context, "f0", "test")
    lab.until(lambda: left.on_wire and right.on_wire)
    found = counted(lab)["tx"]
    assert (found.waiting, found.counts.passed) in ((1, 0), (0, 1))
    assert arrived(lab, right, 1) == [frame(1)]
    assert counted(lab)["tx"].counts.passed == 1


def test_a_fault_is_carried_out_with_an_impairment(lab: WireLab) -> None:
    left, right = cable(lab)
    netem(lab, "a-end", duplicate="100%")
    fault.start(lab.context, "a", FaultShape.BLACK_HOLE, FaultWords(bytes=500), "test")
    lab.settle()
    left.driver.send(frame(1, 600), frame(2))
    assert arrived(lab, right, 2) == [frame(2)] * 2
    shown = counted(lab, "a-fault")["rx"].counts
    assert (shown.too_long, shown.lost) == (1, 0)
    fault.start(lab.context, "a", FaultShape.ONE_WAY, FaultWords(direction="rx"), "test")
    lab.settle()
    left.driver.send(frame(3))
    right.driver.send(frame(4))
    assert arrived(lab, left, 2) == [frame(4)] * 2
    lab.until(lambda: counted(lab, "a-fault")["rx"].counts.lost == 1)
    assert counted(lab)["rx"].counts == Counts(passed=2, duplicated=1)
    fault.clear(lab.context, "a", None, "test")
    lab.settle()
    left.driver.send(frame(5))
    assert arrived(lab, right, 2) == [frame(5)] * 2
    assert left.on_wire


def test_two_impairments_of_the_same_frames_stay_in_python(lab: WireLab) -> None:
    left, right = cable(lab)
    netem(lab, "a-end", name="n0", loss="1%")
    netem(lab, "a-end", name="n1", delay="1ms", queue=Direction.TX)
    lab.until(lambda: left.path == right.path == "python")
    assert left.reason == "netem n0 and netem n1 impair the same frames"
    right.driver.send(frame(1))
    lab.kick()
    object_del(lab.context, "n1", "test")
    lab.until(lambda: left.on_wire)


def test_program_that_died_is_given_the_impairments_again(lab: WireLab) -> None:
    left, right = cable(lab)
    netem(lab, "a-end", loss="100%", queue=Direction.RX)
    lab.settle()
    pid = lab.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    lab.until(lambda: lab.engine.program.restarts == 1)
    lab.until(lambda: left.on_wire and right.on_wire)
    left.driver.send(frame(1))
    right.driver.send(frame(2))
    assert arrived(lab, left, 1) == [frame(2)]
    lab.until(lambda: counted(lab)["rx"].counts.lost == 1)


def test_link_impair_while_frames_pass(lab: WireLab) -> None:
    left, right = cable(lab)
    impair.impair(lab.context, "a", Direction.ALL, NetemWords(loss="100%"), "test", clear=False)
    lab.settle()
    left.driver.send(frame(1))
    lab.until(lambda: counted(lab, "a-netem")["rx"].counts.lost == 1)
    impair.impair(lab.context, "a", Direction.RX, NetemWords(), "test", clear=True)
    lab.settle()
    left.driver.send(frame(2))
    right.driver.send(frame(3))
    assert arrived(lab, right, 1) == [frame(2)]
    lab.until(lambda: counted(lab, "a-netem")["tx"].counts.lost == 1)
    assert left.on_wire
