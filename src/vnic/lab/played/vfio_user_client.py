"""A fake VM: the client's end of a vfio-user socket, as QEMU drives it, with RAM and interrupts of its own.

While it waits for an answer it carries out what the server asks of its RAM. Calls block, so a test whose server runs
in an asyncio loop makes them in a thread (`asyncio.to_thread`). It has `PciDevice`'s config and window calls, so
`VirtioPciDriver` works on it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vnic.lab.played.closing import Closing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.protocol.vfio_user import messages as m

QEMU_VERSION = (
    b'{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "max_msg_fds": 16, '
    b'"max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": true}}\0'
)
"""What QEMU 11.1.3 says of itself."""

TIMEOUT_SECONDS = 60.0  # QEMU gives a device up after 5; a busy machine may need longer


class Reply(NamedTuple):
    errno: int
    payload: bytes


class VfioUserClient(Closing):
    """One connection. `attach` does all that QEMU does before the VM runs."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(path)
        self._ident = 100
        self.regions: list[tuple[int, int]] = []
        """(size, flags) of each region."""
        self.irqs: list[tuple[int, int]] = []
        """(count, flags) of each interrupt."""
        self.eventfds: dict[tuple[int, int], int] = {}
        """(index, vector) → our end."""
        self.rams: list[FakeGuestMemory] = []
        """RAM that is mapped: the server reaches all of it also by DMA_READ and DMA_WRITE."""
        self.requests: list[tuple[int, int, int]] = []
        """All such requests: command, address, bytes."""
        self.refused: set[int] = set()
        """The commands that are answered with an error."""
        self._holding: set[int] = set()
        self._held: list[tuple[int, int, bytes]] = []

    def close(self) -> None:
        """As a VM that is killed."""
        self.sock.close()
        for fd in self.eventfds.values():
            os.close(fd)
        self.eventfds.clear()

    # --- messages ---

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> int:
        """Send a request and return its id."""
        self._ident = (self._ident + 1) & 0xFFFF
        socket.send_fds(self.sock, [m.encode(self._ident, command, payload, flags=flags)], list(fds))
        return self._ident

    def post(self, command: int, payload: bytes) -> None:
        self.send(command, payload, flags=m.FLAG_NO_REPLY)

    def reply(self, ident: int, command: int) -> Reply:
        """The next message but for requests, which has to be the answer."""
        while True:
            got, answered, flags, error, payload = self._message()
            if flags & m.FLAG_TYPE == m.TYPE_COMMAND:
                self._requested(got, answered, payload)
                continue
            assert (got, answered, flags & m.FLAG_TYPE) == (ident, command, m.TYPE_REPLY)
            return Reply(error, payload)

    def _message(self) -> tuple[int, int, int, int, bytes]:
        """Ident, command, flags, errno, payload."""
        ident, command, size, flags, error = m.HEADER.unpack(self._read(m.HEADER.size))
        return ident, command, flags, error, self._read(size - m.HEADER.size)

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Reply:
        return self.reply(self.send(command, payload, fds), command)

    def demand(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a request that must succeed."""
        reply = self.ask(command, payload, fds)
        assert reply.errno == 0, f"command {command}: errno {reply.errno}"
        return reply.payload

    def at_end(self) -> bool:
        """Whether the server has closed its side, or cut us off."""
        try:
            return not self.sock.recv(1)
        except ConnectionResetError:
            return True

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return data

    # --- RAM that is not shared ---

    def serve(self, until: Callable[[], bool]) -> None:
        """Serve the server's requests until the awaited message is there."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not until():
            assert time.monotonic() < deadline, "what was waited for does not come"
            self.serve_waiting(0.01)

    def serve_waiting(self, seconds: float = 0.0) -> int:
        """Carry out what is asked now, or within some seconds; how much that was."""
        count = 0
        while select.select([self.sock], [], [], seconds if not count else 0)[0]:
            ident, command, flags, _, payload = self._message()
            assert flags & m.FLAG_TYPE == m.TYPE_COMMAND
            self._requested(ident, command, payload)
            count += 1
        return count

    def hold(self, *commands: int) -> None:
        """Delay the answers to these, or to all requests, until `release`."""
        self._holding = set(commands or (m.DMA_READ, m.DMA_WRITE))

    def release(self) -> None:
        """Send the delayed answers."""
        self._holding = set()
        held, self._held = self._held, []
        for ident, command, payload in held:
            self._answer(ident, command, payload)

    def _requested(self, ident: int, command: int, payload: bytes) -> None:
        address, count = m.DMA_ACCESS.unpack_from(payload)
        self.requests.append((command, address, count))
        if command in self._holding:
            self._held.append((ident, command, payload))
        else:
            self._answer(ident, command, payload)

    def _answer(self, ident: int, command: int, payload: bytes) -> None:
        address, count = m.DMA_ACCESS.unpack_from(payload)
        ram = next(
            (
                ram
                for ram in self.rams
                if ram.guest_addr <= address and address + count <= ram.guest_addr + ram.size
            ),
            None,
        )
        data = b""
        if ram is None or command in self.refused:
            self.sock.sendall(m.encode(ident, command, flags=m.TYPE_REPLY | m.FLAG_ERROR, errno=errno.EFAULT))
            return
        if command == m.DMA_READ:
            data = m.DMA_ACCESS.pack(address, count) + ram.read(address, count)
        else:
            ram.write(address, payload[m.DMA_ACCESS.size :])
        self.sock.sendall(m.encode(ident, command, data, flags=m.TYPE_REPLY))

    # --- what QEMU does ---

    def version(self) -> bytes:
        return self.demand(m.VERSION, m.VERSION_NUMBERS.pack(0, 0) + QEMU_VERSION)

    def attach(self, ram: FakeGuestMemory | None = None, *, shared: bool = True) -> None:
        """QEMU's order: VERSION, DMA_MAPs, infos, RESET."""
        self.version()
        if ram is not None:
            self.map(ram, shared=shared)
        self.attach_to_mapped()

    def attach_to_mapped(self) -> None:
        """The rest of it, after the DMA_MAPs."""
        _, _, regions, irqs = m.DEVICE_INFO.unpack(
            self.demand(m.DEVICE_GET_INFO, m.DEVICE_INFO.pack(16, 0, 0, 0))
        )
        for index in range(regions):
            info = self.demand(m.DEVICE_GET_REGION_INFO, m.REGION_INFO.pack(32, 0, index, 0, 0, 0))
            _, flags, _, _, size, _ = m.REGION_INFO.unpack(info)
            self.regions.append((size, flags))
        for index in range(irqs):
            info = self.demand(m.DEVICE_GET_IRQ_INFO, m.IRQ_INFO.pack(16, 0, index, 0))
            _, flags, _, count = m.IRQ_INFO.unpack(info)
            self.irqs.append((count, flags))
        self.demand(m.DEVICE_RESET)

    def map(self, ram: FakeGuestMemory, *, shared: bool = True) -> None:
        request = m.DMA_MAP_LAYOUT.pack(32, 3, ram.fd_offset if shared else 0, ram.guest_addr, ram.size)
        self.demand(m.DMA_MAP, request, [ram.fd] if shared else [])
        self.rams.append(ram)

    def unmap(self, ram: FakeGuestMemory) -> None:
        self.rams.remove(ram)
        self.demand(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, 0, ram.guest_addr, ram.size))

    def set_eventfds(self, index: int, start: int, count: int, *, action: int = m.IRQ_ACTION_TRIGGER) -> None:
        """Give the server new eventfds for `count` interrupts."""
        fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
        payload = m.SET_IRQS.pack(20, m.IRQ_DATA_EVENTFD | action, index, start, count)
        self.demand(m.DEVICE_SET_IRQS, payload, fds)
        for vector, fd in enumerate(fds, start):
            key = (index, vector) if action == m.IRQ_ACTION_TRIGGER else (-1, vector)
            if key in self.eventfds:
                os.close(self.eventfds[key])
            self.eventfds[key] = fd

    def irq_action(self, flags: int, index: int, count: int = 1) -> None:
        """SET_IRQS without data."""
        self.demand(m.DEVICE_SET_IRQS, m.SET_IRQS.pack(20, flags | m.IRQ_DATA_NONE, index, 0, count))

    def interrupts(self, index: int, vector: int = 0) -> int:
        """How often the interrupt came since the last look."""
        try:
            return os.eventfd_read(self.eventfds[index, vector])
        except BlockingIOError:
            return 0

    # --- PciDevice's calls, over the socket ---

    def window_read(self, region: int, offset: int, length: int) -> bytes:
        return self.demand(m.REGION_READ, m.REGION_ACCESS.pack(offset, region, length))[16:]

    def window_write(self, region: int, offset: int, data: bytes) -> None:
        """Posted, as QEMU writes memory BARs."""
        self.post(m.REGION_WRITE, m.REGION_ACCESS.pack(offset, region, len(data)) + data)

    def config_read(self, offset: int, length: int) -> bytes:
        return self.window_read(m.REGION_CONFIG, offset, length)

    def config_write(self, offset: int, data: bytes) -> None:
        self.demand(m.REGION_WRITE, m.REGION_ACCESS.pack(offset, m.REGION_CONFIG, len(data)) + data)

    def write_multi(self, *writes: tuple[int, int, bytes]) -> None:
        body = b"".join(m.WRITE_MULTI_ONE.pack(at, region, len(data), data) for region, at, data in writes)
        self.post(m.REGION_WRITE_MULTI, struct.pack("<Q", len(writes)) + body)
