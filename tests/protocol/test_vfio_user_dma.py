"""vfio-user DMA_MAP and DMA_UNMAP, with and without descriptors."""

from __future__ import annotations

import pytest
from tests.fakes.vfio_user_device import ask, is_open, memfd, message, serving

from vnic.lab.played.vfio_user_client import Reply
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import DmaMap, ProtocolError


def dma_map(address: int, size: int, *, flags: int = 3, offset: int = 0, argsz: int = 32) -> bytes:
    return m.DMA_MAP_LAYOUT.pack(argsz, flags, offset, address, size)


def dma_unmap(address: int, size: int, *, flags: int = 0, argsz: int = 24) -> bytes:
    return m.DMA_UNMAP_LAYOUT.pack(argsz, flags, address, size)


def test_dma_map_with_descriptor_maps_file() -> None:
    server, device = serving()
    fd = memfd()
    assert ask(server, m.DMA_MAP, dma_map(0x10000, 4096, offset=8192), [fd]) == Reply(0, b"")
    assert device.calls == [("map", DmaMap(0x10000, 4096, 8192, True, True), True)]
    assert not is_open(fd)  # the device made its own


@pytest.mark.parametrize(
    ("flags", "readable", "writable"), [(1, True, False), (2, False, True), (0, False, False)]
)
def test_dma_map_without_descriptor_reaches_device(flags: int, readable: bool, writable: bool) -> None:
    server, device = serving()
    assert ask(server, m.DMA_MAP, dma_map(0, 1 << 32, flags=flags)) == Reply(0, b"")
    assert device.calls == [("map", DmaMap(0, 1 << 32, 0, readable, writable), False)]


def test_dma_unmap_reply_repeats_request() -> None:
    server, device = serving()
    request = dma_unmap(0x1000, 0x2000)
    assert ask(server, m.DMA_UNMAP, request) == Reply(0, request)
    assert device.calls == [("unmap", 0x1000, 0x2000)]


def test_dma_unmap_all_removes_every_region() -> None:
    server, device = serving()
    request = dma_unmap(0, 0, flags=m.DMA_UNMAP_ALL)
    assert ask(server, m.DMA_UNMAP, request) == Reply(0, request)
    assert device.calls == ["unmap all"]


@pytest.mark.parametrize(
    ("command", "payload", "errno"),
    [
        (m.DMA_MAP, dma_map(0, 4096, argsz=31), 22),
        (m.DMA_MAP, dma_map(0, 4096, flags=4), 22),
        (m.DMA_UNMAP, dma_unmap(0, 4096, argsz=0), 22),
        (m.DMA_UNMAP, dma_unmap(0, 4096, flags=m.DMA_UNMAP_ALL), 22),
        (m.DMA_UNMAP, dma_unmap(0, 4096, flags=4), 22),
        (m.DMA_UNMAP, dma_unmap(0, 4096, flags=m.DMA_UNMAP_DIRTY_BITMAP) + bytes(16), 95),
        (m.DMA_UNMAP, dma_unmap(0xDEAD000, 4096), 2),
        (m.DMA_UNMAP, dma_unmap(0x1000, 0), 22),
        (m.DMA_UNMAP, dma_unmap(0x1000, (1 << 64) - 0xFFF), 22),
    ],
)
def test_refused(command: int, payload: bytes, errno: int) -> None:
    server, device = serving()
    assert ask(server, command, payload) == Reply(errno, b"")
    assert device.calls == []


@pytest.mark.parametrize(
    ("command", "payload"),
    [(m.DMA_MAP, bytes(31)), (m.DMA_MAP, bytes(33)), (m.DMA_UNMAP, bytes(23))],
)
def test_dma_payload_of_wrong_size_ends_connection(command: int, payload: bytes) -> None:
    server, _ = serving()
    with pytest.raises(ProtocolError):
        server.receive(message(command, payload))
