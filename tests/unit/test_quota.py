"""How many descriptors guests may have held: the limits, and that counting costs nothing far from them."""

from __future__ import annotations

import pytest

from vnic.quota import (
    GUEST_DESCRIPTORS,
    DescriptorQuota,
    Holding,
    TooManyDescriptors,
)


class Guests:
    """Guests of a process with a limit of its own, and what they hold."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.quota = DescriptorQuota(lambda: self.limit)
        self.held: dict[str, int] = {}
        self.counted: list[str] = []

    def join(self, name: str) -> Holding:
        self.held[name] = 0

        def count() -> int:
            self.counted.append(name)
            return self.held[name]

        return self.quota.join(name, count)

    def pass_one(self, holding: Holding, *, held: int = 1) -> None:
        """One descriptor comes, and so many more are held for it."""
        self.held[holding.name] += held
        holding.received(1)


def test_one_guest_has_half_of_what_all_may() -> None:
    guests = Guests(160)  # 120 for guests
    holding = guests.join("nic0")
    for _ in range(30):
        guests.pass_one(holding, held=2)
    with pytest.raises(TooManyDescriptors, match="62 descriptors are above the limit of 60 for one guest"):
        guests.pass_one(holding, held=2)


def test_all_guests_leave_a_quarter_to_vnic_itself() -> None:
    guests = Guests(160)
    for name in ("nic0", "nic1"):
        holding = guests.join(name)
        for _ in range(60):
            guests.pass_one(holding)
    with pytest.raises(
        TooManyDescriptors, match=r"1 descriptors beside the 120 of other guests.* of 120 for"
    ):
        guests.pass_one(guests.join("nic2"))


def test_where_there_is_no_limit_one_guest_has_one() -> None:
    guests = Guests(None)
    holding = guests.join("nic0")
    for _ in range(GUEST_DESCRIPTORS):
        guests.pass_one(holding)
    with pytest.raises(TooManyDescriptors, match=f"{GUEST_DESCRIPTORS + 1} descriptors are above"):
        guests.pass_one(holding)


def test_what_was_closed_again_does_not_count() -> None:
    guests = Guests(160)
    first, second = guests.join("nic0"), guests.join("nic1")
    for _ in range(1000):
        guests.pass_one(first, held=0)
    for holding in (first, second):
        for _ in range(50):
            guests.pass_one(holding)
    guests.held["nic0"] = 0
    for _ in range(10):
        guests.pass_one(second)
    assert guests.quota.held("nic1") == 60


def test_who_left_holds_nothing() -> None:
    guests = Guests(160)
    for number in range(10):
        holding = guests.join(f"nic{number}")
        for _ in range(60):
            guests.pass_one(holding)
        holding.end()
        assert guests.quota.held(holding.name) == 0


def test_far_from_the_limits_nothing_is_counted() -> None:
    guests = Guests(65536)
    holding = guests.join("nic0")
    for _ in range(800):
        guests.pass_one(holding)
    assert guests.counted == []


def test_the_limit_of_the_process_may_change() -> None:
    guests = Guests(65536)
    holding = guests.join("nic0")
    for _ in range(100):
        guests.pass_one(holding)
    guests.limit = 200
    with pytest.raises(TooManyDescriptors, match="101 descriptors are above the limit of 75 for one guest"):
        guests.pass_one(holding)
