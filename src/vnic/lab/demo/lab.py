"""The lab of `vnic demo`: a real `vnic run` with one NIC, driven over QMP as a user would, and a peer to plug into.

Everything lives in a folder of its own and ends with the lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vnic.backend.options import EchoOptions
from vnic.children import with_us
from vnic.cli.client import Entry, Refused, Session, session_at
from vnic.cli.web_option import pages
from vnic.machine.nics import DEVICES
from vnic.scratch import ScratchFolder, remove_leftovers
from vnic.sockets.rundir import SUN_PATH_MAX

NIC = "nic0"
NETDEV = "net0"
FAR_NIC = "nic1"
FAR_NETDEV = "net1"
"""The other end of the cable into which nic0 is plugged in the end."""
ECHO_MAC = EchoOptions(id=NETDEV).mac
GUEST_ADDRESS = "10.0.2.15/24"
PING_ADDRESS = "10.0.2.2"

VHOST_USER = ("virtio-net", "vhost-user")
VFIO_USER = ("virtio-net-pci", "vfio-user")
"""The NIC's model and how the guest reaches it. There are others over vfio-user."""

HOST = f"echo,id=host,ip={PING_ADDRESS}"
"""What a peer has at its own far end."""

SOCKET = {
    "addr": {"type": "unix", "data": {"path": "far.sock"}},
    "server": False,
    "reconnect-ms": 50,
}
"""Where the vhost-user back-end listens, as chardev-add takes it."""

TMPDIR_MAX = SUN_PATH_MAX - len("/vnic-demo-xxxxxxxx/nic0.sock")
"""Bytes that the path of the folder of temporary files may have."""

START_TIMEOUT_S = 30.0
EVENT_TIMEOUT_S = 30.0


def free_ports() -> tuple[int, int]:
    """Two UDP ports of the loopback interface that no one has just now."""
    with socket.socket(type=socket.SOCK_DGRAM) as first, socket.socket(type=socket.SOCK_DGRAM) as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


class Program:
    """A `vnic run` of the lab; its output is kept for the case that it fails."""

    def __init__(self, folder: Path, name: str, options: list[str]) -> None:
        self.qmp_path = folder / f"{name}.qmp"
        self._log = folder / f"{name}.log"
        qmp = f"unix:{self.qmp_path},server=on,wait=off"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                with_us(
                    [
                        *(sys.executable, "-m", "vnic", "run", "--keep", "-name", f"demo-{name}"),
                        *("-journal", "none", "-qmp", qmp, *options),
                    ],
                    "TERM",
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends its programs in order
            )

    async def wait_listening(self, web: int = 0) -> None:
        """Until its monitor answers, and so many pages after it are served, which are opened last."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while len(self.pages()) < web or not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise Refused(f"vnic run did not start; the last that it said: {said[-1]}")
            await asyncio.sleep(0.005)

    def pages(self) -> list[str]:
        """What it said of the pages that it serves."""
        return pages(self._log.read_text(errors="replace"))

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.qmp_path)) == 0

    def kill(self) -> None:
        """As a crash of its host would end it: the supervisor neither starts it again nor tells it to end in order."""
        self._process.send_signal(signal.SIGSTOP)
        pid = self._process.pid
        with contextlib.suppress(OSError):  # it has ended already
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self.qmp_path.unlink(missing_ok=True)

    def end(self) -> None:
        """In order; the hard way if it does not go."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self.kill()


class FarGuest:
    """The VM at the other end of the cable: a played one, in a process of its own."""

    def __init__(self, folder: Path, socket_name: str) -> None:
        command = [sys.executable, "-m", "vnic.lab.demo.far_guest", socket_name, PING_ADDRESS]
        self._process = subprocess.Popen(
            with_us(command, "TERM"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
        )

    async def wait_ready(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            if not await asyncio.to_thread(self._process.stdout.readline):
                raise Refused("the VM at the other end of the cable did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Lab:
    """nic0 plugged into net0, which is an `echo` at first; an async context manager."""

    def __init__(self, driver: str, attach: str, web: Sequence[str] = ()) -> None:
        """`web`: options for the pages of its vnic, each with its value."""
        self.driver = driver
        self._web = web
        self.pages: list[str] = []
        """What it said of them, with their URLs."""
        self._device = f"{driver},id={NIC},netdev={NETDEV},attach.type={attach},attach.path=nic0.sock"
        if len(os.fsencode(tempfile.gettempdir())) > TMPDIR_MAX:
            raise Refused(
                f"{tempfile.gettempdir()} is too long a path for sockets in it; choose another: export TMPDIR=/tmp"
            )
        remove_leftovers()
        self._scratch = ScratchFolder("vnic-demo-")
        self.folder = self._scratch.path
        self.nic_socket = self.folder / "nic0.sock"
        self._stack = contextlib.AsyncExitStack()
        self._peer: Program | None = None
        self._far_guest: FarGuest | None = None
        self._ports = (0, 0)
        """Of the two ends of the tunnel."""
        self.qmp: Session

    async def __aenter__(self) -> Self:
        self._stack.callback(self._scratch.remove)
        try:
            options = ["-netdev", f"echo,id={NETDEV},ip={PING_ADDRESS}"]
            options += ["-device", self._device, *self._web]
            program = Program(self.folder, "lab", options)
            self._stack.callback(program.end)
            await program.wait_listening(len(self._web) // 2)
            self.pages = program.pages()
            self.qmp = await self._stack.enter_async_context(session_at(qmp=program.qmp_path))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end_peer()
        if self._far_guest is not None:
            self._far_guest.kill()
        await self._stack.aclose()

    @property
    def is_virtio(self) -> bool:
        return self.driver.startswith("virtio")

    @property
    def guest_sees(self) -> bool:
        """Whether the guest can see its link."""
        return DEVICES[self.driver].facts.confirms

    # -- what the steps do --------------------------------------------------------------------------------------

    async def set_link(self, name: str, up: bool) -> None:
        await self.qmp.execute("set_link", name=name, up=up)

    async def netdev_del(self) -> None:
        await self.qmp.execute("netdev_del", id=NETDEV)

    async def netdev_add(self, **options: Any) -> None:
        await self.qmp.execute_with("netdev_add", {"id": NETDEV, **options})

    async def add_echo(self) -> None:
        """net0 as a host that answers, as at the start."""
        await self.netdev_add(type="echo", ip=PING_ADDRESS)

    async def add_stream(self) -> None:
        """net0 as a stream that listens; the peer connects to it."""
        await self.netdev_add(type="stream", server=True, addr={"type": "unix", "path": "net0.sock"})

    async def start_stream_peer(self) -> None:
        """A second vnic at the far end: a stream and an `echo`, joined by a hub. Returns when they are connected."""
        options = ["-netdev", HOST, "-netdev", "hubport,id=port0,hubid=0,netdev=host"]
        options += ["-netdev", "stream,id=far,addr.type=unix,addr.path=net0.sock,reconnect-ms=100"]
        options += ["-netdev", "hubport,id=port1,hubid=0,netdev=far"]
        await self._start_peer(options, "NETDEV_STREAM_CONNECTED")

    async def kill_stream_peer(self) -> None:
        await self._kill_peer("NETDEV_STREAM_DISCONNECTED")

    async def add_vhost_user(self) -> None:
        """net0 as a vhost-user whose back-end, over the chardev, runs the guest's rings."""
        backend = {"type": "socket", "data": SOCKET}
        await self.qmp.execute_with("chardev-add", {"id": "char0", "backend": backend})
        await self.netdev_add(type="vhost-user", chardev="char0")

    async def start_vhost_user_peer(self) -> None:
        """A second vnic as the back-end: the NIC that it serves is net0 for the first. Returns when they are joined."""
        options = ["-netdev", HOST]
        options += ["-device", "virtio-net,id=far,netdev=host,attach.type=vhost-user,attach.path=far.sock"]
        await self._start_peer(options, "NETDEV_VHOST_USER_CONNECTED")

    async def kill_vhost_user_peer(self) -> None:
        await self._kill_peer("NETDEV_VHOST_USER_DISCONNECTED")

    async def add_cable(self) -> None:
        """net0 as one end of a cable, and a second NIC at the other."""
        await self.netdev_add(type="cable", cable="cable0")
        await self.qmp.execute_with("netdev_add", {"type": "cable", "id": FAR_NETDEV, "cable": "cable0"})
        attach = {"type": "vhost-user", "path": f"{FAR_NIC}.sock"}
        # The address of `echo`: the guest may still have it in its neighbour table for the far guest's IP address.
        nic = {"driver": "virtio-net", "id": FAR_NIC, "netdev": FAR_NETDEV, "mac": ECHO_MAC, "attach": attach}
        await self.qmp.execute_with("device_add", nic)

    async def start_far_guest(self) -> None:
        """The VM of the second NIC. Returns when its driver runs."""
        self._far_guest = FarGuest(self.folder, f"{FAR_NIC}.sock")
        await self._far_guest.wait_ready()

    async def kill_far_guest(self) -> None:
        if self._far_guest is None:
            raise Refused("there is no VM to kill")
        self._far_guest.kill()
        self._far_guest = None

    async def add_tunnel(self) -> None:
        """net0 as a VXLAN tunnel over the loopback interface."""
        self._ports = free_ports()
        await self.netdev_add(type="tunnel", **self._tunnel(0))

    def _tunnel(self, end: int) -> dict[str, Any]:
        local, remote = (f"127.0.0.1:{self._ports[index]}" for index in (end, 1 - end))
        return {"local": local, "remote": remote, "vni": 1}

    async def start_tunnel_peer(self) -> None:
        """A second vnic as the other end of the tunnel, with a VM. Returns when its driver runs."""
        tunnel = ",".join(f"{key}={value}" for key, value in self._tunnel(1).items())
        attach = "attach.type=vhost-user,attach.path=far.sock"
        device = f"virtio-net,id={FAR_NIC},netdev={FAR_NETDEV},mac={ECHO_MAC},{attach}"
        self._peer = Program(
            self.folder, "peer", ["-netdev", f"tunnel,id={FAR_NETDEV},{tunnel}", "-device", device]
        )
        await self._peer.wait_listening()
        self._far_guest = FarGuest(self.folder, "far.sock")
        await self._far_guest.wait_ready()

    async def set_far_link(self, up: bool) -> None:
        """As a user of the second vnic does."""
        if self._peer is None:
            raise Refused("there is no peer")
        async with session_at(qmp=self._peer.qmp_path) as qmp:
            await qmp.execute("set_link", name=FAR_NIC, up=up)

    async def kill_tunnel_peer(self) -> None:
        if self._peer is None:
            raise Refused("there is no peer to kill")
        self._peer.kill()
        self._peer = None

    async def end_peer(self) -> None:
        """In order, because it is of no more use."""
        if self._peer is not None:
            self._peer.end()
            self._peer = None

    async def _start_peer(self, options: list[str], event: str) -> None:
        self._peer = Program(self.folder, "peer", options)
        await self.wait_event(event)

    async def _kill_peer(self, event: str) -> None:
        if self._peer is None:
            raise Refused("there is no peer to kill")
        self._peer.kill()
        self._peer = None
        await self.wait_event(event)

    async def nic(self) -> Entry:
        """query-links of the NIC."""
        return (await self.qmp.links(NIC))[0]

    async def wait_event(self, name: str) -> None:
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            while (event := await self.qmp.next_event()) is not None:
                if event["event"] == name:
                    return
        raise Refused(f"vnic ended before {name} came")
