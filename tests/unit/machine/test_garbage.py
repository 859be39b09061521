"""The collector looks at thousands of NICs no longer, and what is removed of them is freed all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from vnic.machine.garbage import BATCH, LongLived


class Circle:
    """Garbage that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.collect()
    yield
    gc.unfreeze()


def test_batch_of_nics_is_looked_at_no_longer() -> None:
    before, long_lived = gc.get_freeze_count(), LongLived()
    for _ in range(BATCH - 1):
        long_lived.added()
    assert gc.get_freeze_count() == before
    long_lived.added()
    assert gc.get_freeze_count() > before


def test_removed_nics_are_freed() -> None:
    long_lived = LongLived()
    nics = [Circle() for _ in range(BATCH)]
    for _ in range(BATCH):
        long_lived.added()
    seen = [weakref.ref(nic) for nic in nics]
    while nics:
        nics.pop()
        long_lived.removed()
    assert not any(each() for each in seen)


def test_few_nics_are_left_to_python() -> None:
    before, long_lived = gc.get_freeze_count(), LongLived()
    for _ in range(3 * BATCH):
        long_lived.added()
        long_lived.removed()
        gc.unfreeze()
    assert before == gc.get_freeze_count() == 0
