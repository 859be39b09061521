"""A hostile VM's vfio-user connection, from which vnic-wire takes the kicks: whole ones, broken ones, and noise.

`wire_fuzzer` makes one for some of its hostile guests, and plays control's part in the turns as well.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct

from tests.fakes.wire_program import Refused, WireProgram

from vnic.dataplane.wire.messages import AddDoorbell
from vnic.pci.irq import WANTED
from vnic.protocol.vfio_user import messages as m

REGION, FIRST, SIZE, STRIDE = 4, 0x3000, 0x1000, 4


class Kicks:
    """One connection, of the guest at a port."""

    def __init__(self, source: random.Random, wire: WireProgram, port: int) -> None:
        """Raises Refused where the port has one, or no rings."""
        self._source = source
        self._far, self._near = socket.socketpair()
        self._given, self._theirs = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self._far.setblocking(False)
        fds = self._near.fileno(), self._given, self._theirs
        try:
            wire.request(AddDoorbell(port, REGION, FIRST, SIZE, STRIDE), fds)
        except Refused:
            self.close()
            raise

    def close(self) -> None:
        self._far.close()
        self._near.close()
        os.close(self._given)
        os.close(self._theirs)

    def step(self) -> None:
        source = self._source
        with contextlib.suppress(OSError):  # full, or closed
            match source.randrange(5):
                case 0 | 1:
                    self._far.send(b"".join(self._message() for _ in range(source.randrange(1, 60))))
                case 2:
                    os.eventfd_write(self._theirs, source.choice([1, 2, WANTED, 1 + WANTED]))
                case 3:
                    os.eventfd_read(self._given)
                    self._near.recv(source.choice([1, 34, 1 << 16]), socket.MSG_DONTWAIT)
                case _ if source.random() < 0.05:
                    self._far.shutdown(socket.SHUT_WR)

    def _message(self) -> bytes:
        source = self._source
        ring = source.choice([0, 1, 1, 2, 3, 1023])
        access = m.REGION_ACCESS.pack(FIRST + STRIDE * ring, REGION, 2) + struct.pack("<H", ring)
        message = bytearray(m.encode(1, m.REGION_WRITE, access, flags=m.FLAG_NO_REPLY))
        if source.random() < 0.1:
            message[source.randrange(len(message))] = source.choice([0, 1, 8, 9, 127, 128, 255])
        return bytes(message[: source.randrange(len(message))] if source.random() < 0.02 else message)
