"""A record of an e1000 that cannot be is refused with the field's name, and leaves the NIC as it was.

That a NIC lives on in its record is what all other tests here show (`conftest.py`).
"""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.e1000_driver import TX_BUFFERS
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000.conftest import Rig

from vnic.net.network import Network
from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import E1000, MODELS
from vnic.nic.intel.e1000.record import E1000Record
from vnic.nic.intel.link import NEGOTIATION_SECONDS
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode


def new_nic(rig: Rig, model: str = "e1000") -> E1000:
    nic = E1000(MODELS[model])
    Network(FakeScheduler()).add_nic("new", nic.model.name, nic, mac=rig.nic.mac)
    return nic


def changed(record: E1000Record, place: str, value: object) -> bytes:
    """The encoded record with `value` at a place such as `rx.ring.head`."""
    whole = msgspec.json.decode(encode(record))
    part = whole["state"]
    *path, last = (int(step) if step.isdigit() else step for step in place.split("."))
    for step in path:
        part = part[step]
    part[last] = value
    return msgspec.json.encode(whole)


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ("function.config.data", "AAAA", "function.config.data"),
        ("function.intx", True, "function.intx"),
        ("function.msix", {"table": ""}, "function.msix"),
        ("registers.values.0.offset", regs.STATUS, "registers.values[0].offset"),
        ("registers.values.0.offset", 0xFFFC, "registers.values[0].offset"),
        ("registers.values.1.offset", regs.CTRL, "registers.values[1].offset"),
        ("statistics.counts", [{"offset": 4, "count": 1}], "statistics.counts[0].offset"),
        ("statistics.counts", [{"offset": regs.MPC, "count": 2**32}], "statistics.counts[0].count"),
        ("interrupts.cause", -1, "interrupts.cause"),
        ("interrupts.cause", regs.ICR_LSC, "interrupts.cause"),
        ("eeprom.pins", 1 << 12, "eeprom.pins"),
        ("eeprom.bits", 1024, "eeprom.bits"),
        ("eeprom.state", "asleep", "eeprom.state"),
        ("phy.values", [], "phy.values"),
        ("phy.values.2", 7, "phy.values[2]"),
        ("link.remaining_seconds", 0.1, "link.remaining_seconds"),
        ("link.carrier", False, "link.state"),
        ("rx.ring.head", 1 << 16, "rx.ring.head"),
        ("tx.collected", "", "tx.collected"),
        ("tx.bad", 1, "tx.bad"),
        ("info_mac", "AAAA", "info_mac"),
    ],
)
def test_invalid_record_is_refused_with_field(rig: Rig, place: str, value: object, field: str) -> None:
    rig.driver.probe()
    rig.driver.start(causes=regs.ICR_LSC)
    if place == "tx.collected":
        value = "A" * 400_000
    nic = new_nic(rig)
    before = nic.save()
    with pytest.raises(RecordError) as error:
        nic.restore(
            decode(E1000Record, changed(rig.device.save(), place, value)),
            PciHandles(rig.driver.irq, rig.driver.served),
        )
    assert error.value.field == field
    assert nic.save() == before


def test_record_of_other_model_is_refused(rig: Rig) -> None:
    nic = new_nic(rig, "e1000-82545em")
    with pytest.raises(RecordError, match=r"function.config.data: has 0x0e at 0x2, not 0x0f"):
        nic.restore(rig.device.save(), PciHandles(rig.driver.irq, rig.driver.served))


def test_restored_negotiation_takes_remaining_time(running: Rig) -> None:
    running.set_link(False)
    running.set_link(True)
    running.scheduler.advance(NEGOTIATION_SECONDS - 0.1)
    running.restore()
    running.scheduler.advance(0.09)
    assert not running.device.link.up
    running.scheduler.advance(0.02)
    assert running.device.link.up


def test_restored_partial_frame_is_sent_whole(running: Rig) -> None:
    driver = running.driver
    driver.memory.write(TX_BUFFERS, bytes(range(200)))
    driver.descriptor(TX_BUFFERS, 100, 0)
    driver.kick()
    running.restore()
    driver.descriptor(TX_BUFFERS + 100, 100, 0x09)
    driver.kick()
    assert running.netdev.frames == [bytes(range(200))]
