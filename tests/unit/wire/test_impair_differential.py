"""The decisions of vnic-wire's impairments against those of net/netem, draw for draw and nanosecond for nanosecond."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.compile import PROGRAM, compile_program

from vnic.dataplane.wire.impair_messages import (
    ALWAYS,
    MAX_NS,
    Impair,
    ImpairDirection,
    Impairment,
    ImpairState,
)
from vnic.dataplane.wire.messages import pack_request
from vnic.net.clock import Clock
from vnic.net.netem import tables
from vnic.net.netem.decide import Decider
from vnic.net.netem.info import Counts
from vnic.net.netem.line import Line
from vnic.net.netem.parameters import Parameters
from vnic.net.netem.random import RandomRecord, streams
from vnic.net.offload import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, encode

HEAD = struct.Struct("=Q10s2xI")
STATE = struct.Struct("=Q5II5Q")
COPY = struct.Struct("=IIQ")

PARTS = st.sampled_from([0, 1, ALWAYS // 3, ALWAYS // 2, ALWAYS - 1, ALWAYS]) | st.integers(0, ALWAYS)
TIMES = st.sampled_from([0, 1, 10_000_000, (1 << 32) - 1, (1 << 32) + 1, MAX_NS]) | st.integers(0, MAX_NS)


@st.composite
def parameters(draw: st.DrawFn) -> Parameters:
    delay, jitter = draw(st.integers(1, MAX_NS)), draw(TIMES)
    loss, duplicate, corrupt = (draw(PARTS) for _ in range(3))
    reorder, gap = draw(PARTS), draw(st.sampled_from([0, 1, 2, 5, ALWAYS]))

    def correlation(*needed: int) -> int:
        return draw(PARTS) if any(needed) else 0

    return Parameters(
        delay=delay,
        jitter=jitter,
        delay_correlation=correlation(jitter),
        distribution=draw(st.sampled_from(["uniform", "normal", "pareto", "paretonormal"]))
        if jitter
        else "uniform",
        loss=loss,
        loss_correlation=correlation(loss),
        duplicate=duplicate,
        duplicate_correlation=correlation(duplicate),
        corrupt=corrupt,
        corrupt_correlation=correlation(corrupt),
        reorder=reorder,
        reorder_correlation=correlation(reorder, gap),
        gap=gap,
        rate=draw(st.sampled_from([0, 1000, 1_250_000, 10**12 - 1])),
        max_frame=draw(st.sampled_from([0, 0, 100, 1000])),
    )


@st.composite
def frames(draw: st.DrawFn) -> tuple[int, bytes, bytes]:
    """The time since the last one, an offload header, and a frame."""
    size = draw(st.sampled_from([14, 54, 60, 1514]) | st.integers(14, 3000))
    data = draw(st.binary(min_size=1, max_size=8)) * size
    header = bytes(10)
    if draw(st.booleans()):
        kind = draw(st.sampled_from([GSO_NONE, GSO_TCPV4, GSO_TCPV6 | GSO_ECN, GSO_UDP, GSO_UDP_L4]))
        start = draw(st.sampled_from([14, 34, 54, 4000]))
        header = encode(kind, draw(st.sampled_from([0, 40, 1448, 65535])), 0, start, 16)
    return draw(st.sampled_from([0, 1, 10**6, 10**12])), header, data[:size]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("impair")
    return compile_program(
        folder, "impair", PROGRAM / "impair.c", Path(__file__).with_name("impair_harness.c")
    )


def in_c(
    harness: Path, it: Parameters, state: RandomRecord, offered: list[tuple[int, bytes, bytes]]
) -> list[Any]:
    gap, reorder = it.reordering
    impairment = Impairment(
        *(1000, it.delay, it.jitter, it.rate, it.loss, it.duplicate, it.corrupt, reorder),
        *(it.correlations, gap, it.max_frame, tuple(tables.table(it.distribution))),
    )
    random = ImpairState(state.random, tuple(state.last), state.counter)
    data, now = pack_request(0, Impair(1, ImpairDirection.IN, impairment, random)), 1
    for since, header, frame in offered:
        now += since
        data += HEAD.pack(now, header, len(frame)) + frame
    done = subprocess.run([harness], input=data, capture_output=True, check=True)
    answers, at = [], 0
    for _ in offered:
        random_state, *rest = STATE.unpack_from(done.stdout, at)
        (copies,) = struct.unpack_from("=I", done.stdout, at + STATE.size)
        at += STATE.size + 4
        found = [COPY.unpack_from(done.stdout, at + COPY.size * i) for i in range(copies)]
        at += COPY.size * copies
        answers.append(((random_state, *rest), found))
    assert at == len(done.stdout)
    return answers


@given(it=parameters(), seed=st.integers(0, (1 << 64) - 1), offered=st.lists(frames(), max_size=30))
def test_decisions_are_those_of_the_reference(
    harness: Path, it: Parameters, seed: int, offered: list[tuple[int, bytes, bytes]]
) -> None:
    for start in streams(seed):
        counts = Counts()
        decider = Decider(it, start, counts)
        for (_, header, frame), (state, copies) in zip(
            offered, in_c(harness, it, start, offered), strict=True
        ):
            decided = decider.decide(frame, header if any(header) else b"")
            assert [copy.delay_ns is None for copy in decided] == [bool(at_once) for _, at_once, _ in copies]
            after = decider.random.save()
            assert state == (
                *(after.random, *after.last, after.counter),
                *(counts.lost, counts.duplicated, counts.corrupted, counts.reordered, counts.too_long),
            )


class Never:
    """A scheduler whose time does not come."""

    def call_later(self, *_: Any) -> Never:
        return self

    def cancel(self) -> None:
        pass


@given(
    it=parameters().map(lambda it: msgspec.structs.replace(it, corrupt=0, corrupt_correlation=0)),
    seed=st.integers(0, (1 << 64) - 1),
    offered=st.lists(frames(), max_size=20),
)
def test_frames_are_due_when_the_reference_says(
    harness: Path, it: Parameters, seed: int, offered: list[tuple[int, bytes, bytes]]
) -> None:
    now = 1
    scheduler: Any = Never()
    start = streams(seed)[0]
    line = Line(scheduler, Clock(lambda: now, lambda: 0), it, start, lambda *_: None)
    expected = []
    for (since, header, frame), (_, copies) in zip(offered, in_c(harness, it, start, offered), strict=True):
        now += since
        if line.put(0, frame, header if any(header) else b""):
            expected += [due for _, _, due in copies]
        else:
            assert [due for _, _, due in copies] == [now]
    now = 0
    assert [each.left_ns for each in line.save().frames] == sorted(expected)
