"""tap against the kernel: a network namespace of the test's own, real interfaces, real frames.

Each test runs in a child that has its own network namespace, so that nothing on this machine is touched.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest
from tests.fakes.loops import open_fds
from tests.integration.namespace import HOST, frame, in_namespace, ip, packet_socket, receive, up
from tests.needs import need
from tests.unit.backend.helpers import Guest, Lab, until

from vnic.backend.options import HubPortOptions, TapOptions
from vnic.backend.tap import script
from vnic.net.errors import NetError
from vnic.net.offload import checksum, complete
from vnic.net.queue import Frame
from vnic.net.records import HoldKind

# -- frames -----------------------------------------------------------------------------------------------------------


async def _both_ways(vnet_hdr: bool | None) -> None:
    async with Lab() as lab:
        netdev, nic, guest = lab.wire(TapOptions(id="net0", ifname="vt%d", vnet_hdr=vnet_hdr))
        assert nic.link_up
        assert netdev.endpoint.info_text(0) == "ifname=vt0,script=no,downscript=no"
        assert netdev.endpoint.wants_offload is (vnet_hdr is not False)
        up("vt0")
        with packet_socket("vt0") as host:
            frames = [frame(bytes([n]) * 100) for n in range(200)]
            for each in frames:
                host.send(each)
            await until(lambda: len(guest.got) == 200)
            assert guest.got == frames
            assert nic.send(0, memoryview(frame(b"from the guest" * 5)))
            got = await receive(host)
            while got in frames:  # an AF_PACKET socket hears what it sends, too
                got = await receive(host)
            assert got == frame(b"from the guest" * 5)
    assert "vt0" not in ip("link")


@pytest.mark.parametrize("vnet_hdr", [None, True, False])
def test_frames_pass_both_ways(vnet_hdr: bool | None) -> None:
    in_namespace(_both_ways, vnet_hdr)


async def _full_guest() -> None:
    async with Lab() as lab:
        _, _, guest = lab.wire(TapOptions(id="net0", ifname="vt0"))
        up("vt0")
        guest.room = 3
        with packet_socket("vt0") as host:
            for n in range(100):
                host.send(frame(bytes([n]) * 50))
            await until(lambda: len(guest.got) == 3)
            await asyncio.sleep(0.05)
            assert len(guest.got) == 3
            guest.make_room()
            await until(lambda: len(guest.got) == 100)
            assert guest.got == [frame(bytes([n]) * 50) for n in range(100)]


def test_a_full_guest_leaves_the_rest_in_the_kernel() -> None:
    in_namespace(_full_guest)


class Segments(Guest):
    """A guest that takes unfinished frames, as a Linux driver does."""

    wants_offload = True


async def _tcp(kind: type[Guest], unfinished: bool) -> None:
    """The host's own TCP through the tap: with the guest's offloads the kernel hands over 64 KiB segments, whose
    completion has to be what the kernel would have sent."""
    async with Lab() as lab:
        lab.add(TapOptions(id="net0", ifname="vt0"))
        guest = kind()
        nic = lab.network.add_nic("nic0", "virtio-net", guest, mac=bytes(6), netdev_id="net0")
        nic.report.guest_attached()
        up("vt0")
        ip("addr", "add", "10.9.0.1/24", "dev", "vt0")
        ip("neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "vt0")
        loop = asyncio.get_running_loop()
        received = bytearray()
        acks = 0

        class State:
            ack = 0

        def answer(data: bytes) -> None:
            """The least of a TCP peer: take the connection and acknowledge what comes in order."""
            nonlocal acks
            segment = data[34:]
            sport, dport, seq, _, offset, flags = struct.unpack_from(">HHIIBB", segment)
            total = struct.unpack_from(">H", data, 16)[0]
            payload = data[34 + (offset >> 4) * 4 : 14 + total]
            if flags & 2:
                State.ack = seq + 1
                reply_flags, our_seq, options = 0x12, 1000, b"\2\4\5\xb4\3\3\7\0"
            elif payload and seq == State.ack:
                received.extend(payload)
                State.ack = (seq + len(payload)) & 0xFFFFFFFF
                reply_flags, our_seq, options = 0x10, 1001, b""
            else:
                return
            tcp = (
                struct.pack(
                    ">HHIIBBHHH",
                    dport,
                    sport,
                    our_seq,
                    State.ack,
                    (5 + len(options) // 4) << 4,
                    reply_flags,
                    512,
                    0,
                    0,
                )
                + options
            )
            header = struct.pack(
                ">BBHHHBBH4s4s",
                0x45,
                0,
                20 + len(tcp),
                0,
                0,
                64,
                6,
                0,
                bytes((10, 9, 0, 2)),
                bytes((10, 9, 0, 1)),
            )
            header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
            pseudo = header[12:20] + struct.pack(">HH", 6, len(tcp))
            tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
            acks += 1
            nic.send(0, data[6:12] + data[:6] + b"\x08\x00" + header + tcp)

        seen = 0

        def look() -> None:
            nonlocal seen
            while seen < len(guest.got):
                data, offload = guest.got[seen], guest.offloads[seen]
                seen += 1
                if data[12:14] == b"\x08\x00":
                    for part in complete(offload, data) if offload else [data]:
                        answer(part)

        message = os.urandom(1_000_000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
            connecting = asyncio.ensure_future(loop.sock_connect(client, ("10.9.0.2", 80)))
            while not connecting.done():
                look()
                await asyncio.sleep(0.001)
            await connecting
            sending = asyncio.ensure_future(loop.sock_sendall(client, message))
            while len(received) < len(message):
                look()
                await asyncio.sleep(0.001)
            await sending
        assert bytes(received) == message
        assert any(len(data) > 1514 for data in guest.got) is unfinished
        assert any(guest.offloads) is unfinished


def test_the_kernel_leaves_segmentation_to_a_guest_that_takes_it() -> None:
    in_namespace(_tcp, Segments, True)


def test_the_kernel_finishes_frames_for_a_guest_that_does_not() -> None:
    in_namespace(_tcp, Guest, False)


# -- queues -----------------------------------------------------------------------------------------------------------


class Pairs(Guest):
    """Keeps apart what came on which queue; `active_pairs` is what the driver uses."""

    active_pairs = 1

    def __init__(self) -> None:
        super().__init__()
        self.by_queue: dict[int, int] = {}

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.by_queue[queue] = self.by_queue.get(queue, 0) + 1
        return super().receive(queue, frame, offload)


def udp_flow(port: int) -> bytes:
    udp = struct.pack(">HHHH", port, 9, 8 + 20, 0) + bytes(20)
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 48, 0, 0, 64, 17, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    )
    return b"\xff" * 6 + HOST + b"\x08\x00" + header + udp


async def _multi_queue() -> None:
    async with Lab() as lab:
        lab.add(TapOptions(id="net0", ifname="vt0", queues=4))
        guest = Pairs()
        nic = lab.network.add_nic("nic0", "virtio-net", guest, mac=bytes(6), netdev_id="net0", queues=4)
        nic.report.guest_attached()
        up("vt0")
        assert lab.info().count("type=tap,ifname=vt0,script=no,downscript=no") == 4
        with packet_socket("vt0") as host:
            for port in range(64):
                host.send(udp_flow(port))
            await until(lambda: len(guest.got) == 64)
            assert guest.by_queue == {0: 64}, "all flows reach a driver that uses one pair"
            guest.active_pairs = 4
            for port in range(64):
                host.send(udp_flow(port))
            await until(lambda: len(guest.got) == 128)
            assert len(guest.by_queue) == 4
            assert all(nic.send(queue, frame(bytes([queue]) * 60)) for queue in range(4))


def test_each_queue_has_its_descriptor() -> None:
    in_namespace(_multi_queue)


# -- descriptors, scripts, the end ------------------------------------------------------------------------------------


async def _passed() -> None:
    from vnic.backend.tap.device import open_tap

    fd, name, _ = open_tap("vp%d", vnet_hdr=True, multi_queue=False)
    before = open_fds()
    async with Lab() as lab:
        netdev, _, guest = lab.wire(TapOptions(id="net0", fd=str(fd)))
        assert netdev.endpoint.info_text(0) == f"fd={fd}"
        up(name)
        with packet_socket(name) as host:
            host.send(frame(b"x" * 50))
            await until(lambda: guest.got)
    assert open_fds() < before, "the passed descriptor was closed"

    one, two = (open_tap("vm0", vnet_hdr=True, multi_queue=True)[0] for _ in range(2))
    async with Lab() as lab:
        assert lab.add(TapOptions(id="net0", fds=f"{one}:{two}")).queues == 2
    pair = [
        open_tap("va0", vnet_hdr=True, multi_queue=False)[0],
        open_tap("vb0", vnet_hdr=False, multi_queue=False)[0],
    ]
    before = open_fds()
    async with Lab() as lab:
        with pytest.raises(NetError, match="vnet_hdr not consistent across given tap fds"):
            lab.add(TapOptions(id="net0", fds=f"{pair[0]}:{pair[1]}"))
    assert open_fds() == before - 2


def test_passed_descriptors_become_queues() -> None:
    in_namespace(_passed)


async def _scripts(tmp_path: Path) -> None:
    script.DOWN_SCRIPT_S = 60.0  # of this child
    up_script, down_script, slow, bad = (tmp_path / name for name in ("up", "down", "slow", "bad"))
    up_script.write_text(f"#!/bin/sh\nip link set $1 up && echo up $1 >> {tmp_path}/log\n")
    down_script.write_text(f"#!/bin/sh\nip link show $1 > /dev/null && echo down $1 >> {tmp_path}/log\n")
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    bad.write_text("#!/bin/sh\nexit 3\n")
    for path in (up_script, down_script, slow, bad):
        need("exec-tmp")
        path.chmod(0o755)
    async with Lab() as lab:
        options = TapOptions(id="net0", ifname="vt0", script=str(up_script), downscript=str(down_script))
        netdev, nic, _ = lab.wire(options)
        assert netdev.endpoint.info_text(0) == f"ifname=vt0,script={up_script},downscript={down_script}"
        assert lab.why("net0") == f"network script {up_script} vt0 is running"
        await until(lambda: nic.link_up)
        lab.add(TapOptions(id="slow", ifname="vt1", script=str(slow)))
        lab.add(TapOptions(id="bad", ifname="vt2", script=str(bad)))
        failure = f"network script {bad} failed with status 768"
        await until(lambda: lab.why("bad") == failure)
        with pytest.raises(NetError, match="could not launch network script /nonexistent: No such file"):
            lab.add(TapOptions(id="none", ifname="vt3", script="/nonexistent"))
    assert (tmp_path / "log").read_text() == "up vt0\ndown vt0\n"


def test_scripts_run_beside_the_loop(tmp_path: Path) -> None:
    in_namespace(_scripts, tmp_path)


async def _leaving(tmp_path: Path) -> None:
    """Each `downscript` waits until all have begun, which they never would one behind another."""
    script.DOWN_SCRIPT_S = 60.0
    down = tmp_path / "down"
    down.write_text(
        f"#!/bin/sh\ncd {tmp_path}; : > began-$1\nuntil [ $(ls began-* | wc -l) = 10 ]; do sleep 0.01; done\n"
        "ip link show $1 > /dev/null && : > done-$1\n"
    )
    need("exec-tmp")
    down.chmod(0o755)
    async with Lab() as lab:
        for n in range(10):
            lab.add(TapOptions(id=f"net{n}", ifname=f"vt{n}", downscript=str(down)))
        lab.network.close_netdevs()
        assert not list(lab.network.clients)
        assert lab.context.leaving_of("net3") is not None
    assert len([name for name in os.listdir(tmp_path) if name.startswith("done-")]) == 10
    assert lab.context.leaving == {}
    assert "vt0" not in ip("link")

    script.DOWN_SCRIPT_S = 0.05
    down.write_text("#!/bin/sh\nexec sleep 100\n")
    async with Lab() as lab:
        lab.add(TapOptions(id="net0", ifname="vt0", downscript=str(down)))
        lab.network.delete_netdev("net0", "test")
        assert "vt0" in ip("link"), "it is there for its script"
        leaving = lab.context.leaving_of("net0")
        assert leaving is not None
        await leaving
        lab.add(TapOptions(id="net0", ifname="vt0"))


def test_downscripts_run_side_by_side(tmp_path: Path) -> None:
    in_namespace(_leaving, tmp_path)


async def _gone() -> None:
    async with Lab() as lab:
        _, nic, guest = lab.wire(TapOptions(id="net0", ifname="vt0"))
        up("vt0")
        ip("link", "del", "vt0")
        await until(lambda: not nic.link_up)
        gone = "interface vt0 is gone (File descriptor in bad state); waiting for one of that name"
        assert lab.why("net0") == gone
        assert nic.send(0, frame(b"x" * 50))
        assert guest.link == [False]
        lab.network.delete_netdev("net0", "test")
        lab.add(TapOptions(id="net0", ifname="vt0"))
        assert nic.link_up, "a new one of that id plugs back in"


def test_an_interface_that_is_deleted_takes_the_link_down() -> None:
    in_namespace(_gone)


async def _back(tmp_path: Path) -> None:
    script_path = tmp_path / "up"
    script_path.write_text(f"#!/bin/sh\nip link set $1 up && echo up $1 >> {tmp_path}/log\n")
    script_path.chmod(0o755)
    before = open_fds()
    async with Lab() as lab:
        _, nic, guest = lab.wire(TapOptions(id="net0", ifname="vt0", script=str(script_path)))
        await until(lambda: nic.link_up)
        ip("link", "del", "vt0")
        await until(lambda: not nic.link_up)
        ip("link", "add", "vt0", "type", "veth", "peer", "name", "other")
        refusal = "interface vt0 is back: could not configure /dev/net/tun (vt0): Invalid argument"
        await until(lambda: lab.why("net0") == refusal)
        ip("link", "del", "vt0")
        ip("tuntap", "add", "vt0", "mode", "tap")
        await until(lambda: nic.link_up)
        assert (tmp_path / "log").read_text() == "up vt0\n" * 2, "its script ran again"
        with packet_socket("vt0") as host:
            host.send(frame(b"x" * 50))
            await until(lambda: frame(b"x" * 50) in guest.got)
        ip("link", "del", "vt0")
        await until(lambda: not nic.link_up)
        lab.network.delete_netdev("net0", "test")
        ip("tuntap", "add", "vt0", "mode", "tap")
        await asyncio.sleep(0)
    assert open_fds() == before
    ip("tuntap", "del", "vt0", "mode", "tap")


def test_an_interface_that_comes_back_is_plugged_in_again(tmp_path: Path) -> None:
    in_namespace(_back, tmp_path)


async def _down_interface() -> None:
    async with Lab() as lab:
        _, nic, _ = lab.wire(TapOptions(id="net0", ifname="vt0"))
        assert nic.send(0, frame(b"x" * 50)), "EIO while the host has it down: lost, as on a cable"
        assert nic.send(0, b"short")


def test_a_host_interface_that_is_down_drops() -> None:
    in_namespace(_down_interface)


async def _link_follows_the_interface() -> None:
    async with Lab() as lab:
        _, nic, _ = lab.wire(TapOptions(id="net0", ifname="vt0"))
        assert nic.link_up
        await until(lambda: not nic.link_up)
        assert lab.why("net0") == "interface vt0 is down (ip link set vt0 up)"
        for _ in range(2):
            ip("link", "set", "vt0", "up")
            await until(lambda: nic.link_up)
            ip("link", "set", "vt0", "down")
            await until(lambda: not nic.link_up)
        assert list(lab.network.find_all("net0")[0].holds) == [HoldKind.UPLINK]


def test_the_link_follows_the_hosts_interface() -> None:
    in_namespace(_link_follows_the_interface)


def _has_carrier() -> bool:
    return "LOWER_UP" in ip("link", "show", "vt0")


async def _carrier_follows_the_link() -> None:
    async with Lab() as lab:
        _, nic, _ = lab.wire(TapOptions(id="net0", ifname="vt0"))
        up("vt0")
        await until(lambda: nic.link_up and _has_carrier())
        for _ in range(2):
            lab.network.set_link(nic.name, False, "test")
            await until(lambda: not _has_carrier())
            lab.network.set_link(nic.name, True, "test")
            await until(_has_carrier)
        lab.network.delete_nic(nic.name)
        await until(lambda: not _has_carrier())


def test_the_interfaces_carrier_follows_the_link() -> None:
    in_namespace(_carrier_follows_the_link)


async def _hub() -> None:
    async with Lab() as lab:
        for n in range(2):
            lab.add(TapOptions(id=f"t{n}", ifname=f"vt{n}"))
            lab.add(HubPortOptions(id=f"h{n}", hubid=1, netdev=f"t{n}"))
            up(f"vt{n}")
        with packet_socket("vt0") as one, packet_socket("vt1") as two:
            one.send(frame(b"through the hub" * 4))
            assert await receive(two) == frame(b"through the hub" * 4)


def test_two_taps_exchange_frames_over_a_hub() -> None:
    in_namespace(_hub)


# -- refusals ---------------------------------------------------------------------------------------------------------


async def _refusals() -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    cases = [
        (TapOptions(id="t", ifname="lo"), r"could not configure /dev/net/tun \(lo\): Invalid argument"),
        (TapOptions(id="t", ifname="a/b"), r"could not configure /dev/net/tun \(a/b\): Invalid argument"),
        (TapOptions(id="t", fd="0"), "^File descriptor named '0' has not been found"),
        (
            TapOptions(id="t", fd=str(null)),
            f"Unable to query TUNGETIFF on FD {null}: Inappropriate ioctl for device",
        ),
        (TapOptions(id="t", fd="999"), "t: Can't use file descriptor 999: Bad file descriptor"),
        (TapOptions(id="t", fd="nofd"), "^Invalid file descriptor number 'nofd'"),
        (TapOptions(id="t", fd="9", ifname="x"), "are invalid with fd="),
        (TapOptions(id="t", fds="9:10", queues=2), "are invalid with fds="),
        (TapOptions(id="t", fds=""), "no fds passed"),
        (TapOptions(id="t", queues=0), "expects a number from 1 to 1024"),
        (TapOptions(id="t", vhost=False, vhostfd="3"), "not valid without vhost"),
        (TapOptions(id="t", vhostfds="3"), "vhostfds= is invalid if fds= wasn't specified"),
        (TapOptions(id="t", helper="/bin/false"), "use -netdev bridge"),
    ]
    before = open_fds()
    async with Lab() as lab:
        for options, text in cases:
            with pytest.raises(NetError, match=text):
                lab.add(options)
        assert not list(lab.network.clients)
    await until(
        lambda: open_fds() == before - 1
    )  # what was passed is closed, beside the loop, and nothing else
    os.seteuid(65534)
    # The device's mode is the machine's: udev opens it to all, others to root alone.
    complaint = "could not (configure|open) /dev/net/tun: (Operation not permitted|Permission denied)"
    try:
        async with Lab() as lab:
            with pytest.raises(NetError, match=complaint):
                lab.add(TapOptions(id="t"))
    finally:
        os.seteuid(0)


def test_impossible_options_are_refused_and_leave_nothing() -> None:
    in_namespace(_refusals)
