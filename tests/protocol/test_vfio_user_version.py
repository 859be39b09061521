"""vfio-user VERSION, and what is true of every message: header, order, unknown commands, posted ones."""

from __future__ import annotations

import json

import pytest
from tests.fakes.vfio_user_device import FakeDevice, ask, is_open, memfd, message, serving

from vnic.lab.played.vfio_user_client import QEMU_VERSION
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import ServerState

VERSION_0_0 = m.VERSION_NUMBERS.pack(0, 0)


def test_version() -> None:
    server = Server(FakeDevice())
    reply = ask(server, m.VERSION, VERSION_0_0 + QEMU_VERSION)
    assert reply is not None
    assert (reply.errno, reply.payload[:4]) == (0, VERSION_0_0)
    assert len(reply.payload) <= 4 + len(QEMU_VERSION)  # QEMU has no room for more
    assert reply.payload.endswith(b"}\0")
    capabilities = json.loads(reply.payload[4:-1])["capabilities"]
    assert capabilities == {
        "max_msg_fds": 16,
        "max_data_xfer_size": 1048576,
        "pgsizes": 4096,
        "max_dma_maps": 512,
        "write_multiple": True,
    }
    assert server.capabilities["max_dma_maps"] == 65535
    assert server.state is ServerState.SERVING


@pytest.mark.parametrize("text", [b"", b"{}\0", b'{"capabilities":{}}\0'])
def test_short_version_request_gets_default_capabilities(text: bytes) -> None:
    reply = ask(Server(FakeDevice()), m.VERSION, VERSION_0_0 + text)
    assert reply is not None
    assert reply.payload == VERSION_0_0 + b"{}\0"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"capabilities":{"max_msg_fds":16}}\0', {"max_msg_fds"}),
        (
            b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}\0',
            {"max_msg_fds", "max_dma_maps"},
        ),
        (
            b'{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}\0',
            {"max_msg_fds", "max_dma_maps", "write_multiple", "pgsizes"},
        ),
    ],
)
def test_version_reply_prefers_capabilities_that_differ(text: bytes, told: set[str]) -> None:
    reply = ask(Server(FakeDevice()), m.VERSION, VERSION_0_0 + text)
    assert reply is not None
    assert len(reply.payload) <= 4 + len(text)
    assert set(json.loads(reply.payload[4:-1])["capabilities"]) == told


def test_later_minor_version_gets_own_version() -> None:
    reply = ask(Server(FakeDevice()), m.VERSION, m.VERSION_NUMBERS.pack(0, 3) + b"{}\0")
    assert reply is not None
    assert reply.payload[:4] == VERSION_0_0


def test_other_major_version_is_refused_and_may_be_retried() -> None:
    server = Server(FakeDevice())
    reply = ask(server, m.VERSION, m.VERSION_NUMBERS.pack(1, 0) + b"{}\0")
    assert reply == (22, b"")
    assert ask(server, m.VERSION, VERSION_0_0) is not None
    assert server.state is ServerState.SERVING


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0",
        VERSION_0_0 + b"{}",
        VERSION_0_0 + b"{\0",
        VERSION_0_0 + b"[]\0",
        VERSION_0_0 + b'"x"\0',
        VERSION_0_0 + b'{"capabilities":[]}\0',
        VERSION_0_0 + b"\xff\xfe\0",
        VERSION_0_0 + b"[" * 4000 + b"\0",
        VERSION_0_0 + b'{"capabilities":{}}'.ljust(m.MAX_VERSION - 4) + b"\0",
    ],
)
def test_malformed_version_ends_connection(payload: bytes) -> None:
    server = Server(FakeDevice())
    with pytest.raises(ProtocolError):
        server.receive(message(m.VERSION, payload))
    assert server.state is ServerState.FAILED
    with pytest.raises(ProtocolError):
        server.receive(message(m.VERSION, VERSION_0_0))


def test_second_version_ends_connection() -> None:
    server, _ = serving()
    with pytest.raises(ProtocolError, match="second VERSION"):
        server.receive(message(m.VERSION, VERSION_0_0))


def test_request_before_version_ends_connection() -> None:
    with pytest.raises(ProtocolError, match="before VERSION"):
        Server(FakeDevice()).receive(message(m.DEVICE_RESET))


@pytest.mark.parametrize(
    "command",
    [
        m.DEVICE_GET_REGION_IO_FDS,
        m.DMA_READ,
        m.DMA_WRITE,
        m.DIRTY_PAGES,
        m.DEVICE_FEATURE,
        m.MIG_DATA_READ,
        m.MIG_DATA_WRITE,
        0,
        19,
        0xFFFF,
    ],
)
def test_unsupported_command_gets_errno(command: int) -> None:
    server, device = serving()
    assert ask(server, command, bytes(64)) == (95, b"")
    assert ask(server, m.DEVICE_RESET) == (0, b"")
    assert device.calls == ["reset"]


def test_posted_message_has_no_reply() -> None:
    server, device = serving()
    assert ask(server, m.DEVICE_RESET, flags=m.FLAG_NO_REPLY) is None
    assert device.calls == ["reset"]


def test_refused_posted_message_ends_connection() -> None:
    server, _ = serving()
    with pytest.raises(ProtocolError, match="posted command 14"):
        server.receive(message(m.DIRTY_PAGES, flags=m.FLAG_NO_REPLY))


@pytest.mark.parametrize("flags", [m.FLAG_ERROR, 2, 0xF, 0x40, 1 << 31])
def test_invalid_header_flags_end_connection(flags: int) -> None:
    server, _ = serving()
    with pytest.raises(ProtocolError, match="flags"):
        server.receive(message(m.DEVICE_RESET, flags=flags))


def test_surplus_descriptors_are_closed_and_end_connection() -> None:
    for command, count in ((m.DEVICE_RESET, 1), (m.DMA_MAP, 2), (99, 1)):
        server, _ = serving()
        fds = [memfd() for _ in range(count)]
        with pytest.raises(ProtocolError, match="descriptors"):
            server.receive(message(command, bytes(32), fds))
        assert not any(map(is_open, fds))


@pytest.mark.parametrize("size", [0, 1, 15])
def test_header_size_below_minimum_ends_connection(size: int) -> None:
    with pytest.raises(ProtocolError, match="header alone"):
        m.assembler().feed(m.HEADER.pack(1, m.VERSION, size, 0, 0))
