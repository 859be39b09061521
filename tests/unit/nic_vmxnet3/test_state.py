"""A record of a vmxnet3 that cannot be is refused with the field's name, and leaves the NIC as it was.

That a NIC lives on in its record is what all other tests here show (`conftest.py`).
"""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_vmxnet3.conftest import MAC, Rig

from vnic.net.network import Network
from vnic.nic.vmxnet3 import Vmxnet3
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.device import Vmxnet3Record
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode


def changed(record: Vmxnet3Record, place: str, value: object) -> bytes:
    """The encoded record with `value` at a place such as `tx.0.interrupt`."""
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
        ("function.msix", None, "function.msix"),
        ("info_mac", "AAAA", "info_mac"),
        ("shared_low", 1 << 32, "shared_low"),
        ("event_interrupt", 25, "event_interrupt"),
        ("interrupts.masked", 1 << 25, "interrupts.masked"),
        ("filter.vlans", "AAAA", "filter.vlans"),
        ("filter.groups", "AAAA", "filter.groups"),
        ("fragments", 0, "fragments"),
        ("fragments", 18, "fragments"),
        ("tx", [], "rx"),
        ("tx.0.rings", [], "tx[0].rings"),
        ("tx.0.rings.0.next", 32, "tx[0].rings[0].next"),
        ("tx.0.interrupt", 25, "tx[0].interrupt"),
        ("rx.0.rings.1.size", 8193, "rx[0].rings[1].size"),
        ("rx.0.completions.generation", 2, "rx[0].completions.generation"),
        ("rx.0.counts", [0] * 9, "rx[0].counts"),
    ],
)
def test_invalid_record_is_refused_with_field(rig: Rig, place: str, value: object, field: str) -> None:
    rig.driver.probe()
    rig.driver.start()
    nic = Vmxnet3()
    Network(FakeScheduler()).add_nic("new", nic.name, nic, mac=rig.nic.mac)
    before = nic.save()
    with pytest.raises(RecordError) as error:
        nic.restore(
            decode(Vmxnet3Record, changed(rig.device.save(), place, value)),
            PciHandles(rig.driver.irq, rig.driver.served),
        )
    assert error.value.field == field
    assert nic.save() == before


def test_restored_device_goes_on_sending(running: Rig) -> None:
    """It was in the middle of its ring, and the next turn was to continue."""
    driver = running.driver
    running.netdev.room = False
    for size in (60, 61, 62):
        driver.send(MAC.ljust(size))
    running.restore()
    running.netdev.room = True
    running.netdev.client.flush(0)
    running.scheduler.run_soon()
    assert [len(each) for each in running.netdev.frames] == [60, 61, 62]


def test_record_is_small_without_a_driver(rig: Rig) -> None:
    """An idle NIC costs little to keep."""
    assert len(encode(rig.device.save())) < 8192
    rig.driver.probe()
    assert rig.device.save().tx == []
    rig.driver.write(r.VD_BAR, r.CMD, r.QUIESCE_DEV)
