"""Unmodified firmware and boot loaders on vnic's PCI NICs: DHCP, a file with the right checksum, a pulled cable.

Each case is a driver of its own: edk2's of virtio, iPXE's of virtio and e1000 (as a BIOS' ROM and as an EFI driver),
U-Boot's of e1000; GRUB uses that of the firmware.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from tests.conftest import require
from tests.guests.boot_image import FILE, LETTERS
from tests.guests.firmware_lab import IPXE, OVMF, SHA256, U_BOOT, grub, machine

ROOT_PORT = ["-device", "pcie-root-port,id=port0,chassis=1"]
"""A bus of PCI Express, with the NIC on it."""
IPXE_SCRIPT = """\
#!ipxe
echo FETCHING
imgfetch --name file tftp://10.0.2.2/file || imgfetch --name file tftp://10.0.2.2/file
echo DONE
ifstat
echo OVER
boot file
"""


def rom(name: str) -> str:
    path = IPXE / name
    require(path.is_file(), f"{path} (package ipxe-qemu)")
    return str(path)


@pytest.mark.parametrize(
    ("driver", "kind", "options", "nic"),
    [
        ("virtio-net-pci", "pc", [], {}),
        ("virtio-net-pci", "q35", [], {}),
        ("virtio-net-pci", "q35", ROOT_PORT, {"bus": "port0"}),
        ("e1000", "q35", [], {"romfile": "efi-e1000.rom"}),
    ],
    ids=["virtio-pc", "virtio-q35", "virtio-root-port", "e1000-rom"],
)
def test_grub_fetches_whole_files_over_uefi(
    tmp_path: Path, driver: str, kind: str, options: list[str], nic: dict[str, str]
) -> None:
    """OVMF starts GRUB over the network. It has no driver of an e1000: that comes with the card's boot ROM."""
    require(OVMF.is_file(), f"{OVMF} (package ovmf)")
    grub(tmp_path, "x86_64-efi", "efinet")
    card = {key: rom(value) if key == "romfile" else value for key, value in nic.items()}
    with machine(tmp_path, driver, ["-bios", str(OVMF), *options], kind=kind, **card) as booted:
        booted.fetch_with_a_pull()
        assert SHA256 in booted.serial.text


@pytest.mark.parametrize(("driver", "name"), [("virtio-net-pci", "virtio"), ("e1000", "e1000")])
def test_ipxe_fetches_whole_files(tmp_path: Path, driver: str, name: str) -> None:
    """Its own statistics count no error, and what it fetched starts and finds itself whole."""
    (tmp_path / "boot").write_text(IPXE_SCRIPT)
    with machine(tmp_path, driver, [], romfile=rom(f"pxe-{name}.rom"), bootindex=1) as booted:
        booted.fetch_with_a_pull()
        booted.serial.wait(
            LETTERS
        )  # the end of what iPXE prints may be lost: the file takes the serial line over
        assert "TXE:0" in booted.serial.text.split("DONE")[1]
        assert "RXE:0" in booted.serial.text.split("DONE")[1]


@pytest.mark.parametrize(("driver", "name"), [("virtio-net-pci", "virtio"), ("e1000", "e1000")])
def test_grub_fetches_whole_files_over_a_boot_rom(tmp_path: Path, driver: str, name: str) -> None:
    """A BIOS' ROM starts GRUB, which goes on with the ROM's driver (PXE's UNDI)."""
    grub(tmp_path, "i386-pc-pxe", "pxe")
    with machine(tmp_path, driver, [], romfile=rom(f"pxe-{name}.rom"), bootindex=1) as booted:
        booted.fetch_with_a_pull()
        assert SHA256 in booted.serial.text


def test_u_boot_fetches_whole_files(tmp_path: Path) -> None:
    require(U_BOOT.is_file(), f"{U_BOOT} (package u-boot-qemu)")
    with machine(tmp_path, "e1000", ["-bios", str(U_BOOT)]) as booted:
        serial = booted.serial
        serial.wait("stop autoboot")
        serial.type("\r")
        serial.wait("=> ")
        serial.type("setenv autoload no; dhcp\r")
        serial.wait("DHCP client bound to address 10.0.2.15")
        serial.wait_after("10.0.2.15", "=> ")  # what is typed before the prompt may be lost
        # What it types back is not what it prints.
        serial.type(
            "echo FET''CHING; tftpboot 1000000 10.0.2.2:file; tftpboot 1000000 10.0.2.2:file; echo DO''NE\r"
        )
        booted.fetch_with_a_pull()
        serial.type(f"crc32 1000000 {len(FILE):x}; echo OV''ER\r")
        serial.wait("OVER")
        assert f"==> {zlib.crc32(FILE):08x}" in serial.text
