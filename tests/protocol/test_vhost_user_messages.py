"""The vhost-user wire format: headers, names, and what the table says of each message."""

from __future__ import annotations

import pytest

from vnic.protocol.frames import FrameError
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.backend import HANDLERS


def test_encode_is_the_specifications_layout() -> None:
    assert vu.encode(vu.SET_FEATURES, b"12345678", vu.FLAG_NEED_REPLY).hex() == (
        "0200000009000000080000003132333435363738"
    )
    assert vu.encode(vu.BACKEND_CONFIG_CHANGE).hex() == "020000000100000000000000"


def test_every_message_has_one_handler_or_is_refused_by_name() -> None:
    unhandled = {row.name for number, row in vu.REQUESTS.items() if number not in HANDLERS}
    assert unhandled == {"SET_LOG_BASE", "SET_LOG_FD"}
    assert not vu.REQUESTS.keys() & vu.UNSUPPORTED.keys()
    assert sorted(vu.REQUESTS.keys() | vu.UNSUPPORTED.keys()) == list(range(1, 45))


@pytest.mark.parametrize("row", vu.REQUESTS.values(), ids=lambda row: row.name)
def test_payload_size_and_descriptors_are_bounded(row: vu.Request) -> None:
    row.check(row.min_size, row.min_fds)
    row.check(row.max_size, row.max_fds)
    for size, fds in (
        (row.min_size - 1, row.min_fds),
        (row.max_size + 1, row.min_fds),
        (row.min_size, row.max_fds + 1),
        (row.min_size, row.min_fds - 1),
    ):
        with pytest.raises(vu.ProtocolError, match=row.name):
            row.check(size, fds)


@pytest.mark.parametrize("flags", [0, 2, 3, 4])
def test_another_version_is_refused(flags: int) -> None:
    with pytest.raises(vu.ProtocolError, match="not version 1"):
        vu.assembler().feed(vu.HEADER.pack(vu.GET_FEATURES, flags, 0))


def test_payload_size_in_header_is_bounded() -> None:
    frames = vu.assembler()
    assert frames.feed(vu.HEADER.pack(vu.GET_FEATURES, 1, vu.MAX_PAYLOAD)) == []
    with pytest.raises(FrameError):
        vu.assembler().feed(vu.HEADER.pack(vu.GET_FEATURES, 1, 0xFFFF_FFFF))


def test_names() -> None:
    assert vu.request_name(vu.SET_MEM_TABLE) == "SET_MEM_TABLE"
    assert vu.request_name(31) == "GET_INFLIGHT_FD"
    assert vu.request_name(999) == "request 999"
