"""Tests of the kernel's link messages: names in datagrams of any form."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from vnic.backend.interface_watch import changed_interfaces


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(name: bytes, kind: int = 16) -> bytes:
    body = bytes(16) + attribute(13, b"\x01") + attribute(3, name + b"\0") + attribute(16, b"\x02")
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_all_messages_of_datagram_are_read() -> None:
    assert changed_interfaces(message(b"tap0") + message(b"veth-long-name1", kind=17)) == {
        "tap0",
        "veth-long-name1",
    }
    assert changed_interfaces(message(b"tap0", kind=20)) == set()


def test_truncated_datagram_yields_whole_messages() -> None:
    assert changed_interfaces(message(b"a") + message(b"b")[:-1]) == {"a"}


@given(st.binary(max_size=200))
def test_any_datagram_is_parsed_without_error(data: bytes) -> None:
    changed_interfaces(data)
