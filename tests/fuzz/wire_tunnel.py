"""The far end of a tunnel that sends what it likes to vnic-wire: bad VXLAN, CCMs and trailers, floods, and nothing."""

from __future__ import annotations

import random

from tests.fakes.tunnel_peer import KEY, VNI, Ccm, TunnelPeer, TunnelSocket, sealed, vxlan
from tests.fakes.wire_program import MAX_FRAME, WireProgram, frame

from vnic.dataplane.wire.messages import Request
from vnic.dataplane.wire.tunnel_messages import (
    CcmMode,
    CcmSet,
    GetSocketStats,
    GetTunnelStats,
    Heard,
    PortToControl,
    TunnelState,
)

INTERVALS = [3333, 10_000, 1_000_000]


class HostileTunnel:
    """One port, on a socket of its own that has the port's number."""

    def __init__(self, source: random.Random, wire: WireProgram, port: int) -> None:
        self.source = source
        mode = source.choice(list(CcmMode))
        state = TunnelState(
            *(source.getrandbits(64), source.getrandbits(source.choice([1, 64])), source.getrandbits(64)),
            heard_ns=source.choice([0, 1, 1 << 63]),
            sequence=source.getrandbits(32),
            remote_sequence=source.getrandbits(32),
            remote_interval_us=3333,
            heard=source.choice(list(Heard)),
        )
        self.peer = TunnelPeer(
            *(TunnelSocket(wire, port), port),
            max_frame=source.choice([MAX_FRAME, 1514, 60]),
            mode=mode,
            interval_us=source.choice(INTERVALS) if mode else 0,
            level=source.randrange(8),
            key=source.choice([b"", KEY]),
            state=state,
        )
        self.peer.sock.setblocking(False)
        self.port = port

    def close(self) -> None:
        self.peer.sock.close()

    def request(self) -> Request:
        """One of those about tunnels, perhaps refused."""
        source = self.source
        requests: list[Request] = [
            *(CcmSet(self.port, source.randrange(10)), PortToControl(self.port, source.random() < 0.5)),
            *(GetTunnelStats(self.port), GetSocketStats(self.port)),
        ]
        return source.choice(requests)

    def step(self) -> None:
        source = self.source
        try:
            match source.randrange(8):
                case 0 | 1:  # runs, which the kernel joins
                    datagram = self._datagram()
                    for _ in range(source.randrange(1, max(2, min(60, 60_000 // len(datagram))))):
                        self.peer.send_raw(datagram)
                case 2 | 3:
                    for _ in range(source.randrange(1, 20)):
                        self.peer.send_raw(self._mutated(self._datagram()))
                case 4:
                    self.peer.send(self._ccm())
                case 5:
                    self.peer.send_raw(source.randbytes(source.choice([0, 1, 7, 8, 9, 21, 22, 36, 3000])))
                case 6:
                    for _ in range(source.randrange(20)):
                        self.peer.sock.recv(1 << 17)
                case _ if source.random() < 0.1:
                    self.peer.sock.close()  # which ICMP tells, and nothing comes any more
                case _:
                    for number in range(source.randrange(1, 100)):
                        self.peer.send(frame(number, source.choice([60, 60, 1514])))
        except OSError:
            pass  # closed, or nothing to read

    def _ccm(self) -> bytes:
        source = self.source
        ccm = Ccm(
            source.choice([source.getrandbits(32), self.peer.counter]),
            mep=source.choice([0, 1, 2, 8191, 8192]),
            rdi=source.random() < 0.5,
            status=source.randrange(8),
            interval_us=source.choice(INTERVALS),
            level=source.choice([self.peer.config.level, source.randrange(8)]),
        )
        return ccm.frame()

    def _datagram(self) -> bytes:
        source = self.source
        data = (
            self._ccm() if source.random() < 0.3 else source.randbytes(source.choice([14, 60, 1514, 65000]))
        )
        datagram = vxlan(data, source.choice([VNI, VNI, VNI, VNI + 1, 0]))
        if source.random() < 0.5:
            datagram = sealed(datagram, source.choice([0, 1, self.peer.counter, (1 << 64) - 1]))
        return datagram

    def _mutated(self, datagram: bytes) -> bytes:
        source = self.source
        data = bytearray(datagram)
        for _ in range(source.randrange(4)):
            data[source.randrange(min(len(data), 120))] = source.choice([0, 1, 2, 127, 128, 255])
        return bytes(data[: source.randrange(len(data) + 1)] if source.random() < 0.3 else data)
