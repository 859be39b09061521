"""The PCI NICs that QEMU has too, one row each: what a guest sees of them, for the tests that all models share.

`test_qemu_models.py` drives one of each in one guest; `test_qemu_parity.py` compares each with QEMU's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

JUMBO = 9000


class Register(NamedTuple):
    """A register that tells of the link; reading it must have no effect."""

    name: str
    bar: int
    offset: int
    size: int = 4
    mask: int = 0xFFFFFFFF
    """What is compared with QEMU's."""


class Dump(NamedTuple):
    """What `ethtool -d` prints: for registers that take a write to be read."""

    name: str
    pattern: str
    """Its group is the value, in hexadecimal."""
    mask: int = 0xFFFFFFFF
    base: int = 16


class LinkBit(NamedTuple):
    """How the guest's driver tells up from down: a bit of one of the registers. "carrier": it takes a write to read it,
    and only the interface shows it."""

    register: str
    mask: int
    up: bool = True
    """The bit's value while the link is up."""


@dataclass(frozen=True, kw_only=True)
class GuestModel:
    """One row."""

    device: str
    """-device, vnic's and QEMU's."""
    driver: str
    """The kernel's driver, as `ethtool -i` and the folder of the bus name it."""
    modules: tuple[str, ...]
    registers: tuple[Register | Dump, ...]
    link: LinkBit | None
    """None: the guest cannot see its link."""
    ethtool: frozenset[str] = frozenset({"Speed: 1000Mb/s", "Duplex: Full"})
    """Lines of `ethtool` while the link is up."""
    log: Mapping[bool, str] = field(default_factory=dict)
    """What the kernel says of a link that went down, or up; {} is the interface."""
    confirms: bool = True
    """vnic learns that the guest saw its link."""
    polls: bool = False
    """The driver looks at times, without an interrupt, so that it may miss a flap."""
    link_vector: int | str = 0
    """Of MSI-X: that by which the guest learns of its link."""
    own_interrupts_s: float = 0
    """How often the driver has the chip interrupt for other reasons, in seconds; 0: never."""
    mtu: int = JUMBO
    transfer_mib: float = 10
    msix: bool = False
    """It interrupts by MSI-X or MSI, so that its lines in /proc/interrupts are its own. By INTx, it shares one."""
    reads_first: bool = False
    """Of INTx: the driver reads the cause before it clears it, so that one interrupt may become two under QEMU
    (docs/models.md)."""
    parity: bool = True
    """It takes the forty steps beside QEMU's own."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """What differs from QEMU's on purpose: a register, `interrupts`, `carrier` or `log`; "… while down": only while the
    interface is down or has no driver. And the sentence of docs/models.md that says so."""

    @property
    def name(self) -> str:
        """For ids, which have at most 15 bytes as names of interfaces do, and for files."""
        return self.device


_FLOW_CONTROL = 1 << 27 | 1 << 28 | 1 << 30
"""CTRL.RFCE and TFCE, and VME: a reset by CTRL.RST clears them, and not with QEMU's."""
CTRL = Register("CTRL", 0, 0x0, mask=0xFFFFFFFF ^ _FLOW_CONTROL)
STATUS = Register("STATUS", 0, 0x8)
_INTEL_LINK = LinkBit("STATUS", 1 << 1)
_INTEL_LOG = {
    False: "e1000: {} NIC Link is Down",
    True: "e1000: {} NIC Link is Up 1000 Mbps Full Duplex",
}

_BCR4 = r"BCR00:(?:\s+[0-9a-f]{4}){4}\s+([0-9a-f]{4})"
"""The fifth of its line."""

MODELS = (
    GuestModel(
        device="e1000",
        driver="e1000",
        modules=("e1000",),
        registers=(CTRL, STATUS, Register("IMS", 0, 0xD0)),
        link=_INTEL_LINK,
        log=_INTEL_LOG,
        own_interrupts_s=2,  # its watchdog, so that a ring that was forgotten is looked at
        differs={"STATUS while down": "A PHY that the driver powers down loses its link."},
    ),
    GuestModel(
        device="e1000e",
        parity=False,  # A flap within one interrupt's time counts one interrupt fewer than with QEMU's, now and then.
        driver="e1000e",
        modules=("e1000e",),
        registers=(CTRL, STATUS, Register("IMS", 0, 0xD0)),
        link=_INTEL_LINK,
        log={
            False: "{}: NIC Link is Down",
            True: "{}: NIC Link is Up 1000 Mbps Full Duplex",
        },
        link_vector=2,
        msix=True,
        differs={"STATUS while down": "A PHY that the driver powers down loses its link."},
    ),
    GuestModel(
        device="igb",
        driver="igb",
        modules=("igb",),
        registers=(CTRL, STATUS, Register("IMS", 0, 0xD0), Register("EIMS", 0, 0x1524)),
        link=_INTEL_LINK,
        log={
            False: "igb: {} NIC Link is Down",
            True: "igb: {} NIC Link is Up 1000 Mbps Full Duplex",
        },
        msix=True,
        own_interrupts_s=2,  # its watchdog sets EICS, so that a ring that was forgotten is looked at
        differs={"STATUS while down": "A PHY that the driver powers down loses its link."},
    ),
    GuestModel(
        device="vmxnet3",
        # QEMU's own loses an event that comes while its vector is masked, and its guest stays without carrier.
        parity=False,
        driver="vmxnet3",
        modules=("vmxnet3",),
        registers=(
            Register("VRRS", 1, 0x00),
            Register("UVRS", 1, 0x08),
            Register("CMD", 1, 0x20),  # the answer to the last command, which is often GET_LINK
            Register("IMR of events", 0, 0x08),
        ),
        link=LinkBit("carrier", 1),
        log={False: "{}: NIC Link is Down", True: "{}: NIC Link is Up 1000 Mbps"},
        link_vector=1,
        msix=True,
        differs={"IMR of events while down": "An interrupt can be masked while the device is not active."},
    ),
    GuestModel(
        device="rtl8139",
        driver="8139cp",
        modules=("8139cp",),
        registers=(
            Register("BMSR", 1, 0x64, 2),
            Register("MSR", 1, 0x58, 1),
            Register("BMCR", 1, 0x62, 2),
            Register("IMR", 1, 0x3C, 2),
            Register("ISR", 1, 0x3E, 2),
            Register("RCR", 1, 0x44),
            Register("CPCR", 1, 0xE0, 2),
        ),
        link=LinkBit("BMSR", 1 << 2),
        ethtool=frozenset({"Speed: 100Mb/s", "Duplex: Full"}),
        log={False: "{}: link down", True: "{}: link up, 100Mbps, full-duplex, lpa 0x05E1"},
        reads_first=True,
        mtu=4096,  # the most that 8139cp takes
    ),
    GuestModel(
        device="pcnet",
        driver="pcnet32",
        modules=("pcnet32",),
        registers=(Dump("BCR4", _BCR4), Dump("CSR15", r"CSR15: .*0x([0-9a-f]{4})")),
        link=LinkBit("BCR4", 0x8000),
        ethtool=frozenset({"Speed: 10Mb/s", "Port: Twisted Pair"}),
        log={False: "{}: link down", True: "{}: link up"},
        polls=True,
        mtu=1500,
        transfer_mib=2,  # its driver makes more than ten accesses for each packet
    ),
    GuestModel(
        device="ne2k_pci",
        driver="ne2k-pci",
        modules=("ne2k_pci",),
        registers=(Register("CR", 0, 0x0, 1), Register("ISR", 0, 0x7, 1)),
        link=None,
        ethtool=frozenset(),
        confirms=False,
        mtu=1500,
        transfer_mib=1 / 64,  # each four bytes are a register access
    ),
)
