"""Far ends of vnic-wire's ports, played with real sockets: streams, datagram sockets, and the frames on them."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Sequence

from tests.fakes.wire_program import MAX_FRAME, PATIENCE_S, WireGuest, WireProgram, until

from vnic.dataplane.wire.messages import Kind, PortAdd, PortFlag, PortLost

HEADER = struct.Struct("<BBHHHH")
"""A virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
NOTHING = bytes(HEADER.size)


def framed(*frames: bytes) -> bytes:
    """The bytes of these frames on a stream."""
    return b"".join(struct.pack(">I", len(each)) + each for each in frames)


class Stream:
    """The far end of a STREAM port."""

    def __init__(
        self,
        wire: WireProgram,
        port: int,
        *,
        input: bytes = b"",
        output: bytes = b"",
        pair: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        self.sock, theirs = pair or socket.socketpair()
        self.sock.settimeout(PATIENCE_S)
        self._data = b""
        memory = wire.new_memory(port, input, output)
        with theirs:
            request = PortAdd(port, Kind.STREAM, max_frame=MAX_FRAME)
            wire.request(request, [theirs.fileno(), memory.fd])

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(framed(*frames))

    def receive(self) -> bytes:
        """The next frame."""
        size = struct.unpack(">I", self._read(4))[0]
        return self._read(size)

    def receive_all(self, count: int) -> list[bytes]:
        return [self.receive() for _ in range(count)]

    def _read(self, size: int) -> bytes:
        while len(self._data) < size:
            piece = self.sock.recv(1 << 20)
            assert piece, "the stream has ended"
            self._data += piece
        data, self._data = self._data[:size], self._data[size:]
        return data

    def fill(self) -> None:
        """Send frames until the program reads no more."""
        self.sock.setblocking(False)
        try:
            while True:
                self.sock.send(framed(bytes(1514)) * 50)
        except BlockingIOError:
            pass
        self.sock.settimeout(PATIENCE_S)


def unread(sock: socket.socket) -> int:
    """Bytes that the far end of a unix socket has not read (SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), "little")


def add_datagrams(
    wire: WireProgram,
    port: int,
    sock: socket.socket,
    *,
    dest: bytes = b"",
    own: bytes = b"",
    flags: PortFlag | None = None,
) -> None:
    """Give the program a datagram socket; it is closed here."""
    with sock:
        request = PortAdd(
            port, Kind.DGRAM, flags=flags or PortFlag(0), max_frame=MAX_FRAME, dest=dest, own=own
        )
        wire.request(request, [sock.fileno()])


def datagram_pair(wire: WireProgram, port: int) -> socket.socket:
    """The far end of a connected DGRAM port."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(PATIENCE_S)
    add_datagrams(wire, port, theirs)
    return ours


def sockaddr_in(address: tuple[str, int]) -> bytes:
    return (
        struct.pack("=H", socket.AF_INET)
        + struct.pack(">H", address[1])
        + socket.inet_aton(address[0])
        + bytes(8)
    )


def sockaddr_un(path: str) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + path.encode() + b"\0"


def await_lost(wire: WireProgram, port: int) -> int:
    """Wait for PORT_LOST of this port; its errno."""
    event = wire.await_event(lambda event: isinstance(event, PortLost) and event.port == port)
    assert isinstance(event, PortLost)
    return event.error


def passed(wire: WireProgram, port: int, frames_in: int) -> None:
    """Wait until so many frames came in at the port."""
    until(lambda: wire.stats(port).frames_in >= frames_in)


def receive_raw(guest: WireGuest) -> list[bytes]:
    """The next packets of pair 0, with their headers."""
    got: list[bytes] = []

    def some() -> bool:
        got.extend(guest.driver.received_raw())
        return bool(got)

    until(some)
    return got


def tcp_frame(payload: bytes, sequence: int = 1000) -> tuple[bytes, int]:
    """An IPv4 TCP frame as a driver offers it, with the pseudo-header's sum in place; with it the offset of TCP."""
    addresses = bytes([10, 0, 2, 15, 10, 0, 2, 2])
    length = 20 + len(payload)
    words: Sequence[int] = struct.unpack(">4H", addresses)
    partial = sum(words) + 6 + length
    while partial >> 16:
        partial = (partial & 0xFFFF) + (partial >> 16)
    tcp = struct.pack(">HHIIBBHHH", 4000, 80, sequence, 7, 5 << 4, 0x18, 500, partial, 0)
    network = struct.pack(">BBHHHBBH", 0x45, 0, (20 + length) & 0xFFFF, 7, 0, 64, 6, 0) + addresses
    ethernet = bytes.fromhex("525400000002 525400000001 0800")
    return ethernet + network + tcp + payload, 34
