"""The QEMU measures find interrupts and reads in QEMU's trace."""

from __future__ import annotations

import importlib
from datetime import datetime
from pathlib import Path

import pytest

from vnic.lab.bench import MEASURES
from vnic.lab.bench.qemu import (
    Subject,
    ratio,
    read_trace,
    steps,
)
from vnic.lab.bench.report import Missing

# As QEMU 11.1.3 writes it with -msg timestamp=on, shortened: a timer of the guest, a change of our NIC, another NIC's.
TRACE = """\
2026-11-23T05:58:20.818900Z apic_deliver_irq dest 0 dest_mode 0 delivery_mode 0 vector 33 trigger_mode 0
2026-11-23T05:58:20.819928Z apic_deliver_irq dest 0 dest_mode 0 delivery_mode 0 vector 38 trigger_mode 0
2026-11-23T05:58:20.822100Z memory_region_ops_read cpu 0 mr 0x1 addr 0xfebfa014 value 0xf size 1 name 'vfio-user:/a/nic0.sock BAR 4'
2026-11-23T05:58:20.822587Z memory_region_ops_read cpu 0 mr 0x1 addr 0xfebfa006 value 0x0 size 2 name 'vfio-user:/a/nic0.sock BAR 4'
2026-11-23T05:58:20.919928Z apic_deliver_irq dest 0 dest_mode 0 delivery_mode 0 vector 38 trigger_mode 0
2026-11-23T05:58:20.922587Z memory_region_ops_read cpu 0 mr 0x1 addr 0xfebfa006 value 0x1 size 2 name 'vfio-user:/a/nic0.sock BAR 4'
2026-11-23T05:58:20.923000Z memory_region_ops_read cpu 0 mr 0x2 addr 0xfebfe006 value 0x1 size 2 name 'virtio-pci-device-virtio-net'
qemu-system-x86_64: something else
"""  # noqa: E501 (as QEMU writes it)


def at(text: str) -> float:
    return datetime.fromisoformat(f"2026-11-23T05:58:{text}Z").timestamp()


def subject(*started: str) -> Subject:
    found = Subject("vnic virtio-net-pci", lambda up: None, "/nic0.sock BAR 4", 6)
    found.started += map(at, started)
    return found


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace"
    path.write_text(TRACE)
    return path


def test_finds_the_steps_of_a_nics_changes(trace: Path) -> None:
    found = steps(subject("20.818702", "20.919000"), read_trace(trace))
    assert {step: [round(sample) for sample in samples] for step, samples in found.items()} == {
        "interrupt": [1226, 928],
        "status read": [3885, 3587],
    }


def test_trace_without_a_change_is_reported(trace: Path) -> None:
    with pytest.raises(Missing, match="only 0 of 1 changes had their interrupt"):
        steps(subject("21.5"), read_trace(trace))


def test_a_ratio_is_of_medians() -> None:
    found = ratio("a / b", [1.0, 2.0, 300.0], [4.0, 4.0, 4.0], "method")
    assert (found.median, found.unit) == (0.5, "x")


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_there(name: str) -> None:
    assert callable(importlib.import_module(MEASURES[name][0]).measure)
