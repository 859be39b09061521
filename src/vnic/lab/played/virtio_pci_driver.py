"""The VM side of a virtio PCI function: finds the structures by their capabilities and drives the registers.

It works on anything with config and BAR accesses: a `PciDevice` in this process, or a vfio-user client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vnic.lab.played.driver import DriverRing

CAP_MSIX, CAP_VENDOR = 0x11, 0x09
COMMON, NOTIFY, ISR, DEVICE, PCI_CFG = 1, 2, 3, 4, 5
VERSION_1 = 1 << 32


class Function(Protocol):
    """A PCI function as a VM reaches it (`PciDevice`'s own names)."""

    def config_read(self, offset: int, length: int) -> bytes: ...

    def config_write(self, offset: int, data: bytes) -> None: ...

    def window_read(self, region: int, offset: int, length: int) -> bytes: ...

    def window_write(self, region: int, offset: int, data: bytes) -> None: ...


class VirtioPciDriver:
    """A modern driver (virtio 1.2 §4.1). Values are little-endian ints; `place` maps cfg_type to (BAR, offset)."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.place: dict[int, tuple[int, int]] = {}
        self.caps: dict[int, int] = {}
        """Config offset of each virtio structure's capability."""
        self.msix = 0
        self.multiplier = 0
        at = self.config(0x34, 1)
        while at:
            if self.config(at, 1) == CAP_MSIX:
                self.msix = at
            elif self.config(at, 1) == CAP_VENDOR:
                kind = self.config(at + 3, 1)
                self.place[kind] = (self.config(at + 4, 1), self.config(at + 8, 4))
                self.caps[kind] = at
                if kind == NOTIFY:
                    self.multiplier = self.config(at + 16, 4)
            at = self.config(at + 1, 1)

    def config(self, offset: int, size: int, value: int | None = None) -> int:
        """Read config space, or write `value`."""
        if value is not None:
            self.function.config_write(offset, value.to_bytes(size, "little"))
            return value
        return int.from_bytes(self.function.config_read(offset, size), "little")

    def get(self, offset: int, size: int, kind: int = COMMON) -> int:
        bar, base = self.place[kind]
        return int.from_bytes(self.function.window_read(bar, base + offset, size), "little")

    def put(self, offset: int, size: int, value: int, kind: int = COMMON) -> None:
        bar, base = self.place[kind]
        self.function.window_write(bar, base + offset, value.to_bytes(size, "little"))

    @property
    def status(self) -> int:
        return self.get(20, 1)

    @status.setter
    def status(self, value: int) -> None:
        self.put(20, 1, value)

    @property
    def generation(self) -> int:
        return self.get(21, 1)

    def isr(self) -> int:
        return self.get(0, 1, ISR)

    def features(self) -> int:
        """What the device offers."""
        value = 0
        for word in (0, 1):
            self.put(0, 4, word)
            value |= self.get(4, 4) << 32 * word
        return value

    def set_features(self, features: int) -> None:
        for word in (0, 1):
            self.put(8, 4, word)
            self.put(12, 4, features >> 32 * word & 0xFFFFFFFF)

    def enable_bus(self, *, msix: bool = False) -> None:
        """Memory space and bus mastering on; MSI-X too, and INTx off, if wanted."""
        self.config(4, 2, 0x0406 if msix else 0x0006)
        if msix:
            self.config(self.msix + 2, 2, 0x8000)

    def negotiate(self, features: int) -> bool:
        """Reset to FEATURES_OK (§3.1.1); False if the device does not accept the features."""
        self.status = 0
        assert self.status == 0
        self.status = 1
        self.status = 3
        self.set_features(features)
        self.status = 11
        return self.status == 11

    def start_ring(self, ring: DriverRing, vector: int | None = None) -> None:
        """Put a ring into the device: size, vector, addresses by halves, enable."""
        self.put(22, 2, ring.index)
        assert self.get(24, 2) >= ring.size
        self.put(24, 2, ring.size)
        if vector is not None:
            self.put(26, 2, vector)
            assert self.get(26, 2) == vector
        for offset, address in ((32, ring.desc), (40, ring.avail), (48, ring.used)):
            self.put(offset, 4, address & 0xFFFFFFFF)
            self.put(offset + 4, 4, address >> 32)
        self.put(28, 2, 1)

    def start(self, features: int, rings: Sequence[DriverRing], *, msix: bool = False) -> None:
        """The whole initialization: config vector 0, ring i on vector i + 1. It is over when this returns: writes
        are posted, and a read comes after them."""
        self.enable_bus(msix=msix)
        assert self.negotiate(features)
        if msix:
            self.put(16, 2, 0)
        for ring in rings:
            self.start_ring(ring, ring.index + 1 if msix else None)
            assert self.get(28, 2) == 1
        self.status = 15
        self.get(20, 1)

    def reset_ring(self, index: int) -> bool:
        """Ask for a reset of a ring (§2.6.1); whether it is over at once."""
        self.put(22, 2, index)
        self.put(58, 2, 1)
        return self.get(58, 2) == 0

    def kick(self, index: int) -> None:
        self.put(22, 2, index)
        self.put(self.get(30, 2) * self.multiplier, 2, index, NOTIFY)
