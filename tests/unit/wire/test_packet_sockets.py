"""PACKET ports: beside the host on one end of a veth pair, in a network namespace of the test's own."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from tests.fakes.wire_ends import HEADER, NOTHING, Stream, await_lost, tcp_frame
from tests.fakes.wire_program import MAX_FRAME, PATIENCE_S, PLAIN, Refused, WireProgram, until
from tests.integration.namespace import frame, in_namespace, ip, packet_socket, up

from vnic.dataplane.wire.messages import Kind, PortAdd, PortFlag
from vnic.net.offload import complete
from vnic.nic.virtio_net import features as net

SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23


def veth() -> None:
    """A pair with no traffic of its own."""
    ip("link", "add", "va", "type", "veth", "peer", "name", "vb")
    up("va")
    up("vb")


def bound_socket(name: str, *, vnet_hdr: bool = False, ignores_outgoing: bool = True) -> socket.socket:
    """As control passes one."""
    sock = packet_socket(name)
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, vnet_hdr)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, ignores_outgoing)
    return sock


def add_packet(wire: WireProgram, port: int, sock: socket.socket, *, vnet_hdr: bool = False) -> None:
    flags = PortFlag.VNET_HDR | PortFlag.OFFLOAD if vnet_hdr else PortFlag(0)
    with sock:
        wire.request(PortAdd(port, Kind.PACKET, flags=flags, max_frame=MAX_FRAME), [sock.fileno()])


def far_end(name: str, *, vnet_hdr: bool = False) -> socket.socket:
    sock = bound_socket(name, vnet_hdr=vnet_hdr)
    sock.settimeout(PATIENCE_S)
    return sock


async def _both_ways(program: Path, vnet_hdr: bool) -> None:
    veth()
    with WireProgram(program) as wire, Stream(wire, 1) as stream, far_end("vb") as far:
        add_packet(wire, 2, bound_socket("va", vnet_hdr=vnet_hdr), vnet_hdr=vnet_hdr)
        wire.wire(1, 1, 2)
        frames = [frame(bytes([n]) * 100) for n in range(200)]
        for each in frames:
            far.send(each)
        assert stream.receive_all(200) == frames
        stream.send(*frames)
        assert [far.recv(70_000) for _ in frames] == frames
        stream.send(frame(bytes(3000)), frame(b"the one before was longer than the MTU"))
        assert far.recv(70_000) == frame(b"the one before was longer than the MTU")
        stats = wire.stats(2)
        assert (stats.frames_in, stats.frames_out, stats.drops) == (200, 201, {"refused": 1})


@pytest.mark.parametrize("vnet_hdr", [True, False])
def test_frames_pass_both_ways(program: Path, vnet_hdr: bool) -> None:
    in_namespace(_both_ways, program, vnet_hdr)


async def _outgoing(program: Path) -> None:
    """What this host sends out of the interface is not for the port."""
    veth()
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as stream,
        far_end("vb") as far,
        packet_socket("va") as host,
    ):
        add_packet(wire, 2, bound_socket("va", ignores_outgoing=False))
        wire.wire(1, 1, 2)
        host.send(frame(b"from this host" * 5))
        assert far.recv(70_000) == frame(b"from this host" * 5)
        far.send(frame(b"from afar" * 9))
        assert stream.receive() == frame(b"from afar" * 9)


def test_outgoing_frames_are_left_out(program: Path) -> None:
    in_namespace(_outgoing, program)


async def _vlan(program: Path) -> None:
    """The kernel takes a VLAN tag out of what it hands over; the port puts it back."""
    veth()
    tagged = frame(b"")[:12] + b"\x81\x00\x20\x64" + b"\x88\xb5" + b"tagged" * 10
    data, l4 = tcp_frame(b"odd payload")
    pending = data[:12] + b"\x81\x00\x00\x07" + data[12:]
    header = HEADER.pack(1, 0, 0, 0, l4 + 4, 16)
    with WireProgram(program) as wire, Stream(wire, 1) as stream, far_end("vb", vnet_hdr=True) as far:
        add_packet(wire, 2, bound_socket("va", vnet_hdr=True), vnet_hdr=True)
        wire.wire(1, 1, 2)
        far.send(NOTHING + tagged)
        assert stream.receive() == tagged
        far.send(header + pending)
        assert [stream.receive()] == complete(header, pending)


def test_vlan_tags_are_kept(program: Path) -> None:
    in_namespace(_vlan, program)


async def _pending(program: Path) -> None:
    data, l4 = tcp_frame(bytes(range(256)) * 40)
    segments = HEADER.pack(1, 1, l4 + 20, 1000, l4, 16)
    with WireProgram(program) as wire, Stream(wire, 1) as stream, far_end("vb", vnet_hdr=True) as far:
        veth_port = bound_socket("va", vnet_hdr=True)
        add_packet(wire, 2, veth_port, vnet_hdr=True)
        wire.wire(1, 1, 2)
        far.send(segments + data)
        expected = complete(segments, data)
        assert stream.receive_all(len(expected)) == expected
        guest = wire.started_guest(3, PLAIN | net.CSUM | net.HOST_TSO4)
        wire.wire(1, 2, 3)
        guest.driver.queue_tx(data, 0, segments)
        guest.driver.rings[1].publish()
        heard = far.recv(70_000)
        flags, gso_type, _, gso_size, _, _ = HEADER.unpack_from(heard)
        assert (flags & 1, gso_type, gso_size, heard[HEADER.size :]) == (1, 1, 1000, data)


def test_pending_checksum_and_segmentation(program: Path) -> None:
    in_namespace(_veth_then, program)


async def _veth_then(program: Path) -> None:
    veth()
    await _pending(program)


async def _down_and_gone(program: Path) -> None:
    veth()
    with WireProgram(program) as wire, Stream(wire, 1) as stream, far_end("vb") as far:
        add_packet(wire, 2, bound_socket("va"))
        wire.wire(1, 1, 2)
        ip("link", "set", "va", "down")
        stream.send(frame(b"lost" * 20))
        until(lambda: wire.stats(2).refused == 1)
        ip("link", "set", "va", "up")
        stream.send(frame(b"not lost" * 10))
        got = b""
        while got != frame(b"not lost" * 10):
            got = far.recv(70_000)
        ip("link", "del", "va")
        stream.send(frame(b"to nowhere" * 8))
        assert await_lost(wire, 2) == errno.ENODEV


def test_interface_that_is_down_and_one_that_is_gone(program: Path) -> None:
    in_namespace(_down_and_gone, program)


async def _refused(program: Path) -> None:
    veth()
    with (
        WireProgram(program) as wire,
        packet_socket("va") as plain,
        bound_socket("va") as bound,
        socket.socket() as tcp,
    ):
        for sock, flags in (
            (plain, PortFlag(0)),
            (bound, PortFlag.VNET_HDR),
            (bound, PortFlag.OFFLOAD),
            (tcp, PortFlag(0)),
        ):
            with pytest.raises(Refused):
                wire.request(PortAdd(1, Kind.PACKET, flags=flags, max_frame=MAX_FRAME), [sock.fileno()])
        assert wire.all_stats() == []


def test_what_is_not_set_up_is_refused(program: Path) -> None:
    in_namespace(_refused, program)
