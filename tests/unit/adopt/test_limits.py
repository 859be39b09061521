"""What a hostile peer is limited to."""

from __future__ import annotations

import asyncio

from tests.fakes.loops import fresh_loop, until

from vnic.adopt.limits import BURST_S, SHARE, Newest, Share


def test_work_within_the_share_has_no_pause() -> None:
    share = Share()
    for number in range(1000):
        assert share.took(SHARE * 0.01, 0.01 * number) == 0


def test_work_above_the_share_is_paused_until_it_is_within_it() -> None:
    share = Share()
    now = worked = 0.0
    for _ in range(1000):
        now += 0.005
        worked += 0.005
        now += share.took(0.005, now)
    assert worked <= SHARE * now + BURST_S + 0.005
    assert worked > 0.9 * SHARE * now


def test_a_long_rest_leaves_no_more_than_a_burst() -> None:
    share = Share()
    share.took(0.001, 1.0)
    assert share.took(BURST_S + 0.001, 10_000.0) > 0


def newest(loop: asyncio.AbstractEventLoop, passed: list[int], seconds: float) -> Newest[int]:
    return Newest(loop, passed.append, count=2, seconds=seconds)


def test_calls_beyond_the_number_wait_and_the_last_one_is_passed_on() -> None:
    passed: list[int] = []
    with fresh_loop() as loop:
        unit = newest(loop, passed, 0.2)
        for number in range(6):
            unit.call(number)
        assert passed == [0, 1]
        until(loop, lambda: len(passed) > 2)
        assert passed == [0, 1, 5]
        unit.close()


def test_calls_that_wait_are_forgotten() -> None:
    passed: list[int] = []
    with fresh_loop() as loop:
        unit = newest(loop, passed, 3600.0)
        for number in range(6):
            unit.call(number)
        unit.forget()
        unit.call(7)
        assert passed == [0, 1]
        unit.close()
        unit.call(8)
        assert passed == [0, 1]
        unit.close()
