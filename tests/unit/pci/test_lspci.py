"""What the real lspci makes of a virtio-net-pci function, against the text that a person checked once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.fakes.virtio_device import FakeVirtioDevice

from vnic.pci import config as c
from vnic.pci.capability import CAP_MSIX, MSIX_CONTROL
from vnic.virtio.pci.transport import VirtioPci

GOLDEN = Path(__file__).parent / "golden"


def running(vectors: int | None) -> VirtioPci:
    """The function as a guest has it in use: windows placed, decoding on, MSI-X on if it has it."""
    pci = VirtioPci(FakeVirtioDevice(), vectors=vectors)
    pci.config_write(c.BAR0 + 4 * 4, (0xFE000000).to_bytes(8, "little"))
    if pci.msix is not None:
        pci.config_write(c.BAR0 + 4, (0xFEBD1000).to_bytes(4, "little"))
        pci.config_write(pci.config.find(CAP_MSIX) + MSIX_CONTROL, b"\x00\x80")
    pci.config_write(c.COMMAND, b"\x06\x04" if pci.msix is not None else b"\x06\x00")
    pci.config_write(c.INTERRUPT_LINE, b"\x0b")
    return pci


def dump(data: bytes) -> str:
    """Config space as `lspci -x` prints it, which `lspci -F` reads."""
    lines = [f"{at:02x}: {data[at : at + 16].hex(' ')}\n" for at in range(0, len(data), 16)]
    return "00:03.0 Ethernet controller\n" + "".join(lines)


@pytest.mark.needs("lspci")
@pytest.mark.parametrize(("name", "vectors"), [("virtio-net-pci", None), ("virtio-net-pci-msix-off", 0)])
def test_lspci_output_is_as_reviewed(name: str, vectors: int | None, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(dump(running(vectors).config_read(0, c.CONFIG_SIZE)))
    printed = subprocess.run(
        ["lspci", "-n", "-vvv", "-F", str(path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    # The PCIe part of the text changes with lspci's version; what it is made of is tested beside this.
    kept, skipping = [], False
    for line in printed.splitlines():
        if line.startswith("\tCapabilities:"):
            skipping = "Express" in line
            kept.append(line.partition(", ")[0] if skipping else line)
        elif not skipping or not line.startswith("\t\t"):
            kept.append(line)
    assert "\n".join(kept).rstrip() == (GOLDEN / f"{name}.txt").read_text().rstrip()
