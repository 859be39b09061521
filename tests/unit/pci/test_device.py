"""PciDevice: which window reaches whom, when the pin is visible, DMA only as bus master, resets of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.irq import FakeIrq

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.pci import capability as cap
from vnic.pci import config as c
from vnic.pci.bar import Bar
from vnic.pci.device import PciDevice
from vnic.pci.msix import MsixTable


class Model(PciDevice):
    """A device that records its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        super().__init__(
            c.PciId(0x1234, 0x5678, 1, 2),
            [Bar(0, 4096)],
            msix=MsixTable.exclusive(3, 1),
            capabilities=[cap.msi(2), cap.pcie_endpoint()],
        )

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        self.calls.append(("read", region, offset, length))
        return b"\x5a" * length

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        self.calls.append(("write", region, offset, data))

    def device_reset(self) -> None:
        self.calls.append("reset")

    def bus_master_changed(self, enabled: bool) -> None:
        self.calls.append(("master", enabled))

    def irqs_changed(self) -> None:
        self.calls.append("irqs")


@pytest.fixture
def model() -> Model:
    return Model()


def command(model: Model, value: int) -> None:
    model.config_write(c.COMMAND, value.to_bytes(2, "little"))


def enable_msix(model: Model, on: bool = True) -> None:
    at = model.config.find(cap.CAP_MSIX) + cap.MSIX_CONTROL
    model.config_write(at, (cap.MSIX_ENABLE if on else 0).to_bytes(2, "little"))


def test_window_access_reaches_model(model: Model) -> None:
    assert model.window_read(0, 8, 4) == b"\x5a" * 4
    model.window_write(0, 16, b"abcd")
    assert model.calls == [("read", 0, 8, 4), ("write", 0, 16, b"abcd")]
    assert sorted(model.bars) == [0, 1]


def test_msix_window_is_served_by_pci_device(model: Model) -> None:
    irq = FakeIrq()
    model.plug(irq, GuestMemory())
    assert model.window_read(1, 0, 16) == bytes(12) + b"\x01\0\0\0"
    model.window_write(1, 16, b"\x00\x10\xe0\xfe")
    assert model.window_read(1, 16, 4) == b"\x00\x10\xe0\xfe"
    irq.pending = 0b101
    assert model.window_read(1, 0x800, 8) == b"\x05" + bytes(7)
    model.window_write(1, 0x800, b"\xff" * 8)  # read-only
    assert model.window_read(1, 0x800, 8) == b"\x05" + bytes(7)
    assert model.window_read(1, 48, 8) == bytes(8)
    assert model.window_read(1, 0x7FC, 8) == bytes(8)
    model.reset()
    assert model.window_read(1, 16, 4) == bytes(4)


def test_second_window_in_same_bar_is_refused() -> None:
    with pytest.raises(ValueError, match="one BAR"):
        PciDevice(c.PciId(1, 2, 3, 4), [Bar(1, 4096)], msix=MsixTable.exclusive(1, 1))


def test_msix_window_grows_with_vectors() -> None:
    window = MsixTable.exclusive(513, 1).window
    assert window is not None
    assert window.size == 0x8000
    assert MsixTable.exclusive(513, 1).capability().body[-4:] == (0x4000 | 1).to_bytes(4, "little")


def test_model_chooses_place_of_msix_table_and_pba() -> None:
    """As the 82574L: vectors in BAR 3, the pending bits at 2000h of it; here the table shares the registers' BAR."""

    class Placed(Model):
        def __init__(self) -> None:
            self.calls = []
            table = MsixTable(5, table_bar=0, table_offset=0x100, pba_bar=3, pba_offset=0x2000)
            PciDevice.__init__(
                self, c.PciId(0x1234, 0x5678, 1, 2), [Bar(0, 4096), Bar(3, 0x4000)], msix=table
            )

    model, irq = Placed(), FakeIrq()
    model.plug(irq, GuestMemory())
    at = model.config.find(cap.CAP_MSIX)
    assert model.config_read(at + 2, 10) == bytes.fromhex("0400 00010000 03200000")
    model.window_write(0, 0x14C, b"\0\0\0\0")
    assert model.window_read(0, 0x13C, 16) == b"\x01\0\0\0" + bytes(12)
    assert model.window_read(0, 0x14C, 8) == bytes(8)  # the end of the table, and what is behind it
    irq.pending = 0b10010
    model.window_write(3, 0x2000, b"\xff")
    assert model.window_read(3, 0x2000, 4) == b"\x12\0\0\0"
    assert model.calls == []
    for region, offset in ((0, 0xFC), (0, 0x150), (3, 0x100), (3, 0x2008)):
        model.window_write(region, offset, b"abcd")
        assert model.window_read(region, offset, 4) == b"\x5a" * 4
    assert [call[1:3] for call in model.calls[::2]] == [(0, 0xFC), (0, 0x150), (3, 0x100), (3, 0x2008)]


@pytest.mark.parametrize(("bar", "offset"), [(1, 0), (0, 4096 - 8), (0, 4096)])
def test_msix_outside_of_windows_is_refused(bar: int, offset: int) -> None:
    table = MsixTable(1, table_bar=bar, table_offset=offset, pba_bar=0, pba_offset=0)
    with pytest.raises(ValueError, match="no room for MSI-X"):
        PciDevice(c.PciId(1, 2, 3, 4), [Bar(0, 4096)], msix=table)


def test_pin_follows_level_and_command(model: Model) -> None:
    irq = FakeIrq()
    model.plug(irq, GuestMemory())
    model.set_intx(True)
    assert model.intx
    assert model.config.get(c.STATUS, 2) & c.STATUS_INTERRUPT
    command(model, c.COMMAND_INTX_DISABLE)
    assert model.config.get(c.STATUS, 2) & c.STATUS_INTERRUPT  # the pin itself is still asserted
    command(model, 0)
    enable_msix(model)
    enable_msix(model, False)
    model.set_intx(False)
    assert not model.config.get(c.STATUS, 2) & c.STATUS_INTERRUPT
    assert irq.edges == [True, False, True, False, True, False]


def test_message_interrupt_is_sent_only_if_enabled(model: Model) -> None:
    irq = FakeIrq()
    model.plug(irq, GuestMemory())
    command(model, c.COMMAND_MASTER)
    assert model.notify(1) is False
    at = model.config.find(cap.CAP_MSI) + cap.MSI_CONTROL
    model.config_write(at, b"\x01")
    assert model.notify(1) is True
    enable_msix(model)
    assert model.notify(2) is True
    assert irq.sent == [("msi", 1), ("msix", 2)]
    command(model, 0)  # they are memory writes, which only a bus master makes
    assert model.notify(2) is False
    assert irq.sent == [("msi", 1), ("msix", 2)]
    assert model.calls == [("master", True), "irqs", ("master", False)]


def test_dma_requires_bus_mastering(model: Model) -> None:
    memory = GuestMemory()
    model.plug(FakeIrq(), memory)
    for call in (
        lambda: model.dma.read(0, 1),
        lambda: model.dma.write(0, b"x"),
    ):
        with pytest.raises(GuestMemoryError, match="bus master"):
            call()
    command(model, c.COMMAND_MASTER)
    assert model.dma is memory
    command(model, c.COMMAND_MASTER | c.COMMAND_MEMORY)
    command(model, 0)
    assert model.calls == [("master", True), ("master", False)]


def test_function_level_reset_resets_function(model: Model) -> None:
    at = model.config.find(cap.CAP_PCIE) + cap.PCIE_DEVICE_CONTROL
    command(model, c.COMMAND_MEMORY)
    model.config_write(at, b"\x00\x00")
    model.config_write(at, b"\xff")  # the low byte alone
    assert model.calls == []
    model.config_write(at, b"\x00\x80")
    model.config_write(at + 1, b"\x80")
    assert model.calls == ["reset", "reset"]
    assert model.config.get(c.COMMAND, 2) == 0


def test_unplug_returns_to_power_on_state(model: Model) -> None:
    fresh = bytes(model.config.data)
    irq = FakeIrq()
    model.plug(irq, GuestMemory())
    command(model, 7)
    enable_msix(model)
    model.set_intx(True)
    done: list[bool] = []
    model.unplug(lambda: done.append(True))
    assert done == [True]
    assert irq.edges == []  # MSI-X was on
    assert model.config.data == fresh
    assert model.notify(0) is False
    model.set_intx(True)  # a late interrupt goes nowhere
    with pytest.raises(GuestMemoryError):
        model.dma.read(0, 1)
