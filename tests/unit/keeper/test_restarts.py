"""How long the keeper waits before it starts control again, and when it gives up."""

from __future__ import annotations

from vnic.keeper.restarts import (
    ANEW_AFTER,
    FAILED_PAUSE_MAX_S,
    GIVE_UP_AFTER,
    PAUSE_MAX_S,
    WELL_S,
    Restarts,
)

QEMU_GIVES_UP_S = 5.0
"""x-msg-timeout= of its vfio-user-pci: without an answer for that long, the guest's card is lost for good."""


def test_the_first_death_is_answered_at_once_and_the_next_ones_later_and_later() -> None:
    restarts = Restarts()
    assert [restarts.died(WELL_S / 2) for _ in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert [restarts.died(0.0) for _ in range(9)][-1] == PAUSE_MAX_S


def test_whatever_kills_it_and_however_often_the_pause_leaves_qemu_time_to_wait() -> None:
    restarts = Restarts()
    pauses = [restarts.died(lived, killed=True) for _ in range(20) for lived in (0.0, None)]
    assert all(pause is not None and pause <= QEMU_GIVES_UP_S / 4 for pause in pauses)


def test_one_that_does_not_come_up_is_given_more_time() -> None:
    restarts = Restarts()
    for _ in range(20):
        restarts.died(0.0)
    assert restarts.died(None) == FAILED_PAUSE_MAX_S


def test_a_while_of_life_ends_the_series() -> None:
    restarts = Restarts()
    for _ in range(9):
        restarts.died(0.0)
    assert restarts.died(WELL_S) == 0.0
    assert restarts.died(0.5) == 0.1


def test_starts_that_do_not_come_up_are_given_up() -> None:
    restarts = Restarts()
    restarts.died(10.0)
    pauses = [restarts.died(None) for _ in range(GIVE_UP_AFTER)]
    assert None not in pauses[:-1]
    assert pauses[-1] is None


def test_a_start_that_comes_up_is_counted_from_new() -> None:
    restarts = Restarts()
    for _ in range(20):
        assert restarts.died(None) is not None
        assert restarts.died(0.0) is not None


def test_after_some_failures_the_next_start_gets_nothing() -> None:
    restarts = Restarts()
    found = []
    for lived_s in (*[None] * ANEW_AFTER, 0.0):
        restarts.died(lived_s)
        found.append(restarts.anew)
    assert found == [False] * (ANEW_AFTER - 1) + [True, False]


def test_a_kill_from_outside_is_no_failure_to_come_up() -> None:
    restarts = Restarts()
    for _ in range(3 * GIVE_UP_AFTER):
        assert restarts.died(None, killed=True) is not None
    assert not restarts.anew
