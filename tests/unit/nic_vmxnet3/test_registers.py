"""Registers, commands, activation, and what `lspci` of the function says."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.vmxnet3_driver import QUEUES, SHARED
from tests.unit.nic_vmxnet3.conftest import MAC, Rig

from vnic.nic.vmxnet3 import regs as r
from vnic.pci.capability import CAP_MSI, CAP_MSIX, CAP_PCIE


def test_function_is_qemus(rig: Rig) -> None:
    config = rig.device.config
    assert config.read(0, 4) == struct.pack("<HH", 0x15AD, 0x07B0)
    assert config.read(8, 4) == b"\x01\x00\x00\x02"
    assert config.read(0x2C, 4) == struct.pack("<HH", 0x15AD, 0x07B0)
    assert {index: bar.size for index, bar in rig.device.bars.items()} == {0: 4096, 1: 4096, 2: 8192}
    at = config.find(CAP_MSIX)
    assert config.read(at + 2, 10) == struct.pack("<HII", 24, 2, 0x1002)
    assert (config.find(CAP_PCIE), config.find(CAP_MSI), at) == (0x48, 0x84, 0x9C)
    assert config.read(0x100, 12) == b"\x03\x00\x01\x00\xfe\x12\x34\x56\x52\x54\x00\xff"


def test_registers_of_a_new_device(rig: Rig) -> None:
    driver = rig.driver
    assert driver.probe() == MAC
    assert driver.command(r.GET_PERM_MAC_LO) == int.from_bytes(MAC[:4], "little")
    assert driver.command(r.GET_PERM_MAC_HI) == int.from_bytes(MAC[4:], "little")
    assert (driver.command(r.GET_DID_LO), driver.command(r.GET_DID_HI)) == (0x07B0, 1)
    assert driver.command(r.GET_ADAPTIVE_RING_INFO) == 1
    assert driver.command(0xF00D0008) == 0  # GET_CONF_INTR: the driver chooses, masks itself
    assert driver.command(r.ACTIVATE_DEV) == 1
    assert all(driver.read(r.PT_BAR, r.IMR + 8 * index) == 1 for index in range(25))
    assert driver.read(r.PT_BAR, r.IMR + 8 * 25) == 0


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, struct.pack("<I", 0xBABEFEE2)),
        (8 + 48, struct.pack("<I", 59)),
        (8 + 48, struct.pack("<I", 9001)),
        (8 + 54, b"\0"),
        (8 + 54, b"\x09"),
        (8 + 55, b"\0"),
        (8 + 55, b"\x09"),
        (8 + 32, struct.pack("<Q", 1 << 40)),
        (80 + 2, b"\x19"),
        (QUEUES - SHARED + 80 - 8, b"\x19"),
        (QUEUES - SHARED + 16 + 40, struct.pack("<I", 4097)),
        (QUEUES - SHARED + 16 + 48, struct.pack("<I", 0)),
        (QUEUES - SHARED + 16 + 16, struct.pack("<Q", 8)),
        (QUEUES - SHARED + 256 + 16 + 40, struct.pack("<I", 4097)),
        (QUEUES - SHARED + 256 + 16 + 48, struct.pack("<I", 8193)),
    ],
)
def test_invalid_configuration_is_refused(
    rig: Rig, at: int, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    driver = rig.driver
    driver.probe()
    driver.set_up()
    driver.memory.write(SHARED + at, value)
    for _ in range(3):
        assert driver.command(r.ACTIVATE_DEV) == 1
    assert len(caplog.records) == 1
    driver.start()
    assert rig.wire(MAC + bytes(60))
    assert len(driver.received()) == 1


def test_second_activation_changes_nothing(running: Rig) -> None:
    running.wire(MAC + bytes(60))
    assert running.driver.command(r.ACTIVATE_DEV) == 0
    running.wire(MAC + bytes(60))
    assert len(running.driver.received()) == 2


def test_address_of_guest_survives_activation(running: Rig) -> None:
    """In QEMU it is lost, though Linux has written it before."""
    driver, other = running.driver, bytes.fromhex("020000000001")
    driver.write(r.VD_BAR, r.MACL, int.from_bytes(other[:4], "little"))
    driver.write(r.VD_BAR, r.MACH, int.from_bytes(other[4:], "little"))
    assert running.device.info_text(0) == "model=vmxnet3,macaddr=02:00:00:00:00:01"
    driver.write(r.VD_BAR, r.CMD, r.QUIESCE_DEV)
    driver.write(r.VD_BAR, r.CMD, r.RESET_DEV)
    driver.start()
    running.wire(other + bytes(60))
    running.wire(MAC + bytes(60))
    assert [frame[:6] for frame in driver.received()] == [other]
    running.device.reset()
    assert driver.probe() == MAC


def test_address_zero_deactivates(running: Rig) -> None:
    running.driver.write(r.VD_BAR, r.DSAL, 0)
    assert running.driver.command(r.ACTIVATE_DEV) == 1
    assert running.wire(MAC + bytes(60))


def test_queue_descriptors_are_filled(running: Rig) -> None:
    """The driver is to kick for each packet."""
    assert running.driver.memory.read(QUEUES + 4, 4) == b"\1\0\0\0"


def test_odd_accesses(running: Rig) -> None:
    device = running.device
    assert device.window_read(r.VD_BAR, r.MACL, 8) == MAC[:4] + bytes(4)
    assert device.window_read(r.VD_BAR, r.MACL + 1, 2) == MAC[1:3]
    assert device.window_read(r.VD_BAR, 0xFFF, 1) == b"\0"
    assert device.window_read(r.MSIX_BAR, 0x1800, 8) == bytes(8)
    device.window_write(r.VD_BAR, 0xFFC, bytes(4))
    device.window_write(r.MSIX_BAR, 0x1800, bytes(8))


def test_reset_masks_all(running: Rig) -> None:
    driver = running.driver
    driver.write(r.VD_BAR, r.CMD, r.RESET_DEV)
    assert all(driver.read(r.PT_BAR, r.IMR + 8 * index) == 1 for index in range(25))
    assert running.device.client.guest.driver_ok is False
