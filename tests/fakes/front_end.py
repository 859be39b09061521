"""A vhost-user front-end's engine whose messages are kept, and answers of a back-end for it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.frontend import Bases, FrontendEngine, SharedRegion
from vnic.protocol.vhost_user.frontend_record import (
    WANTED_PROTOCOL_FEATURES,
    FrontendEngineRecord,
    SharedRing,
)
from vnic.record import decode, encode

HEADER = struct.Struct("<III")
MEMORY = [SharedRegion(0, 1 << 20, 1000, 0)]


def ring(index: int, kick: int | None = None, *, enabled: bool = True) -> SharedRing:
    """A ring with descriptors that are only numbers."""
    at = 0x4000 * index
    return SharedRing(index, 256, 7 * index, at, at + 0x1000, at + 0x2000, kick, 60 + index, enabled)


class FrontEnd:
    """An engine, all that it sent, and all that it told its owner."""

    def __init__(self, pairs: int = 1) -> None:
        self.pairs = pairs
        self.sent: list[tuple[bytes, tuple[int, ...]]] = []
        self.told: list[object] = []
        self.due: list[bytes] = []
        """The messages whose answer the engine awaits."""
        self.engine = self.new_engine()

    def new_engine(self) -> FrontendEngine:
        return FrontendEngine(self._send, self.pairs, self._ready, self._stopped)

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        self.sent.append((data, tuple(fds)))
        for message in vu.assembler().feed(data):
            number, flags, _ = HEADER.unpack(message.header)
            if flags & vu.FLAG_NEED_REPLY or vu.REQUESTS[number].replies:
                self.due.append(message.header + message.payload)

    def _ready(self) -> None:
        self.told.append(self.engine.features)

    def _stopped(self, bases: Bases) -> None:
        self.told.append(bases)

    def move(self) -> None:
        """Another engine takes this one's place, as after a restart."""
        before, self.engine = self.engine, self.new_engine()
        self.engine.restore(decode(FrontendEngineRecord, encode(before.save())), before.handles)

    def answer(self, *, features: int = WANTED_PROTOCOL_FEATURES) -> bytes:
        """The back-end's answer to the oldest message that awaits one."""
        data = self.due.pop(0)
        number, _, _ = HEADER.unpack_from(data)
        payload = bytes(8)
        if number == vu.GET_FEATURES:
            payload = vu.U64.pack(1 << 32 | vu.F_PROTOCOL_FEATURES)
        elif number == vu.GET_PROTOCOL_FEATURES:
            payload = vu.U64.pack(features)
        elif number == vu.GET_QUEUE_NUM:
            payload = vu.U64.pack(self.pairs)
        elif number == vu.GET_VRING_BASE:
            index, _ = vu.VRING_STATE.unpack(data[HEADER.size :])
            payload = vu.VRING_STATE.pack(index, 100 + index)
        return HEADER.pack(number, vu.VERSION | vu.FLAG_REPLY, len(payload)) + payload

    def shake_hands(self) -> None:
        self.engine.begin()
        while self.due:
            self.engine.feed(self.answer())

    def start(self) -> None:
        """Nothing is answered yet."""
        self.engine.start(1 << 32, MEMORY, [ring(index, 40 + index) for index in range(2 * self.pairs)], 1500)
