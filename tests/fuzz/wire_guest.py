"""A guest of the fuzzer: it knows the layout of rings and of vhost-user, and keeps to it only as far as it likes."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import socket
import struct
from collections.abc import Sequence

from tests.fakes.wire_ends import HEADER, tcp_frame
from tests.fakes.wire_program import ALL_FEATURES, MAX_FRAME, PROTOCOL_FEATURES, WireProgram

from vnic.dataplane.wire.messages import Kind, PortAdd
from vnic.protocol.vhost_user import messages as vu

FILE_BYTES = 1 << 20
GUEST, USER = 0x10_0000, 0x7F00_0000_0000
RING_BYTES = 0x8000
DESC, AVAIL, USED = 0, 0x2000, 0x4000
TABLES, BUFFERS = 0x2_0000, 0x4_0000
NEXT, WRITE, INDIRECT = 1, 2, 4
PAIRS = 2
SIZES = (1, 2, 8, 64, 256)
LENGTHS = (0, 1, 9, 10, 11, 12, 13, 25, 26, 60, 74, 1514, 2048, 65535, 69632, 69644, 69645, 2**31, 2**32 - 1)
DESCRIPTOR = struct.Struct("<QIHH")
MESSAGE = struct.Struct("<III")


class HostileGuest:
    """Memory, rings and the front-end's socket of one port. `step` does one thing, legal or not."""

    NAME = "hostile-guest"

    def __init__(self, source: random.Random, wire: WireProgram, port: int) -> None:
        self.source = source
        self.wire = wire
        self.fd = os.memfd_create(self.NAME, os.MFD_CLOEXEC)
        os.ftruncate(self.fd, FILE_BYTES)
        self.memory = mmap.mmap(self.fd, FILE_BYTES)
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2 * PAIRS)]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2 * PAIRS)]
        self.sizes = [source.choice(SIZES) for _ in range(2 * PAIRS)]
        self.avail = [0] * (2 * PAIRS)
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        try:
            with theirs:
                wire.request(PortAdd(port, Kind.VHOST, queues=PAIRS, max_frame=MAX_FRAME), [theirs.fileno()])
        except BaseException:
            self.close()
            raise
        self._start()

    def close(self) -> None:
        self.sock.close()
        self.memory.close()
        for fd in (self.fd, *self.kicks, *self.calls):
            os.close(fd)

    def step(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.recv(1 << 16)  # answers
        ring = self.source.randrange(2 * PAIRS)
        match self.source.randrange(22):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6:
                self._legal_chains(ring)
            case 7 | 8 | 9 | 10:
                self._any_chains(ring)
            case 20 | 21:
                self._long_chains(ring)
            case 11:
                self._publish(
                    ring, self.source.choice([1, self.sizes[ring], self.sizes[ring] + 1, 0x8000, 0xFFFF])
                )
            case 12:
                self._notifications(ring)
            case 13 | 14 | 15:
                self._restart(ring)
            case 16:
                self._memory_table()
            case 17:
                self._any_message()
            case 18:
                self._truncate(ring)
            case 19:
                self._start()

    def scribble(self, source: random.Random, count: int) -> None:
        """Write anything where the program looks."""
        for _ in range(count):
            ring = source.randrange(2 * PAIRS) * RING_BYTES
            at = source.choice(
                [
                    ring + DESC + source.randrange(64 * 16),
                    ring + AVAIL + 4 + source.randrange(128),
                    TABLES + source.randrange(4096),
                    BUFFERS + source.randrange(64) * 0x1000 + source.randrange(64),
                ]
            )
            self.memory[at] = source.choice([0, 1, 2, 4, 255, source.randrange(256)])

    # -- rings --------------------------------------------------------------------------------------------------

    def _describe(self, at: int, address: int, length: int, flags: int, following: int) -> None:
        DESCRIPTOR.pack_into(self.memory, at, address, length, flags & 0xFFFF, following & 0xFFFF)

    def _offer(self, ring: int, head: int) -> None:
        at = ring * RING_BYTES + AVAIL + 4 + 2 * (self.avail[ring] % self.sizes[ring])
        struct.pack_into("<H", self.memory, at, head & 0xFFFF)
        self.avail[ring] = (self.avail[ring] + 1) & 0xFFFF

    def _publish(self, ring: int, further: int = 0) -> None:
        index = (self.avail[ring] + further) & 0xFFFF
        struct.pack_into("<H", self.memory, ring * RING_BYTES + AVAIL + 2, index)
        self._kick(ring)

    def _kick(self, ring: int) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self.kicks[ring], 1)

    def _legal_chains(self, ring: int) -> None:
        """Frames to send, or buffers to receive in, in one to three pieces, direct or in a table."""
        source, size = self.source, self.sizes[ring]
        used = struct.unpack_from("<H", self.memory, ring * RING_BYTES + USED + 2)[0]
        free = size - ((self.avail[ring] - used) & 0xFFFF)
        for _ in range(min(free, source.randrange(1, 24))):
            head = self.avail[ring] % size
            buffer = BUFFERS + source.randrange(64) * 0x1000
            lengths, flag = [source.choice([12, 60, 256, 1526, 4096, 65562])], WRITE
            if ring & 1:
                packet, flag = self._packet(), 0
                self.memory[buffer : buffer + len(packet)] = packet
                cuts = sorted(
                    {0, len(packet), *(source.randrange(len(packet)) for _ in range(source.randrange(3)))}
                )
                lengths = [end - begin for begin, end in itertools.pairwise(cuts)]
            table = TABLES + 64 * head
            for at, length in enumerate(lengths):
                more = NEXT if at + 1 < len(lengths) else 0
                self._describe(table + 16 * at, GUEST + buffer, length, flag | more, at + 1)
                buffer += length
            base = ring * RING_BYTES + DESC
            if len(lengths) > 1:
                self._describe(base + 16 * head, GUEST + table, 16 * len(lengths), INDIRECT, 0)
            else:
                self._describe(base + 16 * head, GUEST + buffer - lengths[0], lengths[0], flag, 0)
            self._offer(ring, head)
        self._publish(ring)

    def _packet(self) -> bytes:
        source = self.source
        if source.random() < 0.5:
            return bytes(12) + source.randbytes(source.choice([1, 13, 14, 60, 1514, 9000]))
        data, transport = tcp_frame(source.randbytes(source.choice([0, 100, 1460, 20000, 60000])))
        fields = [1, source.choice([0, 1, 1, 0x81]), 54, source.choice([200, 1460]), transport, 16]
        if source.random() < 0.4:
            odd = source.choice([0, 1, 2, 3, 4, 5, 6, 14, len(data) & 0xFFFF, 0xFFFF])
            at = source.randrange(6)
            fields[at] = odd & 0xFF if at < 2 else odd
        return HEADER.pack(*fields).ljust(12, b"\0") + data

    def _long_chains(self, ring: int) -> None:
        """Tables of up to as many buffers as are allowed, and one more, each perhaps across a border of two regions."""
        source, size = self.source, self.sizes[ring]
        address = source.choice([GUEST + FILE_BYTES // 2 - 1, GUEST + BUFFERS])
        flag, length = 0 if ring & 1 else WRITE, source.choice([2, 2, 60])
        most = source.choice([64, 1023, 1024, 1024, 1025])
        for _ in range(source.randrange(1, 4)):
            head, count = self.avail[ring] % size, source.choice([3, most, most, most])
            table = TABLES + 0x1000 + source.randrange(3) * 0x5000
            for at in range(count):
                more = NEXT if at + 1 < count else 0
                self._describe(table + 16 * at, address, length, flag | more, at + 1)
            self._describe(ring * RING_BYTES + DESC + 16 * head, GUEST + table, 16 * count, INDIRECT, 0)
            self._offer(ring, head)
        self._legal_chains(ring)

    def _any_chains(self, ring: int) -> None:
        source, size = self.source, self.sizes[ring]
        for _ in range(source.randrange(1, 6)):
            at = ring * RING_BYTES + DESC + 16 * source.randrange(size)
            if source.random() < 0.3:
                at = TABLES + 16 * source.randrange(64)
            self._describe(at, self._address(), self._length(), self._flags(), source.randrange(size + 1))
            self._offer(ring, source.choice([source.randrange(size), source.randrange(size), size, 0xFFFF]))
        self._publish(ring)

    def _address(self) -> int:
        source = self.source
        places = (
            GUEST + FILE_BYTES - 4,
            GUEST - 1,
            GUEST,
            0,
            2**64 - 1,
            2**63,
            GUEST + TABLES,
            source.getrandbits(64),
        )
        return source.choice(places) if source.random() < 0.4 else GUEST + BUFFERS + source.randrange(1 << 18)

    def _length(self) -> int:
        return self.source.choice(LENGTHS) if self.source.random() < 0.5 else self.source.randrange(2048)

    def _flags(self) -> int:
        return self.source.choice([0, 0, NEXT, NEXT, WRITE, WRITE | NEXT, INDIRECT, INDIRECT | NEXT, 0xFFFF])

    def _notifications(self, ring: int) -> None:
        at = ring * RING_BYTES
        struct.pack_into("<H", self.memory, at + AVAIL, self.source.choice([0, 1, 0xFFFF]))
        struct.pack_into(
            "<H", self.memory, at + AVAIL + 4 + 2 * self.sizes[ring], self.source.getrandbits(16)
        )
        self._kick(ring)

    def _truncate(self, ring: int) -> None:
        """Take the file away, all of it or the buffers, let the program look, and give it back."""
        os.ftruncate(self.fd, self.source.choice([0, 0x1000, TABLES, BUFFERS, BUFFERS + 0x2000]))
        self._kick(ring)
        self._kick(ring ^ 1)
        self.wire.all_stats()  # the worker has let the main thread in between two turns
        os.ftruncate(self.fd, FILE_BYTES)

    # -- messages -----------------------------------------------------------------------------------------------

    def _send(
        self, request: int, payload: bytes, fds: Sequence[int] = (), flags: int = 1, size: int = -1
    ) -> None:
        head = MESSAGE.pack(request, flags, len(payload) if size < 0 else size)
        with contextlib.suppress(OSError):  # the port may have been ended
            socket.send_fds(self.sock, [head + payload], fds)

    def _number(self, request: int, value: int, fds: Sequence[int] = ()) -> None:
        self._send(request, struct.pack("<Q", value), fds)

    def _state(self, request: int, ring: int, value: int) -> None:
        self._send(request, struct.pack("<II", ring, value))

    def _start(self) -> None:
        """As a front-end does it."""
        self._number(vu.SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES)
        self._number(vu.SET_FEATURES, ALL_FEATURES & self.source.choice([-1, ~(1 << 29), ~(1 << 15), ~2, ~1]))
        self._memory_table(legal=True)
        for ring in range(2 * PAIRS):
            self._restart(ring)

    def _restart(self, ring: int) -> None:
        """Take the ring back, clear it, and start it anew."""
        base = ring * RING_BYTES
        self._state(vu.GET_VRING_BASE, ring, 0)
        if self.source.random() < 0.8:
            self.memory[base : base + RING_BYTES] = bytes(RING_BYTES)
            self.avail[ring] = 0
        self.sizes[ring] = self.source.choice(SIZES)
        self._number(vu.SET_VRING_CALL, ring, [self.calls[ring]])
        self._state(vu.SET_VRING_NUM, ring, self.sizes[ring])
        self._addresses(ring, USER + base)
        self._number(vu.SET_VRING_KICK, ring, [self.kicks[ring]])
        self._state(vu.SET_VRING_ENABLE, ring, int(self.source.random() < 0.9))

    def _addresses(self, ring: int, user: int) -> None:
        self._send(
            vu.SET_VRING_ADDR, struct.pack("<IIQQQQ", ring, 0, user + DESC, user + USED, user + AVAIL, 0)
        )

    def _memory_table(self, *, legal: bool = False) -> None:
        """One region, some that lie side by side, or any."""
        source = self.source
        count = source.choice([1, 1, 2, 4, 8])
        size = FILE_BYTES // count
        regions = [[GUEST + at * size, size, USER + at * size, at * size] for at in range(count)]
        if not legal and source.random() < 0.5:
            region = source.choice(regions)
            region[source.randrange(4)] = source.choice(
                [0, 1, 0xFFF, GUEST, 2**64 - 1, 2**64 - 0x1000, 2**63, size * 2]
            )
        payload = struct.pack("<II", count, 0) + b"".join(struct.pack("<QQQQ", *region) for region in regions)
        self._send(vu.SET_MEM_TABLE, payload, [self.fd] * count)

    def _any_message(self) -> None:
        source = self.source
        ring = source.randrange(2 * PAIRS)
        match source.randrange(8):
            case 0:
                self._state(vu.SET_VRING_NUM, ring, source.choice([0, 3, 32768, 65536, 2**31]))
            case 1:
                self._addresses(
                    ring, source.choice([0, USER + 8, USER + FILE_BYTES - 0x4000, 2**64 - 0x4010])
                )
            case 2:
                self._state(vu.SET_VRING_ENABLE, ring, source.randrange(3))
            case 3:
                self._number(vu.SET_FEATURES, ALL_FEATURES & source.getrandbits(64))
            case 4:
                self._number(vu.SEND_RARP, source.getrandbits(48))
            case 5:
                self._odd_descriptor(ring)
            case 6:
                self._send(source.randrange(48), source.randbytes(source.choice([0, 4, 8, 40, 72])), flags=9)
            case _:
                fds = [
                    source.choice([self.fd, self.kicks[0], self.sock.fileno()])
                    for _ in range(source.randrange(11))
                ]
                payload = source.randbytes(source.choice([0, 8, 264]))
                self._send(
                    source.randrange(24),
                    payload,
                    fds,
                    source.getrandbits(4),
                    source.choice([-1, 8, 2**32 - 1]),
                )

    def _odd_descriptor(self, ring: int) -> None:
        """A pipe or a socket whose other end closes, a call that is full, or what is none of these."""
        near, far = socket.socketpair() if self.source.random() < 0.5 else (None, None)
        out, into = os.pipe()
        full = os.eventfd(0, os.EFD_CLOEXEC)
        os.eventfd_write(full, 2**64 - 2)
        request = self.source.choice([vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR])
        choices = [out, into, full, self.fd, *([near.fileno()] if near is not None else [])]
        self._number(request, ring, [self.source.choice(choices)])
        for fd in (out, into, full):
            os.close(fd)
        for each in (near, far):
            if each is not None:
                each.close()
