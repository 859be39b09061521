"""`vnic bench eventfd`: the played driver of each model is interrupted by each change."""

from __future__ import annotations

from vnic.lab.bench.eventfd import samples_of
from vnic.lab.bench.pci_subjects import SUBJECTS

CHANGES = 6


def test_each_change_interrupts_each_models_driver() -> None:
    samples = samples_of(SUBJECTS, CHANGES)
    assert {model: len(found) for model, found in samples.items()} == dict.fromkeys(SUBJECTS, CHANGES)
