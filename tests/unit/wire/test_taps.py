"""TAP ports against the kernel: a network namespace of the test's own, real interfaces, real frames."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest
from tests.fakes.wire_ends import HEADER, NOTHING, Stream, await_lost, receive_raw, tcp_frame
from tests.fakes.wire_program import MAX_FRAME, PATIENCE_S, PLAIN, Refused, WireProgram, until
from tests.integration.namespace import frame, in_namespace, ip, packet_socket, up

from vnic.backend.tap.device import ALL_OFFLOADS, open_tap, set_offload, set_up_queue
from vnic.dataplane.wire.messages import Kind, PortAdd, PortFlag
from vnic.net.offload import complete
from vnic.nic.virtio_net import features as net

SOL_PACKET = 263
PACKET_VNET_HDR = 15
FLAGS = {True: PortFlag.VNET_HDR | PortFlag.OFFLOAD, False: PortFlag(0)}


def add_tap(
    wire: WireProgram,
    port: int,
    name: str,
    *,
    vnet_hdr: bool = True,
    queues: int = 1,
    offloads: int = ALL_OFFLOADS,
) -> None:
    """Make a tap, and give it to the program alone."""
    fds = [open_tap(name, vnet_hdr=vnet_hdr, multi_queue=queues > 1)[0] for _ in range(queues)]
    for fd in fds:
        set_up_queue(fd, vnet_hdr=vnet_hdr, sndbuf=None)
        if vnet_hdr:
            set_offload(fd, offloads)
    wire.request(PortAdd(port, Kind.TAP, queues, FLAGS[vnet_hdr], MAX_FRAME), fds)
    for fd in fds:
        os.close(fd)


def host_socket(name: str) -> socket.socket:
    """The host's end of a tap, with a virtio_net_hdr before each frame."""
    sock = packet_socket(name)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.settimeout(PATIENCE_S)
    return sock


async def _both_ways(program: Path, vnet_hdr: bool) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        add_tap(wire, 2, "vt0", vnet_hdr=vnet_hdr)
        up("vt0")
        wire.wire(1, 1, 2)
        with packet_socket("vt0") as host:
            host.settimeout(PATIENCE_S)
            frames = [frame(bytes([n]) * 100) for n in range(200)]
            for each in frames:
                host.send(each)
            assert stream.receive_all(200) == frames
            stream.send(frame(b"from the guest" * 5))
            got = host.recv(70_000)
            while got in frames:  # an AF_PACKET socket hears what it sends, too
                got = host.recv(70_000)
            assert got == frame(b"from the guest" * 5)
        assert wire.stats(2).frames_in == 200
        wire.remove(2)
        assert "vt0" not in ip("link")


@pytest.mark.parametrize("vnet_hdr", [True, False])
def test_frames_pass_both_ways(program: Path, vnet_hdr: bool) -> None:
    in_namespace(_both_ways, program, vnet_hdr)


async def _slow_stream(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        add_tap(wire, 2, "vt0")
        ip("link", "set", "vt0", "mtu", "9000")
        up("vt0")
        wire.wire(1, 1, 2)
        with packet_socket("vt0") as host:
            frames = [frame(bytes([n]) * 8000) for n in range(200)]
            for each in frames:
                host.send(each)
            assert stream.receive_all(200) == frames
        assert wire.stats(2).drops == {}


def test_frames_wait_for_a_slow_stream(program: Path) -> None:
    in_namespace(_slow_stream, program)


async def _interface_down(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        add_tap(wire, 2, "vt0")
        wire.wire(1, 1, 2)
        stream.send(frame(b"lost, since the interface is down"))
        until(lambda: wire.stats(2).refused == 1)
        up("vt0")
        with host_socket("vt0") as host:
            stream.send(frame(b"not lost" * 8))
            assert host.recv(70_000) == NOTHING + frame(b"not lost" * 8)
        ip("link", "del", "vt0")
        stream.send(frame(b"to nowhere" * 8))
        assert await_lost(wire, 2) == errno.EBADFD
        wire.remove(2)


def test_interface_that_is_down_and_one_that_is_gone(program: Path) -> None:
    in_namespace(_interface_down, program)


async def _pending(program: Path) -> None:
    """What the kernel leaves to be done is passed on to a guest that does it, and done for a stream."""
    data, l4 = tcp_frame(bytes(range(256)) * 40)
    checksum, l4 = HEADER.pack(1, 0, 0, 0, l4, 16), l4
    segments = HEADER.pack(1, 1, l4 + 20, 1000, l4, 16)
    small, _ = tcp_frame(b"odd payload")
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        add_tap(wire, 2, "vt0")
        up("vt0")
        wire.wire(1, 1, 2)
        with host_socket("vt0") as host:
            host.send(checksum + small)
            assert [stream.receive()] == complete(checksum, small)
            host.send(segments + data)
            expected = complete(segments, data)
            assert stream.receive_all(len(expected)) == expected
        guest = wire.started_guest(3, PLAIN | net.GUEST_CSUM | net.GUEST_TSO4 | net.CSUM | net.HOST_TSO4)
        wire.wire(1, 2, 3)
        guest.driver.fill_rx(20)
        with host_socket("vt0") as host:
            host.send(segments + data)
            got = receive_raw(guest)
            flags, gso_type, _, gso_size, start, offset = HEADER.unpack_from(got[0])
            assert (flags & 1, gso_type, gso_size, start, offset) == (1, 1, 1000, l4, 16)
            assert got[0][12:] == data
            # And to the kernel.
            guest.driver.queue_tx(data, 0, segments)
            guest.driver.rings[1].publish()
            while (heard := host.recv(70_000))[HEADER.size :] != data or heard[0] & 1 == 0:
                pass
            assert HEADER.unpack_from(heard)[1] == 1
            # Fields of a header in which nothing is pending mean nothing, though the kernel would refuse these.
            guest.driver.queue_tx(small, 0, HEADER.pack(0, 0, 0xFFFF, 1, 0xFFFF, 0xFFFF))
            guest.driver.rings[1].publish()
            while host.recv(70_000) != NOTHING + small:
                pass


def test_pending_checksum_and_segmentation(program: Path) -> None:
    in_namespace(_pending, program)


def udp_frame(source: int, target: int) -> bytes:
    """From one port to another, between addresses that are the same both ways, so that only the ports tell flows."""
    udp = struct.pack(">HHHH", source, target, 8 + 16, 0) + bytes(16)
    address = bytes([10, 0, 0, 1])
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + address + address
    return bytes.fromhex("02000000000a 02000000000b 0800") + header + udp


async def _queues(program: Path) -> None:
    """A flow that comes from a queue goes back to that queue (tun's automatic steering), and so to its pair."""
    with WireProgram(program) as wire:
        add_tap(wire, 1, "vt0", queues=2)
        guest = wire.started_guest(2, PLAIN | net.MQ, pairs=2)
        up("vt0")
        wire.wire(1, 1, 2)
        with packet_socket("vt0") as host:
            host.settimeout(PATIENCE_S)
            for pair in (0, 1):
                guest.driver.fill_rx(16, pair)
            for pair in (0, 1):
                guest.send(udp_frame(1000 + pair, 2000), pair=pair)
                while host.recv(70_000) != udp_frame(1000 + pair, 2000):
                    pass
            for pair in (0, 1):
                host.send(udp_frame(2000, 1000 + pair))
                assert guest.receive(1, pair) == [udp_frame(2000, 1000 + pair)]


def test_queues_keep_their_flows(program: Path) -> None:
    in_namespace(_queues, program)


async def _refused(program: Path) -> None:
    with WireProgram(program) as wire:
        fd, _, _ = open_tap("vt0", vnet_hdr=True, multi_queue=False)
        for request, fds, field in (
            (PortAdd(1, Kind.TAP, 1, FLAGS[True], MAX_FRAME), [], "fds"),
            (PortAdd(1, Kind.TAP, 2, FLAGS[True], MAX_FRAME), [fd], "fds"),
            (PortAdd(1, Kind.TAP, 1, PortFlag.OFFLOAD, MAX_FRAME), [fd], "flags"),
            (PortAdd(1, Kind.TAP, 1, FLAGS[True], MAX_FRAME, dest=b"x"), [fd], "dest_len"),
        ):
            with pytest.raises(Refused) as refused:
                wire.request(request, fds)
            assert field in refused.value.text
        os.close(fd)


def test_what_cannot_be_a_tap_is_refused(program: Path) -> None:
    in_namespace(_refused, program)
