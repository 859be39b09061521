"""Each model has a driver of Linux, which the guest's kit has; the documents and the tests know the model."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from tests.guests.models import MODELS, GuestModel

from vnic.lab.guest.drivers import DRIVERS, modules_of
from vnic.lab.guest.qemu_kit import NIC_MODULES
from vnic.machine.nics import DEVICES

DOCUMENT = (Path(__file__).parents[4] / "docs/models.md").read_text()
PROSE = " ".join(DOCUMENT.split())


def test_each_model_on_pci_has_its_driver_in_the_kit() -> None:
    assert DRIVERS.keys() >= DEVICES.keys() - {"virtio-net"}
    assert set(DRIVERS.values()) <= set(NIC_MODULES)


def test_each_driver_is_loaded_once() -> None:
    assert modules_of(["virtio-net", "virtio-net-pci", "e1000-82545em", "e1000"]) == ["virtio_net", "e1000"]


def test_the_documents_table_has_the_facts() -> None:
    rows = []
    for facts, group in groupby(DEVICES, lambda name: DEVICES[name].facts):
        names = ", ".join(f"`{name}`" for name in group)
        rows.append(f"| {names} | {facts.interrupts} | {facts.queues} | {facts.offloads} | {facts.link} |")
    assert {line for line in DOCUMENT.splitlines() if line.startswith("| `")} <= set(rows)


@pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])
def test_the_document_tells_how_a_model_differs_from_qemus(model: GuestModel) -> None:
    assert f"\n## {model.name}\n" in DOCUMENT
    assert [text for text in model.differs.values() if text not in PROSE] == []
