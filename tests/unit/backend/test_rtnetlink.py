"""Tests of the kernel's messages about interfaces: datagrams of any form, and the state that they describe."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.backend.rtnetlink import Answer, LinkMessage, get_link, parse, set_link

NEW, DELETED = 16, 17
UP, LOWER_UP = 1, 1 << 16


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(
    name: bytes, kind: int = NEW, flags: int = 0, operstate: int = 0, family: int = 0, index: int = 7
) -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(13, b"\x01")
    body += attribute(3, name + b"\0") + attribute(16, bytes([operstate]))
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 3, 0) + body


def names(data: bytes) -> list[tuple[str, bool]]:
    return [(each.state.name, each.deleted) for each in parse(data) if isinstance(each, LinkMessage)]


def test_all_messages_of_datagram_are_read() -> None:
    data = message(b"tap0") + message(b"veth-long-name1", kind=DELETED)
    assert names(data) == [("tap0", False), ("veth-long-name1", True)]
    assert names(message(b"tap0", kind=20)) == []
    (first, _) = parse(data)
    assert isinstance(first, LinkMessage)
    assert (first.sequence, first.state.index, first.state.hardware) == (3, 7, 1)


def test_bridges_message_that_a_port_left_is_no_deletion() -> None:
    assert names(message(b"eth0", kind=DELETED, family=7)) == []


def test_truncated_datagram_yields_whole_messages() -> None:
    assert names(message(b"a") + message(b"b")[:-1]) == [("a", False)]


def test_answer_has_its_requests_number_and_an_errno() -> None:
    data = struct.pack("=IHHIIi", 20, 2, 0, 5, 0, -19)
    assert list(parse(data)) == [Answer(5, 19)]


@pytest.mark.parametrize(
    ("flags", "operstate", "trouble"),
    [
        (UP | LOWER_UP, 6, ""),
        (UP | LOWER_UP, 0, ""),
        (UP | LOWER_UP, 3, ""),  # the operstate is corrected after the carrier
        (UP | LOWER_UP, 5, "dormant"),
        (UP | LOWER_UP, 4, "testing"),
        (UP, 6, "lowerlayerdown"),
        (UP, 3, "lowerlayerdown"),
        (UP, 2, "lowerlayerdown"),  # a veth whose other end has the same index in its namespace
        (UP, 1, "notpresent"),
        (0, 6, "down"),
        (UP, 99, "lowerlayerdown"),
    ],
)
def test_trouble_is_the_reason_why_no_packets_pass(flags: int, operstate: int, trouble: str) -> None:
    (found,) = parse(message(b"eth0", flags=flags, operstate=operstate))
    assert isinstance(found, LinkMessage)
    assert found.state.trouble == trouble


def test_requests_are_whole_messages() -> None:
    for request in (get_link(1, "eth0"), set_link(2, 7, up=True), set_link(3, 7, up=None)):
        assert struct.unpack_from("=I", request)[0] == len(request)


@given(st.binary(max_size=200))
def test_any_datagram_is_parsed_without_error(data: bytes) -> None:
    list(parse(data))
