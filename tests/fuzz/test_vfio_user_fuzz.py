"""Random vfio-user bytes and messages against a served PCI device: replies or ProtocolError, never anything else."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.loops import open_fds
from tests.fakes.virtio_device import FakeVirtioDevice

from vnic.attach.vfio_user.function import VfioPciPort
from vnic.attach.vfio_user.shadow import MessageShadow
from vnic.lab.played.vfio_user_client import QEMU_VERSION
from vnic.memory.guest import GuestMemory
from vnic.net.clock import Timer
from vnic.protocol.frames import FrameError
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError
from vnic.protocol.vfio_user.server import Server
from vnic.virtio.pci.transport import VirtioPci

HELLO = m.encode(1, m.VERSION, m.VERSION_NUMBERS.pack(0, 0) + QEMU_VERSION)


class NoWatcher:
    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        pass

    def remove_reader(self, fd: int, /) -> None:
        pass

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        raise AssertionError("nothing is readable")


def serve(pieces: list[tuple[bytes, int]]) -> None:
    """Feed pieces of (bytes, number of descriptors) as the shell does; nothing may stay open after it."""
    before = open_fds()
    memory = GuestMemory()

    def shadow(forget: Callable[[], None]) -> MessageShadow:
        return MessageShadow(memory, server, lambda _: None, forget)

    port = VfioPciPort(VirtioPci(FakeVirtioDevice()), memory, NoWatcher(), "fuzz", shadow)
    server, frames = Server(port), m.assembler()
    try:
        for data, fds in pieces:
            for message in frames.feed(data, [os.eventfd(0) for _ in range(fds)]):
                try:
                    reply = server.receive(message)
                finally:
                    message.close()
                if reply is not None:
                    assert m.HEADER.unpack_from(reply)[2] == len(reply)
    except (ProtocolError, FrameError):
        pass
    frames.close()
    server.close()
    ended: list[bool] = []
    port.close(lambda: ended.append(True))
    assert ended == [True]
    memory.close()
    assert open_fds() <= before  # garbage of earlier tests may go meanwhile


small = st.integers(0, 64)
u16 = st.integers(0, 0xFFFF)
u32 = st.one_of(small, st.sampled_from([4096, 0x4000, 0x7FFFFFFF, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
u64 = st.one_of(u32, st.sampled_from([(1 << 64) - 1, 1 << 63, (1 << 64) - 4096]))
BARS = st.sampled_from([1, 4, 4, 4, 7, 7, 0, 8, 9])


@st.composite
def access(draw: st.DrawFn) -> tuple[bytes, int]:
    """A register access, mostly where there are registers."""
    offset = draw(st.one_of(st.integers(0, 0x3FFF), st.sampled_from([20, 22, 24, 28, 0x3000, 0x1000]), u64))
    region, count = draw(BARS), draw(st.one_of(st.sampled_from([1, 2, 4, 8]), u32))
    if draw(st.booleans()):
        return m.encode(2, m.REGION_READ, m.REGION_ACCESS.pack(offset, region, count)), 0
    data = draw(st.binary(max_size=16)) if count > 16 else draw(st.binary(min_size=count, max_size=count))
    flags = draw(st.sampled_from([0, m.FLAG_NO_REPLY]))
    return m.encode(3, m.REGION_WRITE, m.REGION_ACCESS.pack(offset, region, count) + data, flags=flags), 0


@st.composite
def request(draw: st.DrawFn) -> tuple[bytes, int]:
    """A message of the right size with any values."""
    kind = draw(st.integers(0, 7))
    if kind == 0:
        payload = m.DMA_MAP_LAYOUT.pack(32, draw(small), draw(u64), draw(u64), draw(u64))
        return m.encode(4, m.DMA_MAP, payload), draw(st.integers(0, 2))
    if kind == 1:
        payload = m.DMA_UNMAP_LAYOUT.pack(24, draw(st.integers(0, 3)), draw(u64), draw(u64))
        return m.encode(5, m.DMA_UNMAP, payload), 0
    if kind == 2:
        flags = draw(st.sampled_from([0x21, 0x22, 0x24, 0x11, 0x09, 0x14, 0x0C, 0x3F, 0]))
        start, count = draw(small), draw(st.one_of(st.integers(0, 4), u32))
        payload = m.SET_IRQS.pack(20, flags, draw(st.integers(0, 6)), start, count) + draw(
            st.binary(max_size=4)
        )
        return m.encode(6, m.DEVICE_SET_IRQS, payload), draw(st.integers(0, 4))
    if kind == 3:
        writes = draw(st.lists(st.tuples(u64, BARS, st.integers(0, 9), st.binary(max_size=8)), max_size=4))
        body = b"".join(m.WRITE_MULTI_ONE.pack(*write) for write in writes)
        count = draw(st.sampled_from([len(writes), len(writes) + 1, 1 << 63]))
        return m.encode(7, m.REGION_WRITE_MULTI, m.WRITE_MULTI_COUNT.pack(count) + body), 0
    if kind == 4:
        return m.encode(8, draw(u16), draw(st.binary(max_size=64)), flags=draw(small)), draw(
            st.integers(0, 1)
        )
    if kind == 5:
        return m.encode(9, m.DEVICE_RESET), 0
    return draw(access())


@settings(max_examples=150)
@given(st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 3)), max_size=6), st.booleans())
def test_random_bytes_give_replies_or_protocol_error(pieces: list[tuple[bytes, int]], greeted: bool) -> None:
    serve([(HELLO, 0), *pieces] if greeted else pieces)


@settings(max_examples=200)
@given(st.lists(request(), max_size=40))
def test_random_messages_give_replies_or_protocol_error(requests: list[tuple[bytes, int]]) -> None:
    serve([(HELLO, 0), *requests])
