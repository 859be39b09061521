"""A guest for machines that can boot none: a virtio-net driver in this process, which `vnic demo` labels as such.

It speaks vhost-user as User-Mode Linux does and drives real rings in real memory, but there is no kernel in it.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path

from vnic.dataplane.offload import checksum
from vnic.nic.virtio_net import features as net
from vnic.nic.virtio_net.config import LINK_UP
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio import features
from vnic.virtio.constants import DESC_BYTES, DESC_WRITE

from .errors import BootFailed, GuestError, GuestGone

QUEUE_SIZE = 16
BUFFER_BYTES = 2048
HEADER_BYTES = 12  # virtio_net_hdr with num_buffers (virtio 1.2 §5.1.6)
REPLY_TIMEOUT = 5.0

_MEMORY_BYTES = 1 << 20
_GUEST_BASE = 0x10_0000
_USER_BASE = 0x7F00_0000_0000
_RX, _TX = 0, 1
_RING_BYTES = 0x1000
_FEATURES = features.VERSION_1 | vu.F_PROTOCOL_FEATURES | net.MAC | net.STATUS
_PROTOCOL_FEATURES = vu.P_REPLY_ACK | vu.P_BACKEND_REQ | vu.P_CONFIG
_CONFIG_MAC, _CONFIG_STATUS = 0, 6  # offsets (virtio 1.2 §5.1.4)
_NO_LOG = 0xFFFF_FFFF_FFFF_FFFF


class _Ring:
    """The driver's side of one split ring (virtio 1.2 §2.7): descriptor i always means buffer i."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        self.index = index
        base = index * (_MEMORY_BYTES // 2)
        self.desc, self.avail, self.used = base, base + _RING_BYTES, base + 2 * _RING_BYTES
        self._buffers = base + 3 * _RING_BYTES
        self._memory = memory
        view = memoryview(memory)
        self._avail = view[self.avail : self.avail + 4 + 2 * QUEUE_SIZE].cast("H")
        self._used = view[self.used : self.used + 4].cast("H")
        self._taken = 0
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def buffer(self, index: int) -> int:
        """The offset of a buffer in memory."""
        return self._buffers + index * BUFFER_BYTES

    def offer(self, index: int, length: int, flags: int) -> None:
        """Make a buffer available to the device."""
        address = _GUEST_BASE + self.buffer(index)
        struct.pack_into("<QIHH", self._memory, self.desc + index * DESC_BYTES, address, length, flags, 0)
        position = self._avail[1]
        self._avail[2 + position % QUEUE_SIZE] = index
        self._avail[1] = (position + 1) & 0xFFFF
        os.eventfd_write(self.kick_fd, 1)

    def take(self, timeout: float) -> tuple[int, int] | None:
        """A buffer that the device is done with and the bytes written there; None if none comes in time."""
        deadline = time.monotonic() + timeout
        while self._taken == self._used[1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.call_fd], [], [], left)[0]:
                return None
            os.eventfd_read(self.call_fd)
        element = self.used + 4 + 8 * (self._taken % QUEUE_SIZE)
        self._taken = (self._taken + 1) & 0xFFFF
        index, written = struct.unpack_from("<II", self._memory, element)
        return index, written

    def close(self) -> None:
        self._avail.release()
        self._used.release()
        os.close(self.kick_fd)
        os.close(self.call_fd)


class FakeGuest:
    """A driver of one NIC. A thread of its own reads the link after each interrupt, as a kernel's work item does."""

    label = "the built-in fake guest driver (no kernel)"

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._socket: socket.socket | None = None
        self._requests: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._talk = threading.Lock()
        self._changed = threading.Condition()
        self._up = False
        self._memory: mmap.mmap | None = None
        self._rings: list[_Ring] = []
        self._mac = bytes(6)
        self._address = bytes(4)

    # -- the guest ----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(REPLY_TIMEOUT)
        try:
            self._socket.connect(self._path)
            self._start_device()
            self._mac = self._read_config(_CONFIG_MAC, 6)
            self._read_link()
        except OSError as error:
            raise BootFailed(f"the fake guest cannot use {self._path}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._watch, name="fake-guest", daemon=True)
        self._thread.start()

    def carrier(self) -> bool:
        return self._up

    def wait_carrier(self, up: bool, *, timeout: int = 5) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._up == up, timeout)

    def set_address(self, address: str) -> None:
        self._address = ipaddress.IPv4Interface(address).ip.packed

    def ping(self, address: str) -> float | None:
        target = ipaddress.IPv4Address(address).packed
        answer = self._exchange(arp_request(self._mac, self._address, target))
        if answer is None:
            return None
        started = time.monotonic()
        answer = self._exchange(echo_request(answer[6:12], self._mac, self._address, target))
        return None if answer is None else (time.monotonic() - started) * 1e3

    def close(self) -> None:
        for end in (self._socket, self._requests):
            if end is not None:
                end.close()
        self._socket = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # -- link ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Read the link whenever the device says that its configuration changed (virtio 1.2 §5.1.4.2)."""
        assert self._requests is not None
        try:
            while self._requests.recv(vu.HEADER.size):
                self._read_link()
        except (OSError, GuestError):
            return  # the NIC is gone, or this guest is being closed

    def _read_link(self) -> None:
        up = bool(self._read_config(_CONFIG_STATUS, 2)[0] & LINK_UP)
        with self._changed:
            self._up = up
            self._changed.notify_all()

    # -- packets ------------------------------------------------------------------------------------------------

    def _exchange(self, frame: bytes, timeout: float = 1.0) -> bytes | None:
        """Send a frame; the next one that comes back for this guest."""
        receive, transmit = self._rings
        assert self._memory is not None
        packet = bytes(HEADER_BYTES) + frame
        at = transmit.buffer(0)
        self._memory[at : at + len(packet)] = packet
        transmit.offer(0, len(packet), 0)
        if transmit.take(timeout) is None:
            return None
        deadline = time.monotonic() + timeout
        while (found := receive.take(max(0.0, deadline - time.monotonic()))) is not None:
            index, written = found
            at = receive.buffer(index)
            answer = self._memory[at + HEADER_BYTES : at + written]
            receive.offer(index, BUFFER_BYTES, DESC_WRITE)
            if answer[:6] == self._mac:
                return answer
        return None

    # -- vhost-user ---------------------------------------------------------------------------------------------

    def _start_device(self) -> None:
        """What UML's virtio_uml says, in its order."""
        self._tell(vu.SET_OWNER)
        offered = self._ask_u64(vu.GET_FEATURES)
        if offered & _FEATURES != _FEATURES:
            raise BootFailed(f"the NIC lacks virtio features: {_FEATURES & ~offered:#x} are not offered")
        protocol = self._ask_u64(vu.GET_PROTOCOL_FEATURES) & _PROTOCOL_FEATURES
        self._tell(vu.SET_PROTOCOL_FEATURES, vu.U64.pack(protocol))
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._tell(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        self._tell(vu.SET_FEATURES, vu.U64.pack(_FEATURES))
        memory_fd = os.memfd_create("fake-guest", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory_fd, _MEMORY_BYTES)
            self._memory = mmap.mmap(memory_fd, _MEMORY_BYTES)
            region = vu.MEM_REGION.pack(_GUEST_BASE, _MEMORY_BYTES, _USER_BASE, 0)
            self._tell(vu.SET_MEM_TABLE, vu.MEM_TABLE.pack(1, 0) + region, [memory_fd])
        finally:
            os.close(memory_fd)
        for index in (_RX, _TX):
            self._start_ring(_Ring(self._memory, index))
        for index in range(QUEUE_SIZE):
            self._rings[_RX].offer(index, BUFFER_BYTES, DESC_WRITE)

    def _start_ring(self, ring: _Ring) -> None:
        self._rings.append(ring)
        index = vu.U64.pack(ring.index)
        self._tell(vu.SET_VRING_CALL, index, [ring.call_fd])
        self._tell(vu.SET_VRING_NUM, vu.VRING_STATE.pack(ring.index, QUEUE_SIZE))
        self._tell(vu.SET_VRING_BASE, vu.VRING_STATE.pack(ring.index, 0))
        places = (_USER_BASE + place for place in (ring.desc, ring.used, ring.avail))
        self._tell(vu.SET_VRING_ADDR, vu.VRING_ADDR.pack(ring.index, 0, *places, _NO_LOG))
        self._tell(vu.SET_VRING_KICK, index, [ring.kick_fd])
        self._tell(vu.SET_VRING_ENABLE, vu.VRING_STATE.pack(ring.index, 1))

    def _read_config(self, offset: int, size: int) -> bytes:
        """As UML reads: from 0 on, the bytes asked for sent along as zeros."""
        end = offset + size
        answer = self._ask(vu.GET_CONFIG, vu.CONFIG.pack(0, end, 0) + bytes(end))
        return answer[vu.CONFIG.size + offset :][:size]

    def _tell(self, request: int, payload: bytes = b"", fds: list[int] | None = None) -> None:
        if self._socket is None:
            raise GuestGone("the fake guest was closed")
        socket.send_fds(self._socket, [vu.encode(request, payload)], fds or [])

    def _ask(self, request: int, payload: bytes = b"") -> bytes:
        with self._talk:
            self._tell(request, payload)
            header = self._receive(vu.HEADER.size)
            return self._receive(vu.payload_size(header))

    def _ask_u64(self, request: int) -> int:
        return int.from_bytes(self._ask(request), "little")

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if self._socket is None:
                raise GuestGone("the fake guest was closed")
            part = self._socket.recv(size - len(data))
            if not part:
                raise GuestGone("the NIC closed the connection")
            data += part
        return data


def arp_request(mac: bytes, sender: bytes, target: bytes) -> bytes:
    """Who has `target`? (RFC 826)"""
    return (b"\xff" * 6 + mac + b"\x08\x06" + b"\0\1\x08\0\6\4\0\1" + mac + sender + bytes(6) + target).ljust(
        60, b"\0"
    )


def echo_request(to: bytes, mac: bytes, sender: bytes, target: bytes) -> bytes:
    """One ping (RFC 792)."""
    message = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1) + bytes(range(48))
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0, sender, target)
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    return to + mac + b"\x08\x00" + header + message
