"""The control channel's messages: what is packed is parsed as it was, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.dataplane.wire import impair_messages as i
from vnic.dataplane.wire import messages as m
from vnic.dataplane.wire import recall_messages as r
from vnic.dataplane.wire import tunnel_messages as t
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.replies import HelloReply, PortStats, Stats

U32 = st.integers(0, 0xFFFF_FFFF)
I32 = st.integers(-(1 << 31), (1 << 31) - 1)
U64 = st.integers(0, (1 << 64) - 1)
U16 = st.integers(0, 0xFFFF)
U8 = st.integers(0, 0xFF)
MACS = st.lists(st.binary(min_size=6, max_size=6), max_size=5).map(tuple)
BYTES = st.binary(max_size=100)
TEXT = st.text(max_size=50).filter(lambda text: not text.endswith("\0"))


def flags(kind: Any) -> st.SearchStrategy[Any]:
    return st.sets(st.sampled_from(list(kind))).map(lambda found: kind(sum(found)))


FIVE = st.tuples(*[U32] * 5)
DIRECTIONS = st.sampled_from(i.ImpairDirection)
IMPAIR_STATES = st.builds(i.ImpairState, U64, FIVE, U32)
IMPAIRMENTS = st.builds(
    i.Impairment,
    *(U32, U64, U64, U64, U32, U32, U32, U32, FIVE, U32, U32),
    st.lists(st.integers(-32768, 32767), max_size=20).map(tuple),
)
REQUESTS = st.one_of(
    st.builds(m.Hello, U32, U32, U32),
    st.builds(m.PortAdd, U32, st.sampled_from(m.Kind), U32, flags(m.PortFlag), U32, BYTES, BYTES),
    st.builds(m.PortRemove, U32),
    st.builds(m.AddDoorbell, U32, U32, U64, U64, U32),
    st.builds(m.WireSet, U32, st.lists(U32, max_size=20).map(tuple)),
    st.builds(
        m.SetFilter,
        U32,
        flags(m.FilterBit),
        st.binary(min_size=6, max_size=6),
        MACS,
        MACS,
        flags(m.Overflow),
        st.binary(min_size=512, max_size=512),
    ),
    st.builds(m.Dump, U32, U32, U32, st.sampled_from(m.Direction)),
    st.builds(m.Inject, U32, U32, BYTES, st.booleans()),
    st.builds(m.GetStats, U32, U32),
    st.builds(t.SocketAdd, U32),
    st.builds(t.SocketRemove, U32),
    st.builds(t.CcmSet, U32, U32),
    st.builds(t.PortToControl, U32, st.booleans()),
    st.builds(t.GetTunnelStats, U32),
    st.builds(t.GetSocketStats, U32),
    st.builds(i.Impair, U32, DIRECTIONS, st.none() | IMPAIRMENTS, IMPAIR_STATES, st.booleans()),
    st.builds(i.GetImpairment, U32, DIRECTIONS),
    st.builds(r.Hold),
    st.builds(r.PortRecall, U32),
    st.builds(r.LineTake, U32, DIRECTIONS, U32),
    st.builds(r.LinesDrop),
)
STATES = st.builds(
    t.TunnelState,
    *(U64, U64, U64, U64, U32, U32, U32, st.integers(0, 8191)),
    *(st.sampled_from(t.Heard), st.booleans(), st.integers(0, 7), st.booleans()),
)
CONFIGS = st.builds(
    t.TunnelConfig,
    *(U32, U32, U32, st.sampled_from(t.CcmMode), U8, U16),
    *(st.binary(min_size=48, max_size=48), st.binary(min_size=6, max_size=6), U8),
    *(st.sampled_from([b"", bytes(range(32))]), STATES),
)
ANSWERS = st.one_of(
    st.builds(m.Reply, U32, I32, BYTES, U32),
    st.builds(m.PortLost, U32, I32, U32),
    st.builds(m.RingBroken, U32, U32, TEXT),
    st.builds(m.Log, U32, TEXT),
    st.builds(m.DumpFailed, U32, I32),
    st.builds(m.FrameReturned, U32, U32, st.binary(min_size=10, max_size=10), BYTES, U32),
    st.builds(t.CcmState, U32, st.sampled_from(t.Heard), st.booleans(), U8, st.booleans(), U32, U32),
    st.builds(t.FrameReceived, U32, BYTES),
    st.builds(t.TunnelTrouble, U32, st.integers(2, 9)),
)


@given(REQUESTS, U32)
def test_requests_come_back(request_: Any, serial: int) -> None:
    assert m.parse_request(m.pack_request(serial, request_)) == (serial, request_)


@given(ANSWERS)
def test_answers_come_back(answer: Any) -> None:
    assert m.parse_answer(m.pack_answer(answer)) == answer


@given(CONFIGS)
def test_tunnels_come_back(config: t.TunnelConfig) -> None:
    assert t.TunnelConfig.parse(config.pack()) == config
    assert len(config.pack()) == 160


@pytest.mark.parametrize("state", [t.TunnelState(remote_status=8), t.TunnelState(remote_mep=8192)], ids=str)
def test_tunnel_states_that_cannot_be_are_refused(state: t.TunnelState) -> None:
    with pytest.raises(MessageError):
        t.TunnelState.parse(state.pack())


@pytest.mark.parametrize("counter", [0, 1, 10])
def test_trouble_that_is_none_is_refused(counter: int) -> None:
    with pytest.raises(MessageError, match=f"counter {counter}"):
        m.parse_answer(m.pack_answer(t.TunnelTrouble(3, counter)))


@given(st.builds(t.TunnelStats, *[U64] * 10), st.builds(t.SocketStats, *[U64] * 4))
def test_counters_of_tunnels_come_back(tunnel: t.TunnelStats, sockets: t.SocketStats) -> None:
    assert t.TunnelStats.parse(tunnel.pack()) == tunnel
    assert t.SocketStats.parse(sockets.pack()) == sockets


@given(st.builds(i.ImpairReply, IMPAIR_STATES, *[U64] * 8))
def test_replies_about_impairments_come_back(reply: i.ImpairReply) -> None:
    assert i.ImpairReply.parse(reply.pack()) == reply


LINES = st.lists(st.tuples(DIRECTIONS, st.builds(i.ImpairReply, IMPAIR_STATES, *[U64] * 8)), max_size=2)


@given(st.builds(PortStats, U32, U32, *[U64] * 12), LINES, st.none() | STATES)
def test_what_a_recalled_port_leaves_comes_back(stats: Any, lines: list[Any], state: Any) -> None:
    kind, counters = (m.Kind.TAP, None) if state is None else (m.Kind.TUNNEL, t.TunnelStats(3))
    reply = r.RecallReply(stats, kind, state, counters, tuple(lines))
    assert r.RecallReply.parse(reply.pack()) == reply


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (
        *(m.parse_request, m.parse_answer, Stats.parse, HelloReply.parse),
        *(t.TunnelConfig.parse, t.TunnelState.parse, t.TunnelStats.parse, t.SocketStats.parse),
        *(i.ImpairReply.parse, r.RecallReply.parse),
    ):
        try:
            parse(data)
        except MessageError:
            pass


@given(ANSWERS.filter(lambda each: not isinstance(each, m.Reply)), st.data())
def test_short_events_are_refused(answer: Any, data: st.DataObject) -> None:
    whole = m.pack_answer(answer)
    sizes: dict[type, int] = {
        m.PortLost: 20,
        m.RingBroken: 16,
        m.Log: 12,
        m.DumpFailed: 16,
        m.FrameReturned: 28,
        t.CcmState: 24,
        t.FrameReceived: 28,
        t.TunnelTrouble: 16,
    }
    least = sizes[type(answer)]
    short = whole[: data.draw(st.integers(0, least - 1))]
    with pytest.raises(MessageError):
        m.parse_answer(short)


def test_the_layouts_are_those_of_the_program() -> None:
    """The sizes that protocol.h asserts."""
    sizes: dict[m.Request, int] = {
        m.Hello(): 24,
        m.PortAdd(1, m.Kind.TAP): 36,
        m.PortRemove(1): 12,
        m.WireSet(1, ()): 16,
        m.SetFilter(1, m.FilterBit(0)): 28 + 512,
        m.Dump(1, 1): 24,
        m.Inject(1, 0, b""): 20,
        m.GetStats(): 16,
        t.SocketAdd(1): 12,
        t.SocketRemove(1): 12,
        t.CcmSet(1, 1): 16,
        t.PortToControl(1, True): 16,
        t.GetTunnelStats(1): 12,
        t.GetSocketStats(1): 12,
        r.Hold(): 8,
        r.PortRecall(1): 12,
        r.LineTake(1, i.ImpairDirection.IN, 2): 20,
        r.LinesDrop(): 8,
    }
    assert {each: len(m.pack_request(0, each)) for each in sizes} == sizes
    assert len(PortStats(1).pack()) == 8 + 12 * 8
    assert (len(t.TunnelStats().pack()), len(t.SocketStats().pack())) == (80, 32)
    assert len(m.pack_answer(m.Reply(0))) == 16


def test_a_message_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        m.pack_request(0, m.Inject(1, 0, bytes(m.MAX_MESSAGE_BYTES)))


def test_drops_are_told_by_cause() -> None:
    stats = msgspec.structs.replace(PortStats(1), no_room=3, too_long=1)
    assert stats.drops == {"no-room": 3, "too-long": 1}
    assert Stats.parse(Stats((stats, PortStats(2))).pack()).ports == (stats, PortStats(2))
