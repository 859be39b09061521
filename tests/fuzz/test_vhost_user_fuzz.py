"""Arbitrary vhost-user clients against the device's engine: a ProtocolError is the worst that may come of one."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.vhost_user_rig import EngineRig, engine_rig

from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import ProtocolError

QUICK = settings(max_examples=150)

EDGES = [0, 1, 2, 3, 7, 8, 64, 255, 256, 1024, 4095, 4096, 0xFFFF, 1 << 16, 1 << 31, (1 << 32) - 1]
small = st.sampled_from(EDGES) | st.integers(0, (1 << 32) - 1)
addresses = st.sampled_from([0, 0x4000_0000, 0x7F12_3456_0000, 0x7F12_3456_1000, 8 << 20, (1 << 64) - 1])
wide = st.sampled_from(EDGES) | addresses | st.integers(0, (1 << 64) - 1)

STATE_MESSAGES = [vu.SET_VRING_NUM, vu.SET_VRING_BASE, vu.GET_VRING_BASE, vu.SET_VRING_ENABLE]
FD_MESSAGES = [vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A log record that pytest keeps would keep, with its exception, views of the guest's memory."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@contextlib.contextmanager
def hostile_rig() -> Iterator[EngineRig]:
    """A client that breaks the protocol is cut off, and that is all."""
    with engine_rig() as rig, contextlib.suppress(ProtocolError):
        yield rig


Step = tuple[int, bytes, int, int]
"""Request, payload, flags, and which descriptors come along."""


def step(number: st.SearchStrategy[int], payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Step]:
    flags = st.sampled_from([0, 0, vu.FLAG_NEED_REPLY, vu.FLAG_REPLY])
    return st.tuples(number, payload, flags, st.integers(0, 5))


def packed(layout: struct.Struct, *fields: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.tuples(*fields).map(lambda values: layout.pack(*values))


regions = packed(vu.MEM_REGION, wide, wide, wide, wide)
steps = st.one_of(
    step(st.sampled_from(sorted(vu.REQUESTS)), st.just(b"")),
    step(st.integers(0, 60), st.binary(max_size=80)),
    step(st.sampled_from(STATE_MESSAGES), packed(vu.VRING_STATE, st.integers(0, 4), small)),
    step(st.sampled_from(FD_MESSAGES), packed(vu.U64, st.integers(0, 3) | st.integers(0, 1 << 10))),
    step(
        st.just(vu.SET_VRING_ADDR),
        packed(vu.VRING_ADDR, st.integers(0, 3), small, wide, wide, wide, wide),
    ),
    step(
        st.just(vu.SET_MEM_TABLE),
        st.tuples(st.integers(0, 9), st.lists(regions, max_size=9)).map(
            lambda table: struct.pack("<II", table[0], 0) + b"".join(table[1])
        ),
    ),
    step(st.sampled_from([vu.ADD_MEM_REG, vu.REM_MEM_REG]), regions.map(lambda row: bytes(8) + row)),
    step(
        st.sampled_from([vu.GET_CONFIG, vu.SET_CONFIG]),
        st.tuples(packed(vu.CONFIG, small, small, small), st.binary(max_size=32)).map(b"".join),
    ),
    step(
        st.sampled_from([vu.SET_FEATURES, vu.SET_PROTOCOL_FEATURES, vu.SET_STATUS, vu.NET_SET_MTU]),
        packed(vu.U64, wide),
    ),
)


def descriptors(rig: EngineRig, choice: int) -> list[int]:
    memory, kick = rig.memory.fd, rig.driver.rings[0].kick_fd
    return [[], [kick], [memory], [memory, memory], [memory] * 8, [kick] * 9][choice]


@QUICK
@given(st.lists(steps, max_size=12), st.booleans())
def test_any_conversation_gives_at_most_protocol_error(conversation: list[Step], started: bool) -> None:
    with hostile_rig() as rig:
        if started:
            rig.client.start()
        for number, payload, flags, choice in conversation:
            rig.client.send(number, payload, descriptors(rig, choice), flags)
            rig.scheduler.run_soon()


@QUICK
@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_bytes_give_at_most_protocol_error(stream: bytes, piece: int) -> None:
    with hostile_rig() as rig:
        for at in range(0, len(stream), piece):
            rig.engine.feed(stream[at : at + piece], [os.dup(rig.memory.fd)] if at == 0 else [])


@QUICK
@given(st.data())
def test_any_ring_contents_break_only_rings(data: st.DataObject) -> None:
    """A guest that writes whatever it likes into its rings breaks them, and nothing else."""
    with hostile_rig() as rig:
        rig.client.start()
        for ring in rig.driver.rings:
            for part, size in ((ring.desc, 16 * ring.size), (ring.avail, 6 + 2 * ring.size)):
                for at in data.draw(st.lists(st.integers(0, 63), max_size=6)):
                    noise = data.draw(st.binary(min_size=1, max_size=16))
                    rig.memory.write(part + min(at, size - 16), noise)
            ring.publish()
            rig.device.kick(ring.index)
        rig.scheduler.run_soon()
        assert rig.client.ask(vu.GET_FEATURES)
