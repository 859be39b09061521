"""Arbitrary vhost-user back-ends against the front-end's engine: a ProtocolError is the worst that may come of one."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.frontend import FrontendEngine, SharedRegion
from vnic.protocol.vhost_user.frontend_record import Phase, SharedRing
from vnic.protocol.vhost_user.messages import ProtocolError

QUICK = settings(max_examples=200)

numbers = st.sampled_from(
    [vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM, vu.GET_VRING_BASE, vu.SET_MEM_TABLE]
)
values = st.sampled_from([0, 1, 2, 1 << 30, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)


def start(engine: FrontendEngine) -> None:
    ring = SharedRing(0, 256, 0, 0, 4096, 8192, None, None)
    engine.start(0, [SharedRegion(0, 1 << 20, 3, 0)], [ring], 9000)


@QUICK
@given(st.lists(st.tuples(numbers, values), max_size=20), st.booleans(), st.integers(1, 4))
def test_any_answers_give_at_most_protocol_error(
    answers: list[tuple[int, int]], honest: bool, pairs: int
) -> None:
    """Honest answers name the request that is awaited; their values are anything."""
    sent: list[int] = []

    def send(data: bytes, fds: Sequence[int]) -> None:
        while data:
            number, flags, size = struct.unpack_from("<III", data)
            assert len(data) >= 12 + size
            if flags & vu.FLAG_NEED_REPLY or vu.REQUESTS[number].replies:
                sent.append(number)
            data = data[12 + size :]

    engine = FrontendEngine(send, pairs, lambda: None, lambda bases: None)
    engine.begin()
    with contextlib.suppress(ProtocolError):
        for number, value in answers:
            named = sent.pop(0) if honest and sent else number
            engine.feed(struct.pack("<IIIQ", named, 5, 8, value))
            if engine.phase is Phase.READY:
                start(engine)
            elif engine.phase is Phase.RUNNING and value & 1:
                engine.stop()
    engine.close()


@QUICK
@given(st.binary(max_size=100))
def test_any_bytes_give_at_most_protocol_error(stream: bytes) -> None:
    engine = FrontendEngine(lambda data, fds: None, 1, lambda: None, lambda bases: None)
    engine.begin()
    with contextlib.suppress(ProtocolError):
        engine.feed(stream)
    engine.close()
