"""A record of a Pcnet that cannot be is refused with the field's name, and leaves the NIC as it was.

That a NIC lives on in its record is what the other tests here show (`conftest.py`).
"""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.pcnet_driver import INIT, STOP, STRT
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_pcnet.conftest import Rig

from vnic.net.network import Network
from vnic.nic.pcnet import Pcnet
from vnic.nic.pcnet import registers as r
from vnic.nic.pcnet.record import PcnetRecord
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode


def changed(record: PcnetRecord, place: str, value: object) -> bytes:
    """The encoded record with `value` at a place such as `registers.0`."""
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
        ("function.intx", False, "function.intx"),
        ("function.msix", {"table": ""}, "function.msix"),
        ("registers", [], "registers"),
        ("registers.0", 0x10000, "registers[0]"),
        ("registers.0", 0x0004, "registers"),
        ("registers.160", 128, "registers[160]"),
        ("registers.161", 4, "registers[161]"),
        ("registers.164", 2, "registers[164]"),
        ("aprom", "AAAA", "aprom"),
        ("link_up", 1, "link_up"),
        ("info_mac", "AAAA", "info_mac"),
    ],
)
def test_invalid_record_is_refused_with_field(rig: Rig, place: str, value: object, field: str) -> None:
    rig.driver.probe()
    rig.driver.start()
    assert rig.driver.interrupted()
    nic = Pcnet()
    Network(FakeScheduler()).add_nic("new", nic.name, nic, mac=rig.nic.mac)
    before = nic.save()
    with pytest.raises(RecordError) as error:
        nic.restore(
            decode(PcnetRecord, changed(rig.device.save(), place, value)),
            PciHandles(rig.driver.irq, rig.driver.served),
        )
    assert error.value.field.removesuffix("[0]") == field.removesuffix("[0]")
    assert nic.save() == before


def test_initialization_that_waits_is_done_after_restore() -> None:
    """As of a VM that does not share its memory, killed while the block is fetched."""
    rig = Rig()
    rig.driver.start()
    rig.driver.write_csr(0, STOP)
    cells = memoryview(bytearray(8 * r.COUNT)).cast("Q")
    cells[:] = rig.device.registers.cells
    cells[r.PENDING], cells[0] = INIT | STRT, INIT
    new = Pcnet()
    Network(FakeScheduler()).add_nic("new", "pcnet", new, mac=rig.nic.mac)
    new.restore(rig.device.save(), PciHandles(rig.driver.irq, rig.driver.served, cells=cells))
    rig.driver.device = new
    assert rig.driver.csr(0) & 0x0133 == 0x0133
    rig.close()
