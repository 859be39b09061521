"""A record of an igb that cannot be is refused with the field's name, and a killed process loses no interrupt.

That a NIC lives on in its record is what all other tests here show (`conftest.py`).
"""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000.test_state import changed as changed_record
from tests.unit.nic_igb.conftest import MAC, Rig

from vnic.net.network import Network
from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.igb import Igb
from vnic.nic.intel.igb import registers as r
from vnic.nic.intel.igb.record import IgbRecord
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode

FRAME = MAC + bytes(60)


def new_nic(rig: Rig) -> Igb:
    nic = Igb()
    Network(FakeScheduler()).add_nic("new", "igb", nic, mac=rig.nic.mac)
    return nic


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ("function.config.data", "AAAA", "function.config.data"),
        ("function.msix", None, "function.msix"),
        ("registers.values.0.offset", regs.MDIC + 2, "registers.values[0].offset"),
        ("interrupts.cause", 1 << 1, "interrupts.cause"),
        ("interrupts.mask", 1 << 31, "interrupts.mask"),
        ("interrupts.eims", -1, "interrupts.eims"),
        ("phy.values", [], "phy.values"),
        ("link.state", "up", "link.remaining_seconds"),
        ("rx.further", [], "rx.further"),
        ("rx.further.3.ring.head", 1 << 16, "rx.further[3].ring.head"),
        ("further", [], "further"),
        ("further.14.tag", 1 << 16, "further[14].tag"),
        ("further.2.checksum.tag", -1, "further[2].checksum.tag"),
    ],
)
def test_invalid_record_is_refused_with_field(rig: Rig, place: str, value: object, field: str) -> None:
    rig.driver.probe()
    rig.driver.start()
    nic = new_nic(rig)
    before = nic.save()
    with pytest.raises(RecordError) as error:
        nic.restore(
            decode(IgbRecord, changed_record(rig.device.save(), place, value)),  # type: ignore[arg-type]
            PciHandles(rig.driver.irq, rig.driver.served),
        )
    assert error.value.field == field
    assert nic.save() == before


def test_level_that_does_not_go_with_the_causes_is_refused() -> None:
    rig = Rig(mode="intx")
    rig.run()
    rig.set_link(False)
    record = msgspec.json.decode(encode(rig.device.save()))
    record["state"]["interrupts"]["cause"] = 0
    with pytest.raises(RecordError, match="level of the pin"):
        new_nic(rig).restore(
            decode(IgbRecord, msgspec.json.encode(record)), PciHandles(FakeIrq(), rig.driver.served)
        )
    rig.close()


class Kept(Rig):
    """With cells, which outlive a process."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = memoryview(bytearray(8 * Igb.cells_wanted)).cast("Q")
        self.device.use_cells(self.cells)

    def kill(self, record: IgbRecord) -> None:
        """The process was killed; the next one has its cells, and a record that may be older."""
        self.device.cleanup()
        new = new_nic(self)
        new.client, self.nic.endpoint = self.nic, new
        handles = PciHandles(self.driver.irq, self.driver.served, cells=self.cells)
        new.restore(decode(IgbRecord, encode(record)), handles)
        self.device = self.driver.device = new


def test_killed_process_sends_and_receives_nothing_twice() -> None:
    rig = Kept()
    rig.run()
    driver = rig.driver
    record = rig.device.save()
    driver.put_frame(FRAME)
    driver.put_frame(FRAME, 1)
    rig.wire(FRAME)
    rig.kill(record)
    rig.scheduler.advance(0)
    assert rig.netdev.frames == [FRAME, FRAME]
    assert driver.frames() == [FRAME]
    rig.wire(FRAME + b"2")
    assert driver.frames() == [FRAME + b"2"]
    driver.put_frame(FRAME + b"3", 1)
    assert rig.netdev.frames[2:] == [FRAME + b"3"]
    rig.close()


def test_killed_process_repeats_interrupts_that_may_be_lost() -> None:
    rig = Kept()
    rig.run()
    driver = rig.driver
    record = rig.device.save()
    driver.messages()
    rig.cells[c.CAUSE] |= regs.ICR_LSC  # set, and the process was killed before the message
    rig.kill(record)
    assert set(driver.messages()) == {0, 1, driver.other}
    rig.close()


def test_read_of_a_killed_process_that_was_not_answered_did_not_happen() -> None:
    rig = Kept()
    rig.run()
    driver = rig.driver
    rig.set_link(False)
    record = rig.device.save()
    rig.device.access[0] = 7
    driver.read(regs.ICR)
    rig.kill(record)
    rig.device.undo_read(7)
    assert driver.read(regs.ICR) & regs.ICR_LSC
    rig.close()


@pytest.mark.parametrize("at", [c.CAUSE, c.MASK, c.RX, c.queue(15).tx])
def test_cells_of_no_chip_are_refused(at: int) -> None:
    rig = Kept()
    rig.run()
    record = rig.device.save()
    rig.cells[at] = (1 << 64) - 1
    with pytest.raises(RecordError, match="cells"):
        rig.kill(record)
    rig.close()


def test_config_space_is_that_of_qemu_without_vfs() -> None:
    rig = Rig()
    space = rig.device.config
    assert space.read(0, 12).hex() == "8680c910000010000100000200"[:24]
    assert [space.data[0x34], space.data[0x41], space.data[0x51], space.data[0x71], space.data[0xA1]] == [
        *(0x40, 0x50, 0x70, 0xA0, 0),
    ]
    assert space.get(0x100, 4) == 0x00020001  # AER, and nothing behind it: no ARI, no SR-IOV
    assert space.read(0x160, 64) == bytes(64)
    assert space.get(0x72, 2) == r.VECTORS - 1
    rig.close()
