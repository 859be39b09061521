"""Tests of filter-mirror and filter-redirector over real sockets: output, input, and every kind of peer."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.loops import no_fd_leak
from tests.unit.backend.helpers import MAC, PATIENCE_S, Guest, run, until

from vnic.backend import BackendContext
from vnic.backend.framing import MAX_FRAME_BYTES
from vnic.chardev.table import Chardevs
from vnic.filter import object_add, object_del
from vnic.filter.options import DumpOptions, MirrorOptions, RedirectorOptions
from vnic.monitor.schema import parse_flat_chardev
from vnic.net.errors import NetError
from vnic.net.filters import Direction
from vnic.net.network import Network
from vnic.net.offload import complete

ONE, TWO, THREE = (bytes([n]) * 60 for n in (1, 2, 3))
PARTIAL = bytes(range(64))
OFFLOAD = bytes((1, 0, 0, 0, 0, 0, 20, 0, 6, 0))
"""PARTIAL's checksum starts at byte 20 and is stored at byte 26."""
(FINISHED,) = complete(OFFLOAD, PARTIAL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


class Rig:
    """nic0 on net0, and listening chardevs whose sockets have their names."""

    def __init__(self, folder: Path, *chardevs: str) -> None:
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        self.network = Network(self.loop)
        self.passed: dict[str, socket.socket] = {}
        """The sockets that `fd=` can name."""
        self.chardevs = Chardevs(lambda name: self.passed.pop(name).detach())
        self.context = BackendContext(self.loop, self.network, self.chardevs)
        self.host, self.guest = Guest(), Guest()
        self.netdev = self.network.add_netdev("net0", "stream", self.host)
        self.nic = self.network.add_nic("nic0", "x", self.guest, mac=MAC, netdev_id="net0")
        for name in chardevs:
            self.chardev(name, path=str(folder / name), server="on")

    def chardev(self, name: str, backend: str = "socket", **options: str) -> None:
        flat: dict[str, object] = {key.replace("_", "-"): value for key, value in options.items()}
        flat |= {"backend": backend, "id": name}
        self.chardevs.add(parse_flat_chardev(flat), listens="fd" in options)

    def add(self, options: msgspec.Struct) -> None:
        object_add(self.context, options)  # type: ignore[arg-type]  # the options of a filter, all of them

    def mirror(self, outdev: str = "o", **options: Any) -> None:
        self.add(MirrorOptions(id="f0", netdev="net0", outdev=outdev, **options))

    def redirect(self, name: str = "f0", **options: Any) -> None:
        self.add(RedirectorOptions(id=name, netdev="net0", **options))

    async def peer(self, name: str) -> Peer:
        """Connect to a chardev, and wait until vnic has noticed."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await self.loop.sock_connect(sock, str(self.folder / name))
        await until(lambda: self.chardevs.find(name).connected)
        return Peer(sock)


class Peer:
    """The far end of a chardev."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await asyncio.wait_for(self.loop.sock_recv(self.sock, size - len(data)), PATIENCE_S)
            assert piece, "closed"
            data += piece
        return data

    async def frame(self) -> bytes:
        (size,) = struct.unpack(">I", await self._exactly(4))
        return await self._exactly(size)

    async def headed(self) -> tuple[bytes, bytes]:
        """A virtio header, which may be empty, and the frame."""
        size, header = struct.unpack(">II", await self._exactly(8))
        return await self._exactly(header), await self._exactly(size - header)

    async def say(self, *frames: bytes, header: bytes | None = None) -> None:
        for frame in frames:
            told = b"" if header is None else struct.pack(">I", len(header)) + header
            await self.raw(struct.pack(">I", len(frame) + len(header or b"")) + told + frame)

    async def raw(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def is_closed(self) -> bool:
        """Wait for the end of what vnic sends."""
        try:
            while await asyncio.wait_for(self.loop.sock_recv(self.sock, 1 << 16), PATIENCE_S):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()


# -- mirror ---------------------------------------------------------------------------------------------------------


def test_mirror_copies_both_directions(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "o")
        rig.mirror()
        peer = await rig.peer("o")
        rig.nic.send(0, ONE)
        rig.netdev.send(0, memoryview(TWO))
        assert [await peer.frame(), await peer.frame()] == [ONE, TWO]
        assert (rig.host.got, rig.guest.got) == ([ONE], [TWO])
        await peer.raw(b"the mirror does not read this")
        rig.nic.send(0, THREE)
        assert await peer.frame() == THREE
        rig.network.close()
        assert await peer.is_closed()
        peer.close()

    with no_fd_leak():
        run(main())


def test_wire_works_without_peer_and_peer_may_reconnect(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "o")
        rig.mirror()
        rig.nic.send(0, ONE)
        for number in range(3):
            peer = await rig.peer("o")
            assert [each.filename for each in rig.chardevs.info()] == [f"unix:{folder}/o,server=on"]
            rig.nic.send(0, bytes([number]) * 60)
            assert await peer.frame() == bytes([number]) * 60
            peer.close()
            await until(lambda: not rig.chardevs.find("o").connected)
        assert len(rig.host.got) == 4
        rig.network.close()

    with no_fd_leak():
        run(main())


@pytest.mark.parametrize("kind", ["unix", pytest.param("inet", marks=pytest.mark.needs("loopback"))])
def test_client_reconnects(folder: Path, kind: str) -> None:
    async def main() -> None:
        rig = Rig(folder)
        if kind == "unix":
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(folder / "far"))
            rig.chardev("o", path=str(folder / "far"), reconnect_ms="10")
        else:
            listening = socket.create_server(("127.0.0.1", 0))
            rig.chardev("o", host="127.0.0.1", port=str(listening.getsockname()[1]), reconnect_ms="10")
        listening.listen()
        listening.setblocking(False)
        rig.mirror()
        for _ in range(2):
            sock, _ = await asyncio.wait_for(rig.loop.sock_accept(listening), PATIENCE_S)
            peer = Peer(sock)
            await until(lambda: rig.chardevs.find("o").connected)
            rig.nic.send(0, ONE)
            assert await peer.frame() == ONE
            peer.close()  # the next peer is accepted when the end of this one is noticed
        listening.close()
        rig.network.close()

    with no_fd_leak():
        run(main())


@pytest.mark.parametrize("kind", ["unix", pytest.param("inet", marks=pytest.mark.needs("loopback"))])
def test_passed_connection_serves_both_directions(folder: Path, kind: str) -> None:
    async def main() -> None:
        rig = Rig(folder)
        if kind == "unix":
            ours, theirs = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                theirs = socket.create_connection(listening.getsockname())
                ours, _ = listening.accept()
        theirs.setblocking(False)
        peer = Peer(theirs)
        rig.passed["s"] = ours
        rig.chardev("c", fd="s")
        rig.redirect(queue=Direction.TX, indev="c")
        await until(lambda: rig.chardevs.find("c").connected)
        if kind == "unix":
            assert rig.chardevs.info()[0].filename == "unix:", "as QEMU 7.2 has it: our end has no name"
        await peer.say(ONE)
        await until(lambda: rig.guest.got == [ONE])
        object_del(rig.context, "f0")
        rig.mirror("c")  # the chardev owns the connection: the next user continues with it
        await until(lambda: rig.chardevs.find("c").connected)
        rig.nic.send(0, TWO)
        assert await peer.frame() == TWO
        peer.close()
        await until(lambda: not rig.chardevs.find("c").connected)
        assert rig.chardevs.info()[0].filename == "disconnected:fd:s"
        rig.nic.send(0, THREE)
        object_del(rig.context, "f0")
        rig.mirror("c")  # no reconnect, which is no error
        await asyncio.sleep(0)
        assert not rig.chardevs.find("c").connected
        rig.network.close()
        rig.chardevs.close()

    with no_fd_leak():
        run(main())


def test_passed_listener_serves_peers_in_turn(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / "o"))
        rig.passed["s"] = listening
        rig.chardev("o", fd="s", server="on")
        name = f"unix:{folder}/o,server=on"
        assert [each.filename for each in rig.chardevs.info()] == [f"disconnected:{name}"]
        rig.mirror()
        for number in range(2):
            peer = await rig.peer("o")
            assert [each.filename for each in rig.chardevs.info()] == [name]
            rig.nic.send(0, bytes([number]) * 60)
            assert await peer.frame() == bytes([number]) * 60
            peer.close()
            await until(lambda: not rig.chardevs.find("o").connected)
        rig.network.close()
        rig.chardevs.close()
        assert not (folder / "o").exists(), "the path is removed with the socket, as in QEMU"

    with no_fd_leak():
        run(main())


def test_unconnected_passed_socket_is_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        caplog.set_level("INFO")
        rig = Rig(folder)
        rig.passed["s"] = socket.socket(socket.AF_UNIX)
        rig.chardev("o", fd="s")
        rig.mirror()
        end = "filter f0, chardev o: fd:s is not connected; a socket that was passed does not come back"
        await until(lambda: end in caplog.messages)
        rig.network.close()
        rig.chardevs.close()

    with no_fd_leak():
        run(main())


@pytest.mark.needs("loopback")
def test_server_listens_on_tcp_port(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            rig.chardev("taken", host="127.0.0.1", port=str(port), server="on")
            with pytest.raises(NetError, match="Address already in use"):
                rig.mirror("taken")
        rig.mirror("taken")
        peer = Peer(socket.create_connection(("127.0.0.1", port)))
        peer.sock.setblocking(False)
        await until(lambda: rig.chardevs.find("taken").connected)
        rig.nic.send(0, ONE)
        assert await peer.frame() == ONE
        rig.network.close()
        peer.close()

    with no_fd_leak():
        run(main())


def test_slow_peer_loses_whole_frames(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    got = 0

    async def main() -> None:
        nonlocal got
        rig = Rig(folder, "o")
        rig.mirror()
        peer = await rig.peer("o")
        for number in range(4000):
            rig.nic.send(0, number.to_bytes(2, "big") * 500)
        assert len(rig.host.got) == 4000
        numbers: list[int] = []
        while not numbers or numbers[-1] != 0xFFFF:
            frame = await peer.frame()
            assert frame == frame[:2] * 500
            numbers.append(int.from_bytes(frame[:2], "big"))
            if len(numbers) == 500:
                rig.nic.send(0, b"\xff\xff" * 500)
        assert numbers[:-1] == list(range(len(numbers) - 1)), "what was lost are the last ones"
        assert 500 < len(numbers) < 2000
        rig.network.close()
        peer.close()
        got = len(numbers) - 1

    with no_fd_leak():
        run(main())
    slow, missed = caplog.messages
    assert slow == "filter f0: the peer of chardev o reads too slowly, frames are lost"
    assert missed == f"filter f0: chardev o missed {4000 - got} frames"


@pytest.mark.parametrize("vnet_hdr", [False, True])
@pytest.mark.parametrize("wants_offload", [False, True])
def test_partial_checksum_is_left_only_behind_a_header(
    folder: Path, vnet_hdr: bool, wants_offload: bool
) -> None:
    """The frame passes unchanged only behind a header, and only if the netdev has such a header, too."""

    async def main() -> None:
        rig = Rig(folder, "o")
        rig.host.wants_offload = wants_offload
        rig.mirror(vnet_hdr_support=vnet_hdr)
        peer = await rig.peer("o")
        rig.nic.send(0, PARTIAL, OFFLOAD)
        rig.nic.send(0, ONE)
        if not vnet_hdr:
            assert [await peer.frame(), await peer.frame()] == [FINISHED, ONE]
        elif wants_offload:
            assert await peer.headed() == (OFFLOAD, PARTIAL)
            assert await peer.headed() == (bytes(10), ONE)
        else:
            assert [await peer.headed(), await peer.headed()] == [(b"", FINISHED), (b"", ONE)]
        rig.nic.send(0, b"too short for its header", OFFLOAD[:6] + b"\xff\xff\0\0")
        rig.nic.send(0, TWO)
        last = (await peer.headed())[1] if vnet_hdr else await peer.frame()
        if vnet_hdr and wants_offload:
            last = (await peer.headed())[1]
        assert last == TWO
        rig.network.close()
        peer.close()

    run(main())


# -- redirector -----------------------------------------------------------------------------------------------------


def test_redirected_frame_is_removed_with_or_without_peer(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "o")
        rig.redirect(outdev="o", queue=Direction.RX)
        assert rig.nic.send(0, ONE)
        peer = await rig.peer("o")
        rig.nic.send(0, TWO)
        rig.netdev.send(0, THREE)
        assert await peer.frame() == TWO
        assert (rig.host.got, rig.guest.got) == ([], [THREE])
        rig.network.close()
        peer.close()

    run(main())


@pytest.mark.parametrize(
    ("queue", "host", "guest"),
    [(Direction.ALL, [ONE], [ONE]), (Direction.TX, [], [ONE]), (Direction.RX, [ONE], [])],
)
def test_injected_frame_keeps_its_direction(
    folder: Path, queue: Direction, host: list[bytes], guest: list[bytes]
) -> None:
    """As observed with QEMU 11.1.3. Frames of the wire pass, because there is no outdev."""

    async def main() -> None:
        rig = Rig(folder, "i")
        rig.redirect(indev="i", queue=queue)
        for _ in range(2):  # a peer may reconnect
            peer = await rig.peer("i")
            await peer.say(ONE)
            await until(lambda: rig.host.got + rig.guest.got == host + guest)
            peer.close()
            await until(lambda: not rig.chardevs.find("i").connected)
            rig.host.got.clear()
            rig.guest.got.clear()
        rig.nic.send(0, TWO)
        rig.netdev.send(0, THREE)
        assert (rig.host.got, rig.guest.got) == ([TWO], [THREE])
        rig.network.close()

    with no_fd_leak():
        run(main())


def test_injected_frame_passes_later_filters(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "i")
        for name in ("a", "b"):
            if name == "b":
                rig.redirect(indev="i")
            rig.add(DumpOptions(id=name, netdev="net0", file=str(folder / name)))
        peer = await rig.peer("i")
        await peer.say(ONE)
        await until(lambda: rig.host.got == rig.guest.got == [ONE])
        assert {name: len((folder / name).read_bytes()) for name in "ab"} == {"a": 24 + 76, "b": 24 + 76}
        rig.network.close()
        peer.close()

    run(main())


def test_disabled_filter_moves_no_frames(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "i", "o")
        rig.redirect(indev="i", outdev="o", status="off")
        peer = await rig.peer("i")
        await peer.say(*[ONE] * 100)
        rig.nic.send(0, TWO)
        await asyncio.sleep(0.01)
        assert (rig.host.got, rig.guest.got) == ([TWO], [])
        rig.network.close()
        assert await peer.is_closed()
        peer.close()

    run(main())


def test_injected_frame_without_nic_is_dropped(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "i")
        rig.redirect(indev="i")
        rig.network.delete_nic("nic0")
        peer = await rig.peer("i")
        await peer.say(ONE)
        await until(lambda: rig.netdev.dropped == 1)
        rig.network.close()
        peer.close()

    run(main())


def test_offloads_of_injected_frames_are_done_here(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder, "i")
        rig.guest.wants_offload = True
        rig.redirect(indev="i", vnet_hdr_support=True, queue=Direction.TX)
        peer = await rig.peer("i")
        await peer.say(ONE, header=b"")
        await peer.say(PARTIAL, header=OFFLOAD)
        await peer.say(PARTIAL, header=OFFLOAD + b"\1\0")
        await peer.say(b"too short", header=OFFLOAD)
        await peer.say(TWO, header=bytes(10))
        await until(lambda: len(rig.guest.got) == 4)
        assert rig.guest.got == [ONE, FINISHED, FINISHED, TWO]
        assert set(rig.guest.offloads) == {b""}
        rig.network.close()
        peer.close()

    run(main())


@pytest.mark.parametrize("vnet_hdr", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">II", 60, 11) + bytes(60),
        struct.pack(">II", 8, 10) + bytes(8),
        struct.pack(">II", 60, 0xFFFFFFFF) + bytes(60),
    ],
)
def test_invalid_stream_disconnects_and_peer_may_reconnect(folder: Path, vnet_hdr: bool, bad: bytes) -> None:
    async def main() -> None:
        rig = Rig(folder, "i")
        rig.redirect(indev="i", vnet_hdr_support=vnet_hdr, queue=Direction.TX)
        if vnet_hdr or len(bad) == 4:
            peer = await rig.peer("i")
            await peer.raw(bad)
            assert await peer.is_closed()
            peer.close()
        peer = await rig.peer("i")
        await peer.say(ONE, header=b"" if vnet_hdr else None)
        await until(lambda: rig.guest.got == [ONE])
        rig.network.close()
        peer.close()

    with no_fd_leak():
        run(main())


def test_two_redirectors_join_two_wires(folder: Path) -> None:
    """Frames that one vnic redirects are injected by another: the guest's frames leave through the other's netdev."""

    async def main() -> None:
        (folder / "a").mkdir()
        near, far = Rig(folder / "a"), Rig(folder, "i")
        near.chardev("o", path=str(folder / "i"), reconnect_ms="10")
        near.redirect(outdev="o", queue=Direction.RX)
        far.redirect(indev="i", queue=Direction.RX)
        await until(lambda: near.chardevs.find("o").connected and far.chardevs.find("i").connected)
        frames = [bytes([n & 0xFF]) * (60 + n) for n in range(300)]
        for frame in frames:
            near.nic.send(0, frame)
        await until(lambda: far.host.got == frames)
        assert near.host.got == far.guest.got == []
        near.network.close()
        far.network.close()

    run(main())


# -- chardevs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error_class", "desc"),
    [
        (MirrorOptions(id="f0", netdev="net0", outdev="zz"), "DeviceNotFound", "Device 'zz' not found"),
        (
            RedirectorOptions(id="f0", netdev="net0", indev="zz"),
            "DeviceNotFound",
            "IN Device 'zz' not found",
        ),
        (
            RedirectorOptions(id="f0", netdev="net0", indev="o", outdev="zz"),
            "DeviceNotFound",
            "OUT Device 'zz' not found",
        ),
        (
            RedirectorOptions(id="f0", netdev="net0"),
            "GenericError",
            "filter redirector needs 'indev' or 'outdev' at least one property set",
        ),
        (
            RedirectorOptions(id="f0", netdev="net0", indev="o", outdev="o"),
            "GenericError",
            "'indev' and 'outdev' could not be same for filter redirector",
        ),
        (
            MirrorOptions(id="f0", netdev="net0", outdev="tty"),
            "GenericError",
            "chardev 'tty' cannot carry frames: it takes a socket with 'path', or 'host' and 'port'",
        ),
        (
            RedirectorOptions(id="f0", netdev="net0", indev="o", outdev="bad"),
            "GenericError",
            "Failed to bind socket to {}/no/such: No such file or directory",
        ),
    ],
)
def test_bad_options_are_refused(folder: Path, options: msgspec.Struct, error_class: str, desc: str) -> None:
    """A refused filter leaves nothing: its chardevs are free, and no path is listened on."""

    async def main() -> None:
        rig = Rig(folder, "o")
        rig.chardev("tty", "stdio")
        rig.chardev("bad", path=str(folder / "no/such"), server="on")
        with pytest.raises(NetError) as refused:
            rig.add(options)
        assert (refused.value.error_class, refused.value.desc) == (error_class, desc.format(folder))
        assert not any(each.frontend_open for each in rig.chardevs.info())
        assert os.listdir(folder) == []
        assert rig.netdev.filters == []
        rig.network.close()

    with no_fd_leak():
        run(main())


@pytest.mark.parametrize("how", ["object-del", "netdev_del"])
def test_chardev_is_released_with_its_filter(folder: Path, how: str) -> None:
    async def main() -> None:
        rig = Rig(folder, "o")
        rig.mirror()
        with pytest.raises(NetError, match="'o' is already in use"):
            rig.redirect("f1", indev="o")
        with pytest.raises(NetError, match="Chardev 'o' is busy"):
            rig.chardevs.remove("o")
        if how == "object-del":
            object_del(rig.context, "f0")
        else:
            rig.network.delete_netdev("net0", "test")
        assert os.listdir(folder) == []
        rig.chardevs.remove("o")
        rig.network.close()

    run(main())


def test_only_indev_is_read(folder: Path) -> None:
    """query-chardev's frontend-open (qemu_chr_fe_set_handlers): a mirror does not read from its chardev."""

    async def main() -> None:
        rig = Rig(folder, "i", "o", "m")
        rig.redirect(indev="i", outdev="o")
        rig.add(MirrorOptions(id="f1", netdev="net0", outdev="m"))
        assert [(each.label, each.frontend_open) for each in rig.chardevs.info()] == [
            ("i", True),
            ("o", False),
            ("m", False),
        ]
        rig.network.close()
        assert not any(each.frontend_open for each in rig.chardevs.info())

    asyncio.run(main())


def test_null_chardev_discards_frames(folder: Path) -> None:
    async def main() -> None:
        rig = Rig(folder)
        rig.chardev("i", "null")
        rig.chardev("o", "null")
        rig.redirect(indev="i", outdev="o")
        rig.nic.send(0, ONE)
        assert rig.host.got == []
        rig.network.close()

    run(main())


def test_info(folder: Path) -> None:
    """The order of the properties is as QEMU 11.1.3 prints them."""

    async def main() -> None:
        rig = Rig(folder, "m", "o")
        rig.mirror("m")
        rig.redirect(
            "f1", outdev="o", vnet_hdr_support=True, queue=Direction.RX, status="off", position="head"
        )
        assert rig.network.info_network().splitlines()[-2:] == [
            "  - f1: type=filter-redirector,vnet_hdr_support=true,indev=,outdev=o,"
            "position=head,status=off,insert=behind,netdev=net0,queue=rx",
            "  - f0: type=filter-mirror,vnet_hdr_support=false,outdev=m,"
            "position=tail,status=on,insert=behind,netdev=net0,queue=all",
        ]
        rig.network.close()

    run(main())
