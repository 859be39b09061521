"""The device behind a vfio-user server in protocol tests, and the messages a client sends it.

`FakeDevice` records what the engine lets through; `ask` builds a message, feeds it and takes the reply apart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from vnic.descriptors import close_fds
from vnic.lab.played.vfio_user_client import QEMU_VERSION, Reply
from vnic.protocol.frames import Message
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import (
    DmaMap,
    IrqInfo,
    Refused,
    RegionInfo,
    SetIrqs,
)
from vnic.protocol.vfio_user.server import Server


class FakeDevice:
    """BAR 0 of 4 KiB, config space of 256 bytes; INTx, 1 MSI, 4 MSI-X."""

    def __init__(self) -> None:
        regions = [RegionInfo()] * m.REGION_COUNT
        regions[0] = RegionInfo(4096, 3)
        regions[m.REGION_CONFIG] = RegionInfo(256, 3)
        self.regions = tuple(regions)
        self.irqs = (IrqInfo(1, 7), IrqInfo(1, 1), IrqInfo(4, 1), IrqInfo(), IrqInfo())
        self.calls: list[object] = []
        self.fds: list[int] = []
        self.refuse = False

    def opened(self) -> None:
        if self.refuse:
            raise Refused(errno.EOPNOTSUPP, "not for you")

    def dma_map(self, request: DmaMap, fd: int | None) -> None:
        self.calls.append(("map", request, fd is not None))

    def dma_unmap(self, address: int, size: int) -> None:
        if address == 0xDEAD000:
            raise Refused(errno.ENOENT, "nothing there")
        self.calls.append(("unmap", address, size))

    def dma_unmap_all(self) -> None:
        self.calls.append("unmap all")

    def region_read(self, index: int, offset: int, count: int) -> bytes:
        self.calls.append(("read", index, offset, count))
        return bytes(offset + at & 0xFF for at in range(count))

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        self.calls.append(("write", index, offset, data))

    def set_irqs(self, request: SetIrqs, fds: list[int]) -> None:
        self.calls.append((request, len(fds)))
        self.fds += fds

    def reset(self) -> None:
        self.calls.append("reset")

    def close(self) -> None:
        close_fds(self.fds)


def message(
    command: int, payload: bytes = b"", fds: Iterable[int] = (), *, flags: int = 0, ident: int = 7
) -> Message:
    """A message as the assembler hands it on; it owns the descriptors."""
    return Message(m.HEADER.pack(ident, command, 16 + len(payload), flags, 0), payload, list(fds))


def ask(
    server: Server, command: int, payload: bytes = b"", fds: Iterable[int] = (), *, flags: int = 0
) -> Reply | None:
    """Feed one message; every reply has to fit it."""
    sent = message(command, payload, fds, flags=flags)
    reply = server.receive(sent)
    assert sent.fds == []
    if reply is None:
        return None
    ident, answered, size, reply_flags, error = m.HEADER.unpack_from(reply)
    assert (ident, answered, size) == (7, command, len(reply))
    assert reply_flags == (m.TYPE_REPLY | m.FLAG_ERROR if error else m.TYPE_REPLY)
    return Reply(error, reply[16:])


def serving() -> tuple[Server, FakeDevice]:
    """A server after VERSION."""
    device = FakeDevice()
    server = Server(device)
    assert ask(server, m.VERSION, m.VERSION_NUMBERS.pack(0, 0) + QEMU_VERSION) is not None
    return server, device


def memfd(size: int = 4096) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
