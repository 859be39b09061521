"""vfio-user REGION_READ, REGION_WRITE and REGION_WRITE_MULTI, answered and posted."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.vfio_user_device import ask, message, serving

from vnic.lab.played.vfio_user_client import Reply
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError


def access(offset: int, region: int, count: int, data: bytes = b"") -> bytes:
    return m.REGION_ACCESS.pack(offset, region, count) + data


def multi(*writes: tuple[int, int, bytes], count: int | None = None) -> bytes:
    body = b"".join(m.WRITE_MULTI_ONE.pack(at, region, len(data), data) for at, region, data in writes)
    return struct.pack("<Q", len(writes) if count is None else count) + body


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8, 256])
def test_read(count: int) -> None:
    server, device = serving()
    request = access(0, 7, count)
    assert ask(server, m.REGION_READ, request) == Reply(0, request + bytes(range(count)))
    assert device.calls == [("read", 7, 0, count)]


def test_write() -> None:
    server, device = serving()
    assert ask(server, m.REGION_WRITE, access(4092, 0, 4, b"abcd")) == Reply(0, access(4092, 0, 4))
    assert device.calls == [("write", 0, 4092, b"abcd")]


def test_posted_write_has_no_reply() -> None:
    server, device = serving()
    assert ask(server, m.REGION_WRITE, access(8, 0, 2, b"ab"), flags=m.FLAG_NO_REPLY) is None
    assert device.calls == [("write", 0, 8, b"ab")]


def test_write_multi_keeps_order() -> None:
    server, device = serving()
    request = multi((0, 0, b"a"), (8, 0, b"bcdefghi"), (4, 7, b"jk"))
    assert ask(server, m.REGION_WRITE_MULTI, request) == Reply(0, struct.pack("<Q", 3))
    assert ask(server, m.REGION_WRITE_MULTI, multi((16, 0, b"z")), flags=m.FLAG_NO_REPLY) is None
    assert device.calls == [
        ("write", 0, 0, b"a"),
        ("write", 0, 8, b"bcdefghi"),
        ("write", 7, 4, b"jk"),
        ("write", 0, 16, b"z"),
    ]


@pytest.mark.parametrize(
    ("offset", "region", "count"),
    [
        (4093, 0, 4),
        (4097, 0, 0),
        (1 << 63, 0, 4),
        ((1 << 64) - 1, 0, 4),
        (0, 1, 1),
        (0, 8, 1),
        (0, 9, 1),
        (0, 0xFFFFFFFF, 1),
        (0, 7, 257),
        (0, 0, 0xFFFFFFFF),
    ],
)
def test_region_access_outside_of_bounds_is_refused(offset: int, region: int, count: int) -> None:
    server, device = serving()
    assert ask(server, m.REGION_READ, access(offset, region, count)) == Reply(22, b"")
    with pytest.raises(ProtocolError, match="posted"):  # who posts it has no answer to look at
        server.receive(message(m.REGION_READ, access(offset, region, count), flags=m.FLAG_NO_REPLY))
    assert device.calls == []


@pytest.mark.parametrize(("offset", "region"), [(4093, 0), ((1 << 64) - 1, 0), (0, 1), (253, 7), (0, 9)])
def test_write_multi_outside_of_bounds_is_refused(offset: int, region: int) -> None:
    server, device = serving()
    assert ask(server, m.REGION_WRITE, access(offset, region, 4, b"abcd")) == Reply(22, b"")
    assert ask(server, m.REGION_WRITE_MULTI, multi((offset, region, b"abcd"))) == Reply(22, b"")
    with pytest.raises(ProtocolError, match="posted"):
        server.receive(message(m.REGION_WRITE, access(offset, region, 4, b"abcd"), flags=m.FLAG_NO_REPLY))
    assert device.calls == []


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (m.REGION_READ, bytes(15)),
        (m.REGION_WRITE, access(0, 0, 4, b"abc")),
        (m.REGION_WRITE, access(0, 0, 4, b"abcde")),
        (m.REGION_WRITE_MULTI, bytes(7)),
        (m.REGION_WRITE_MULTI, multi((0, 0, b"a"), count=2)),
        (m.REGION_WRITE_MULTI, multi((0, 0, b"a"), count=0)),
        (m.REGION_WRITE_MULTI, multi(*[(0, 0, b"a")] * 201)),
        (m.REGION_WRITE_MULTI, struct.pack("<Q", 1 << 63)),
        (m.REGION_WRITE_MULTI, struct.pack("<QQII8s", 1, 0, 0, 9, bytes(8))),
    ],
)
def test_region_access_of_wrong_size_ends_connection(command: int, payload: bytes) -> None:
    server, device = serving()
    with pytest.raises(ProtocolError):
        server.receive(message(command, payload))
    assert device.calls == []
