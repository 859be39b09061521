"""interface against the kernel: veth pairs in network namespaces of the test's own.

Each test runs in a child that has its own network namespace, so that nothing on this machine is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.fakes.loops import open_fds
from tests.integration.namespace import HOST, frame, in_namespace, ip, packet_socket, receive, run, up
from tests.unit.backend.helpers import Guest, Lab, until

from vnic.backend.interface.link import CONTESTS_MAX
from vnic.backend.options import InterfaceOptions, TapOptions
from vnic.net.client import NetClient, Nic
from vnic.net.errors import NetError
from vnic.net.offload import checksum, complete, encode, ones_sum
from vnic.net.records import HoldKind

SOL_PACKET = 263
PACKET_VNET_HDR = 15
UDP_SEGMENT = 103
PR_CAPBSET_DROP = 24
CAP_SYS_ADMIN = 21


def veth(first: str = "va", second: str = "vb") -> None:
    """A pair that is up, and quiet."""
    ip("link", "add", first, "type", "veth", "peer", "name", second)
    up(first)
    up(second)


class Wire:
    """An interface netdev on `va` with a NIC whose VM is attached, and the other end `vb`."""

    def __init__(self, lab: Lab, netdev: NetClient, nic: Nic, guest: Guest) -> None:
        self.lab, self.netdev, self.nic, self.guest = lab, netdev, nic, guest

    @property
    def why(self) -> str:
        """The text of the hold `uplink`."""
        hold = self.netdev.holds.get(HoldKind.UPLINK)
        return "" if hold is None else hold.text

    def set_link(self, up: bool) -> None:
        self.lab.network.set_link(self.nic.name, up, "test")


@asynccontextmanager
async def wire(
    *, netns: str | None = None, propagate: bool = False, guest: Guest | None = None
) -> AsyncIterator[Wire]:
    async with Lab() as lab:
        options = InterfaceOptions(id="net0", ifname="va", netns=netns, propagate=propagate)
        netdev = await lab.add_prepared(options)
        guest = guest or Guest()
        nic = lab.network.add_nic("nic0", "virtio-net", guest, mac=bytes(6), netdev_id="net0")
        nic.report.guest_attached()
        await until(lambda: not propagate or is_up("va"))
        yield Wire(lab, netdev, nic, guest)


def is_up(name: str) -> bool:
    return "UP" in flags(name)


def has_carrier(name: str = "vb") -> bool:
    return "LOWER_UP" in flags(name)


def flags(name: str) -> list[str]:
    """Those of `ip link`."""
    return ip("link", "show", name).partition("<")[2].partition(">")[0].split(",")


# -- frames -----------------------------------------------------------------------------------------------------------


async def _both_ways() -> None:
    veth()
    async with wire() as w:
        assert w.nic.link_up
        assert w.netdev.endpoint.info_text(0) == "ifname=va"
        with packet_socket("vb") as far:
            frames = [frame(bytes([n]) * 100, target=bytes([2, 0, 0, 0, 9, n])) for n in range(200)]
            for each in frames:
                far.send(each)
            await until(lambda: len(w.guest.got) == 200)
            assert w.guest.got == frames, "also those to other addresses"
            assert w.nic.send(0, memoryview(frame(b"from the guest" * 5)))
            got = await receive(far)
            while got in frames:  # an AF_PACKET socket hears what it sends, too
                got = await receive(far)
            assert got == frame(b"from the guest" * 5)
            far.send(frame(b"the last" * 8))
            await until(lambda: len(w.guest.got) > 200)
            assert w.guest.got[200:] == [frame(b"the last" * 8)], "its own frames do not come back"


def test_frames_pass_both_ways() -> None:
    in_namespace(_both_ways)


async def _full_guest() -> None:
    veth()
    async with wire() as w:
        w.guest.room = 3
        with packet_socket("vb") as far:
            sent = [frame(bytes([n]) * 50) for n in range(100)]
            for each in sent:
                far.send(each)
            await until(lambda: w.lab.network.find_nic("nic0") and not w.netdev.can_send(0))
            w.guest.make_room()
            await until(lambda: len(w.guest.got) == 100)
            assert w.guest.got == sent


def test_full_guest_leaves_frames_in_the_kernel() -> None:
    in_namespace(_full_guest)


class Segments(Guest):
    """A guest that takes unfinished frames, as a Linux driver does."""

    wants_offload = True


def udp_payloads(got: list[bytes], offloads: list[bytes]) -> bytes:
    """The data of the UDP datagrams, whose checksums have to be right."""
    data = b""
    for each, offload in zip(got, offloads, strict=True):
        for part in complete(offload, each) if offload else [each]:
            at = 18 if part[12:14] == b"\x81\x00" else 14
            if part[at - 2 : at] != b"\x08\x00" or part[at + 9] != 17:
                continue
            total = int.from_bytes(part[at + 2 : at + 4], "big")
            packet = bytes(part[at : at + total])
            pseudo = packet[12:20] + struct.pack(">HH", 17, total - 20)
            assert checksum(pseudo + packet[20:]) in (0, 0xFFFF)
            data += packet[28:]
    return data


async def _offloads(kind: type[Guest]) -> None:
    veth()
    ip("addr", "add", "10.9.0.1/24", "dev", "vb")
    ip("neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "vb")
    async with wire(guest=kind()) as w:
        message = os.urandom(9000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
            sock.sendto(message, ("10.9.0.2", 9))
        await until(lambda: len(udp_payloads(w.guest.got, w.guest.offloads)) == len(message))
        assert udp_payloads(w.guest.got, w.guest.offloads) == message
        assert any(w.guest.offloads) is kind.wants_offload


@pytest.mark.parametrize("kind", [Guest, Segments])
def test_unfinished_frames_are_completed_by_guest_or_vnic(kind: type[Guest]) -> None:
    in_namespace(_offloads, kind)


def udp_packet(payload: bytes) -> bytes:
    """From 10.9.0.2 to 10.9.0.1, with the pseudo-header's sum in place of the checksum."""
    addresses = bytes((10, 9, 0, 2, 10, 9, 0, 1))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + addresses
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    pseudo = addresses + struct.pack(">HH", 17, 8 + len(payload))
    return head + struct.pack(">HHHH", 9, 9, 8 + len(payload), ones_sum(pseudo)) + payload


async def _vlan(kind: type[Guest]) -> None:
    """The kernel takes the tag out of a received frame, and gives it beside the frame."""
    veth()
    async with wire(guest=kind()) as w:
        tagged = b"\xff" * 6 + HOST + b"\x81\x00\x60\x05"
        unfinished = tagged + b"\x08\x00" + udp_packet(b"unfinished" * 10)
        with packet_socket("vb") as far:
            far.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            far.send(bytes(10) + tagged + b"\x88\xb5" + b"priority 3, VLAN 5" * 4)
            far.send(encode(0, 0, 0, 38, 6) + unfinished)
            await until(lambda: len(w.guest.got) == 2)
        assert w.guest.got[0] == tagged + b"\x88\xb5" + b"priority 3, VLAN 5" * 4
        assert udp_payloads(w.guest.got[1:], w.guest.offloads[1:]) == b"unfinished" * 10
        assert bool(w.guest.offloads[1]) is kind.wants_offload
        assert w.nic.send(0, unfinished, encode(0, 0, 0, 38, 6))


@pytest.mark.parametrize("kind", [Guest, Segments])
def test_vlan_tags_are_in_the_frames(kind: type[Guest]) -> None:
    in_namespace(_vlan, kind)


async def _offloads_from_guest() -> None:
    veth()
    ip("addr", "add", "10.9.0.1/24", "dev", "vb")
    async with wire() as w:
        mac = bytes.fromhex(ip("link", "show", "vb").split("link/ether ")[1][:17].replace(":", ""))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.bind(("10.9.0.1", 9))
            payload = b"unfinished" * 10
            data = mac + bytes(6) + b"\x08\x00" + udp_packet(payload)
            assert w.nic.send(0, data, encode(0, 0, 0, 34, 6))
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(sock, 2000), 60) == payload


def test_kernel_completes_frames_of_the_guest() -> None:
    in_namespace(_offloads_from_guest)


async def _hostile() -> None:
    veth()
    ip("link", "set", "va", "mtu", "9000")
    ip("link", "set", "vb", "mtu", "9000")
    async with wire() as w:
        for data in (b"", b"x", bytes(13), bytes(14), bytes(20000), bytes(70000)):
            assert w.nic.send(0, data), "lost, as on a cable"
        random = os.urandom
        for _ in range(300):  # any header on any frame: the kernel checks both
            assert w.nic.send(0, frame(random(100)), random(10))
        with packet_socket("vb") as far:
            far.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            for _ in range(300):
                try:
                    far.send(random(10) + frame(random(100)))
                except OSError:
                    continue
            far.send(bytes(10) + frame(b"the end" * 20))
            await until(lambda: frame(b"the end" * 20) in w.guest.got)
        assert w.nic.link_up


def test_hostile_frames_harm_nobody() -> None:
    in_namespace(_hostile)


# -- the wire follows the interface -----------------------------------------------------------------------------------


async def _follows() -> None:
    veth()
    async with wire() as w:
        for _ in range(2):
            ip("link", "set", "vb", "down")
            await until(lambda: not w.nic.link_up)
            assert w.why == "interface va is lowerlayerdown"
            ip("link", "set", "vb", "up")
            await until(lambda: w.nic.link_up)
            ip("link", "set", "va", "down")
            await until(lambda: not w.nic.link_up)
            assert w.why == "interface va is down (ip link set va up)"
            ip("link", "set", "va", "up")
            await until(lambda: w.nic.link_up)
        assert w.guest.link == [False, True] * 4


def test_link_follows_the_interfaces_operstate() -> None:
    in_namespace(_follows)


async def _starts_down() -> None:
    veth()
    ip("link", "set", "va", "down")
    async with wire() as w:
        assert w.why == "interface va is down (ip link set va up)"
        assert not w.nic.link_up
        ip("link", "set", "va", "up")
        await until(lambda: w.nic.link_up)


def test_interface_that_is_down_at_the_start_holds() -> None:
    in_namespace(_starts_down)


async def _deleted() -> None:
    veth()
    before = open_fds()
    async with wire() as w:
        for change in (("del", "vb"), ("set", "va", "name", "other")):
            ip("link", *change)
            await until(lambda: not w.nic.link_up and "gone" in w.why)
            assert w.why == "interface va is gone; waiting for one of that name"
            assert w.nic.send(0, frame(b"lost" * 20))
            veth("va", f"vb{change[0]}")
            await until(lambda: w.nic.link_up)
            with packet_socket(f"vb{change[0]}") as far:
                far.send(frame(change[0].encode() * 20))
                await until(lambda: w.guest.got)
            assert w.guest.got == [frame(change[0].encode() * 20)], "and nothing of the former"
            w.guest.got.clear()
        ip("link", "del", "va")
        await until(lambda: not w.nic.link_up)
        ip("tuntap", "add", "va", "mode", "tun")
        await until(lambda: "back" in w.why)
        assert (
            w.why == "interface va is back: interface va: it carries no Ethernet frames (hardware type 65534)"
        )
    await until(lambda: open_fds() == before)


def test_deleted_interface_is_waited_for_by_name() -> None:
    in_namespace(_deleted)


# -- the interface follows the wire -----------------------------------------------------------------------------------


async def _propagates() -> None:
    veth()
    async with wire(propagate=True) as w:
        await until(has_carrier)
        for cause in (w.set_link, _attach(w.nic)):
            cause(False)
            await until(lambda: not has_carrier())
            assert not is_up("va")
            assert not w.netdev.holds, "its own doing is no reason"
            cause(True)
            await until(has_carrier)
            await until(lambda: w.nic.link_up)
        w.lab.network.delete_nic("nic0")
        await until(lambda: not has_carrier())


def _attach(nic: Nic) -> Callable[[bool], None]:
    def attach(there: bool) -> None:
        if there:
            nic.report.guest_attached()
        else:
            nic.report.guest_detached()

    return attach


def test_far_end_sees_no_carrier_while_nic_is_held_or_vm_is_gone() -> None:
    in_namespace(_propagates)


async def _not_propagated() -> None:
    veth()
    async with wire() as w:
        w.set_link(False)
        w.set_link(True)
        ip("link", "set", "vb", "down")
        await until(lambda: w.why)
        assert is_up("va")
        assert w.guest.link == [False, True, False]


def test_without_propagate_the_interface_is_left_alone() -> None:
    in_namespace(_not_propagated)


async def _own_uplink() -> None:
    """The hold `uplink` alone does not set the interface down: it could never be released."""
    veth()
    async with wire(propagate=True) as w:
        ip("link", "set", "vb", "down")
        await until(lambda: w.why)
        assert is_up("va")
        w.set_link(False)
        await until(lambda: not is_up("va"))
        assert w.why == "interface va is lowerlayerdown", "the last that was seen of it"
        ip("link", "set", "vb", "up")
        w.set_link(True)
        await until(lambda: w.nic.link_up)
        assert w.guest.link == [False, True]


def test_hold_of_the_interface_itself_is_not_propagated() -> None:
    in_namespace(_own_uplink)


async def _two() -> None:
    """A vnic at each end of the veth, both with propagate=on."""
    veth()
    async with wire(propagate=True) as one, Lab() as lab:
        await lab.add_prepared(InterfaceOptions(id="net0", ifname="vb", propagate=True))
        nic, _ = lab.nic("net0", attached=False)
        await until(lambda: not one.nic.link_up)
        nic.report.guest_attached()
        await until(lambda: one.nic.link_up and nic.link_up)
        for held, other in ((one.lab, nic), (lab, one.nic)):
            name = held.network.nics[0].name
            held.network.set_link(name, False, "test")
            await until(functools.partial(is_down, other))
            held.network.set_link(name, True, "test")
            await until(lambda: one.nic.link_up and nic.link_up)


def is_down(nic: Nic) -> bool:
    return not nic.link_up


def test_two_that_propagate_to_each_other_come_up_again() -> None:
    in_namespace(_two)


async def _foreign_down() -> None:
    veth()
    async with wire(propagate=True) as w:
        ip("link", "set", "va", "down")
        await until(lambda: w.why == "interface va is down (ip link set va up)")
        w.set_link(False)
        w.set_link(True)
        w.set_link(False)
        await w.lab.context.interfaces.was_set_up(0, None)  # all that was asked is done
        w.set_link(True)
        await w.lab.context.interfaces.was_set_up(0, None)
        assert not is_up("va")
        assert w.why == "interface va is down (ip link set va up)"
    assert not is_up("va"), "it is left as it was found"


def test_interface_that_another_program_set_down_stays_down() -> None:
    in_namespace(_foreign_down)


async def _foreign_up() -> None:
    veth()
    ip("link", "set", "va", "down")
    async with Lab() as lab:
        netdev = await lab.add_prepared(InterfaceOptions(id="net0", ifname="va", propagate=True))
        nic, _ = lab.nic("net0", attached=False)
        for _ in range(CONTESTS_MAX):
            ip("link", "set", "va", "up")
            await until(lambda: not is_up("va"))
        ip("link", "set", "va", "up")
        await lab.context.interfaces.was_set_up(0, None)  # all changes until now were reported
        await lab.context.interfaces.was_set_up(0, None)  # and so was what they gave rise to
        assert is_up("va")
        assert not netdev.holds
        nic.report.guest_attached()
        await until(lambda: nic.link_up)
        nic.report.guest_detached()
        await until(lambda: not is_up("va"))
    assert is_up("va"), "as another program wanted it"


def test_interface_that_another_program_sets_up_is_set_down_again_and_not_for_ever() -> None:
    in_namespace(_foreign_up)


async def _put_back() -> None:
    veth()
    before = open_fds()
    async with wire(propagate=True) as w:
        w.set_link(False)
        w.lab.network.delete_netdev("net0", "test")  # while the request is under way
        await until(lambda: not w.lab.context.leaving)
        assert is_up("va")
        await w.lab.add_prepared(InterfaceOptions(id="net0", ifname="va", propagate=True))
        await until(lambda: not is_up("va"))
    assert is_up("va"), "also at vnic's end"
    await until(lambda: open_fds() == before)


def test_interface_is_put_back_at_the_end() -> None:
    in_namespace(_put_back)


async def _deleted_while_down() -> None:
    veth()
    async with wire(propagate=True) as w:
        w.set_link(False)
        await until(lambda: not is_up("va"))
        ip("link", "set", "va", "name", "other")
        await until(lambda: is_up("other"))
        veth("va", "vc")
        await until(lambda: not is_up("va"))
        ip("link", "del", "va")
        await until(lambda: "gone" in w.why)
        w.set_link(True)
        veth("va", "vc")
        await until(lambda: w.nic.link_up)
        assert is_up("va")


def test_interface_that_is_renamed_or_deleted_while_held() -> None:
    in_namespace(_deleted_while_down)


async def _tap_without_vm() -> None:
    async with Lab() as lab:
        lab.add(TapOptions(id="net0", ifname="va"))
        nic, _ = lab.nic("net0", attached=False)
        up("va")
        await until(lambda: nic.link_up)
        assert not has_carrier("va")
        nic.report.guest_attached()
        await until(lambda: has_carrier("va"))
        nic.report.guest_detached()
        await until(lambda: not has_carrier("va"))


def test_tap_has_carrier_only_while_there_is_a_vm() -> None:
    in_namespace(_tap_without_vm)


# -- other namespaces -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def blue() -> AsyncIterator[asyncio.subprocess.Process]:
    """A namespace `blue` with va, while vb is in ours; and a process in it."""
    run("mount", "-t", "tmpfs", "none", "/run")  # `ip netns` keeps its names here
    ip("netns", "add", "blue")
    ip("link", "add", "va", "netns", "blue", "type", "veth", "peer", "name", "vb")
    ip("-n", "blue", "link", "set", "va", "up")
    up("vb")
    process = await asyncio.create_subprocess_exec("nsenter", "--net=/run/netns/blue", "sleep", "600")
    mine = os.readlink("/proc/self/ns/net")
    await until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != mine)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert os.readlink("/proc/self/ns/net") == mine


async def _in_namespace(form: str) -> None:
    before = open_fds()
    async with blue() as process:
        netns = {"name": "blue", "path": "/run/netns/blue", "pid": str(process.pid)}[form]
        async with Lab() as lab:
            netdev = await lab.add_prepared(
                InterfaceOptions(id="net0", ifname="va", netns=netns, propagate=True)
            )
            assert netdev.endpoint.info_text(0) == f"ifname=va,netns={netns}"
            nic, guest = lab.nic("net0", attached=False)
            await until(lambda: not has_carrier())
            nic.report.guest_attached()
            await until(has_carrier)
            with packet_socket("vb") as far:
                far.send(frame(b"into blue" * 8))
                await until(lambda: frame(b"into blue" * 8) in guest.got)
                nic.send(0, frame(b"out of blue" * 8))
                while await receive(far) != frame(b"out of blue" * 8):
                    pass
            ip("link", "set", "vb", "down")
            await until(lambda: not nic.link_up)
            assert lab.why("net0") == f"interface va of network namespace {netns} is lowerlayerdown"
            ip("-n", "blue", "link", "set", "va", "down")
            await until(lambda: "ip " in lab.why("net0"))
            remedy = lab.why("net0").partition("(")[2].rstrip(")")
            run(*remedy.split())
            ip("link", "set", "vb", "up")
            await until(lambda: nic.link_up)
            ip("-n", "blue", "link", "del", "va")
            await until(lambda: not nic.link_up)
            waiting = f"interface va of network namespace {netns} is gone; waiting for one of that name"
            await until(lambda: lab.why("net0") == waiting)
            ip("link", "add", "va", "netns", "blue", "type", "veth", "peer", "name", "vb")
            up("vb")
            ip("-n", "blue", "link", "set", "va", "up")
            await until(lambda: nic.link_up)
            lab.network.set_link(nic.name, False, "test")
            await until(lambda: not has_carrier())
        await until(has_carrier)
    await until(lambda: open_fds() == before)


@pytest.mark.parametrize("form", ["name", "path", "pid"])
def test_interface_in_another_namespace(form: str) -> None:
    in_namespace(_in_namespace, form)


async def _namespace_ends(form: str) -> None:
    before = open_fds()
    async with blue() as process:
        netns = {"name": "blue", "path": f"/proc/{process.pid}/ns/net", "pid": str(process.pid)}[form]
        async with Lab() as lab:
            await lab.add_prepared(InterfaceOptions(id="net0", ifname="va", netns=netns, propagate=True))
            nic, _ = lab.nic("net0", attached=False)
            nic.report.guest_attached()
            await until(has_carrier)
            ip("netns", "add", "green")
            ip("netns", "del", "green")
            ip("netns", "del", "blue")
            process.kill()
            await until(lambda: not nic.link_up)
            await until(lambda: "delete the netdev" in lab.why("net0"))
            assert lab.why("net0") == f"network namespace {netns} is gone: delete the netdev and add it again"
            await until(lambda: "vb" not in ip("link"))
            assert nic.send(0, frame(b"lost" * 20))
            lab.network.set_link(nic.name, False, "test")
            assert lab.network.find_netdev("net0")
    await until(lambda: open_fds() == before)


@pytest.mark.parametrize("form", ["name", "path", "pid"])
def test_namespace_that_goes_away_is_let_go(form: str) -> None:
    """The netdev's sockets would keep it alive, and the veth's other end with it."""
    in_namespace(_namespace_ends, form)


# -- refusals ---------------------------------------------------------------------------------------------------------


async def _refusals() -> None:
    run("mount", "-t", "tmpfs", "none", "/run")
    run("touch", "/run/file")
    os.mkfifo("/run/fifo")
    veth()
    ip("tuntap", "add", "tun9", "mode", "tun")
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    cases = [
        ("vx", None, "interface vx: no such interface"),
        ("", None, "Parameter 'ifname' expects the name of an interface: ''"),
        (
            "a-name-of-16-char",
            None,
            "Parameter 'ifname' expects the name of an interface: 'a-name-of-16-char'",
        ),
        ("a/b", None, "Parameter 'ifname' expects the name of an interface: 'a/b'"),
        ("tun9", None, "interface tun9: it carries no Ethernet frames (hardware type 65534)"),
        ("va", "", "Parameter 'netns' expects a name of `ip netns`, a path or a process id: ''"),
        ("va", "no", "network namespace 'no': /run/netns/no: No such file or directory"),
        ("va", "/run/file", "network namespace '/run/file': /run/file is no network namespace"),
        ("va", "/run/fifo", "network namespace '/run/fifo': /run/fifo is no network namespace"),
        (
            "va",
            "/proc/self/ns/mnt",
            "network namespace '/proc/self/ns/mnt': /proc/self/ns/mnt is no network namespace",
        ),
        ("va", str(ended.pid), f"network namespace '{ended.pid}': there is no such process"),
        ("vx", str(os.getpid()), f"interface vx of network namespace {os.getpid()}: no such interface"),
    ]
    before = open_fds()
    async with Lab() as lab:
        for ifname, netns, text in cases:
            with pytest.raises(NetError) as refused:
                await lab.add_prepared(InterfaceOptions(id="net0", ifname=ifname, netns=netns))
            assert refused.value.desc == text
        assert not list(lab.network.clients)
    await until(lambda: open_fds() == before)


def test_impossible_options_are_refused_and_leave_nothing() -> None:
    in_namespace(_refusals)


async def _missing_rights() -> None:
    veth()
    namespace = "/proc/self/ns/net"
    os.seteuid(65534)
    try:
        async with Lab() as lab:
            with pytest.raises(NetError) as refused:
                await lab.add_prepared(InterfaceOptions(id="net0", ifname="va"))
            text = "interface va: CAP_NET_RAW is needed for a packet socket (Operation not permitted)"
            assert refused.value.desc == text
    finally:
        os.seteuid(0)
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) == 0
    async with Lab() as lab:
        with pytest.raises(NetError) as refused:
            await lab.add_prepared(InterfaceOptions(id="net0", ifname="va", netns=namespace))
        text = "CAP_SYS_ADMIN is needed to enter it (Operation not permitted)"
        assert refused.value.desc == f"network namespace '{namespace}': {text}"


def test_missing_rights_are_named() -> None:
    in_namespace(_missing_rights)
