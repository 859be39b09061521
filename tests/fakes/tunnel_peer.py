"""The far end of a TUNNEL port of vnic-wire, played with real UDP sockets: VXLAN, CCMs and the key's trailer, written
once more so that the program is not checked by itself."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from tests.fakes.wire_ends import sockaddr_in
from tests.fakes.wire_program import MAX_FRAME, PATIENCE_S, WireProgram

from vnic.dataplane.wire.messages import Kind, PortAdd
from vnic.dataplane.wire.tunnel_messages import (
    CcmMode,
    CcmState,
    GetSocketStats,
    GetTunnelStats,
    SocketAdd,
    SocketStats,
    TunnelConfig,
    TunnelStats,
    TunnelTrouble,
)

UDP_GRO: Final = 104
IP_MTU_DISCOVER: Final = 10
VNI: Final = 0x123456
MAID: Final = b"\x01\x02\x10vnic VNI 1193046".ljust(48, b"\0")
MEP: Final = 1
"""The program's; the peer's is the next."""
INTERVALS: Final = {3333: 1, 10_000: 2, 100_000: 3, 1_000_000: 4, 10_000_000: 5}
TRAILER: Final = struct.Struct(">BBHQ")
KEY: Final = bytes(range(32))
UP, DOWN, NOT_PRESENT = 1, 2, 6

CONFIG: Final = TunnelConfig(
    *(1, VNI, 0, CcmMode.OFF, 0, MEP, MAID, bytes.fromhex("0200000000aa"), UP),
)


class Ccm(NamedTuple):
    """What the peer sends and the program is expected to send."""

    sequence: int
    mep: int = MEP + 1
    rdi: bool = False
    status: int = UP
    interval_us: int = 10_000
    level: int = 0
    maid: bytes = MAID

    def frame(self) -> bytes:
        flags = self.rdi << 7 | INTERVALS[self.interval_us]
        tlv = struct.pack(">BHB", 4, 1, self.status) if self.status else b""
        return b"".join((
            bytes.fromhex("0180c20000") + bytes([0x30 | self.level]) + bytes.fromhex("0200000000bb8902"),
            struct.pack(">BBBBIH", self.level << 5, 1, flags, 70, self.sequence, self.mep),
            self.maid + bytes(16) + tlv + b"\0",
        ))  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> Ccm:
        assert data[:5] == bytes.fromhex("0180c20000")
        assert data[12:14] == bytes.fromhex("8902")
        level, opcode, flags, first, sequence, mep = struct.unpack_from(">BBBBIH", data, 14)
        assert (opcode, first, data[5], level & 31) == (1, 70, 0x30 | level >> 5, 0)
        maid, tlv = data[24:72], data[88:]
        assert tlv[:3] == b"\4\0\1"
        assert tlv[4:] == b"\0"
        interval = {code: us for us, code in INTERVALS.items()}[flags & 7]
        return cls(sequence, mep, bool(flags >> 7), tlv[3], interval, level >> 5, maid)


def is_ccm(frame: bytes) -> bool:
    return frame[12:14] == bytes.fromhex("8902")


def vxlan(frame: bytes, vni: int = VNI) -> bytes:
    return struct.pack(">II", 0x08000000, vni << 8) + frame


def sealed(datagram: bytes, counter: int, key: bytes = KEY, mep: int = MEP + 1, version: int = 1) -> bytes:
    data = datagram + TRAILER.pack(version, 0, mep, counter)
    return data + hashlib.blake2b(data, digest_size=16, key=key).digest()


def receive_socket(address: str = "127.0.0.1") -> socket.socket:
    """As control makes them."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((address, 0))
    return sock


def send_socket(to: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)
    sock.connect(to)
    return sock


class TunnelSocket:
    """A socket where the program's tunnels receive."""

    def __init__(self, wire: WireProgram, number: int = 1) -> None:
        self.wire = wire
        self.number = number
        with receive_socket() as sock:
            self.address: tuple[str, int] = sock.getsockname()
            wire.request(SocketAdd(number), [sock.fileno()])

    @property
    def stats(self) -> SocketStats:
        return SocketStats.parse(self.wire.request(GetSocketStats(self.number)))


class TunnelPeer:
    """One port of the program, and its far end. Leaving the context closes the far end."""

    def __init__(self, shared: TunnelSocket, port: int, *, max_frame: int = MAX_FRAME, **config: Any) -> None:
        self.wire = shared.wire
        self.shared = shared
        self.port = port
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(PATIENCE_S)
        self.config = msgspec.structs.replace(CONFIG, socket=shared.number, **config)
        self.ccms: list[Ccm] = []
        self.frames: list[bytes] = []
        self.counter = 1
        self.remote_counter = 0
        address = self.sock.getsockname()
        with send_socket(address) as sock:
            request = PortAdd(
                *(port, Kind.TUNNEL), max_frame=max_frame, dest=sockaddr_in(address), own=self.config.pack()
            )
            self.wire.request(request, [sock.fileno()])

    def __enter__(self) -> TunnelPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # -- to the program -----------------------------------------------------------------------------------------

    def send_raw(self, datagram: bytes) -> None:
        self.sock.sendto(datagram, self.shared.address)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            datagram = vxlan(frame, self.config.vni)
            if self.config.key:
                datagram = sealed(datagram, self.counter, self.config.key)
                self.counter += 1
            self.send_raw(datagram)

    def say(self, ccm: Ccm) -> None:
        self.send(ccm.frame())

    # -- from the program ---------------------------------------------------------------------------------------

    def _take(self) -> None:
        data = self.sock.recv(1 << 17)
        assert data[:8] == vxlan(b"", self.config.vni)
        if self.config.key:
            version, zero, mep, counter = TRAILER.unpack(data[-28:-16])
            assert (version, zero, mep) == (1, 0, self.config.mep)
            assert data == sealed(data[:-28], counter, self.config.key, mep)
            assert counter > self.remote_counter
            self.remote_counter = counter
            data = data[:-28]
        frame = data[8:]
        if self.config.mode != CcmMode.OFF and is_ccm(frame):
            self.ccms.append(Ccm.parse(frame))
        else:
            self.frames.append(frame)

    def receive(self, count: int = 1) -> list[bytes]:
        """The next frames that are no CCMs."""
        while len(self.frames) < count:
            self._take()
        taken, self.frames = self.frames[:count], self.frames[count:]
        return taken

    def hear(self, wanted: Callable[[Ccm], bool] = lambda _: True) -> Ccm:
        """The first CCM of that kind; those before it are left out."""
        while True:
            while self.ccms:
                if wanted(found := self.ccms.pop(0)):
                    return found
            self._take()

    def await_state(self, wanted: Callable[[CcmState], bool]) -> CcmState:
        """The next event of that kind."""
        event = self.wire.await_event(
            lambda event: isinstance(event, CcmState) and event.port == self.port and wanted(event)
        )
        assert isinstance(event, CcmState)
        return event

    @property
    def troubles(self) -> list[str]:
        """The counters that the program has told of."""
        return [
            event.cause
            for event in self.wire.events
            if isinstance(event, TunnelTrouble) and event.port == self.port
        ]

    @property
    def stats(self) -> TunnelStats:
        return TunnelStats.parse(self.wire.request(GetTunnelStats(self.port)))
