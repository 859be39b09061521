"""vfio-user DMA_READ and DMA_WRITE: requests of ours for memory that the client shares by no descriptor."""

from __future__ import annotations

import pytest
from tests.fakes.vfio_user_device import ask, is_open, memfd, serving

from vnic.protocol.frames import Message
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import MAX_DMA_REQUESTS, ServerState


def reply(request: bytes, payload: bytes = b"", *, errno: int = 0, command: int | None = None) -> Message:
    """A client's answer to a request of ours."""
    ident, asked, _, flags, _ = m.HEADER.unpack_from(request)
    assert flags == m.TYPE_COMMAND
    answer = m.TYPE_REPLY | (m.FLAG_ERROR if errno else 0)
    size = m.HEADER.size + len(payload)
    return Message(m.HEADER.pack(ident, asked if command is None else command, size, answer, errno), payload)


def test_read() -> None:
    server, _ = serving()
    outcome: list[bytes | None] = []
    request = server.dma_read(0x1234_5678_9000, 4, outcome.append)
    assert request[16:] == m.DMA_ACCESS.pack(0x1234_5678_9000, 4)
    assert outcome == []
    assert server.receive(reply(request, request[16:] + b"abcd")) is None
    assert outcome == [b"abcd"]


@pytest.mark.parametrize("echo", [0, 16])  # libvfio-user answers without, QEMU with the request's 16 bytes
def test_write(echo: int) -> None:
    server, _ = serving()
    outcome: list[bytes | None] = []
    request = server.dma_write(0x1000, b"data", outcome.append)
    assert request[16:] == m.DMA_ACCESS.pack(0x1000, 4) + b"data"
    server.receive(reply(request, request[16 : 16 + echo]))
    assert outcome == [b""]


def test_dma_replies_may_come_in_any_order() -> None:
    server, device = serving()
    outcome: list[bytes | None] = []
    first = server.dma_read(0, 1, outcome.append)
    second = server.dma_read(1, 1, outcome.append)
    server.receive(reply(second, second[16:] + b"2"))
    assert ask(server, m.DEVICE_RESET) == (0, b"")
    server.receive(reply(first, first[16:] + b"1"))
    assert outcome == [b"2", b"1"]
    assert device.calls == ["reset"]


def test_dma_error_reply_gives_none() -> None:
    server, _ = serving()
    outcome: list[bytes | None] = []
    server.receive(reply(server.dma_read(0, 4096, outcome.append), errno=19))
    assert outcome == [None]


def test_end_of_connection_gives_none() -> None:
    server, _ = serving()
    outcome: list[bytes | None] = []
    server.dma_read(0, 1, outcome.append)
    server.dma_write(0, b"x", outcome.append)
    server.close()
    server.close()
    assert outcome == [None, None]


def test_number_of_unanswered_requests_is_bounded() -> None:
    server, _ = serving()
    for _ in range(MAX_DMA_REQUESTS):
        server.dma_read(0, 1, lambda _: None)
    with pytest.raises(BlockingIOError):
        server.dma_read(0, 1, lambda _: None)
    server.close()


def test_no_dma_request_before_version() -> None:
    server, device = serving()
    with pytest.raises(BlockingIOError):
        Server(device).dma_read(0, 1, lambda _: None)
    assert server.state is ServerState.SERVING


@pytest.mark.parametrize(
    ("payload", "command"),
    [(b"", None), (bytes(16), None), (bytes(21), None), (bytes(20), m.DMA_WRITE), (bytes(20), m.REGION_READ)],
)
def test_mismatched_dma_reply_ends_connection(payload: bytes, command: int | None) -> None:
    server, _ = serving()
    request = server.dma_read(0, 4, lambda _: None)
    with pytest.raises(ProtocolError):
        server.receive(reply(request, payload, command=command))
    assert server.state is ServerState.FAILED


def test_unsolicited_reply_ends_connection() -> None:
    server, _ = serving()
    with pytest.raises(ProtocolError, match="not asked"):
        server.receive(reply(m.encode(9, m.DMA_READ)))


def test_reply_with_descriptor_ends_connection() -> None:
    server, _ = serving()
    answer = reply(server.dma_read(0, 4, lambda _: None), bytes(20))
    answer.fds = [fd := memfd()]
    with pytest.raises(ProtocolError):
        server.receive(answer)
    assert not is_open(fd)
