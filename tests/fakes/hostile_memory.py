"""Guests that truncate the memory that they share, and a second guest that must not notice.

Integration tests and the scripts of tests/attack use them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache

from vnic.lab.played.closing import Closing
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.nic.intel import regs
from vnic.pci import config

_PRIVATE_MOUNTS = ("unshare --mount", "unshare --user --map-root-user --mount")

_OPEN_SPARSE = """
import os, socket, subprocess, sys
folder, size, room = sys.argv[1], int(sys.argv[2]), sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + room, "tmpfs", folder], check=True)
fd = os.open(folder + "/guest", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, size)
socket.send_fds(socket.socket(fileno=0), [b"x"], [fd])
"""

MMIO = 0
_EOP_RS = 0x09
_TCTL_EN = 1 << 1

HOST_IP = bytes((10, 0, 2, 2))
"""The address of `-netdev echo,…,ip=10.0.2.2`."""
_ARP_REQUEST = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)


def arp_request() -> bytes:
    """A frame that asks the echo host for its MAC address."""
    mac = bytes.fromhex("525400000001")
    return b"\xff" * 6 + mac + b"\x08\x06" + _ARP_REQUEST + mac + bytes(4) + bytes(6) + HOST_IP


@cache
def private_mounts() -> Sequence[str]:
    """The words of a command that runs another one in a mount namespace; empty if this user may not make one."""
    for words in _PRIVATE_MOUNTS:
        command = words.split()
        with contextlib.suppress(OSError):
            probe = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return command
    return ()


def sparse_file(size: int, room: str) -> int:
    """A file of `size` bytes on a tmpfs with `room` for fewer ("512k"). The tmpfs is in a private mount namespace, and
    is freed when the caller closes the descriptor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [*private_mounts(), sys.executable, "-c", _OPEN_SPARSE, "/mnt", str(size), room],
            stdin=theirs.fileno(),
            check=True,
        )
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    return fd


class E1000Sender:
    """The TX ring of an e1000 in a VM on a vfio-user socket: it sends from any addresses."""

    def __init__(self, client: VfioUserClient, memory: FakeGuestMemory, size: int = 256) -> None:
        self._client = client
        self._memory = memory
        self._ring = memory.alloc(16 * size, 128)
        self._size = size
        self._tail = 0
        command = config.COMMAND_IO | config.COMMAND_MEMORY | config.COMMAND_MASTER
        client.config_write(config.COMMAND, command.to_bytes(2, "little"))
        for register, value in (
            (regs.TDBAL, self._ring & 0xFFFF_FFFF),
            (regs.TDBAH, self._ring >> 32),
            (regs.TDLEN, 16 * size),
            (regs.TDH, 0),
            (regs.TDT, 0),
            (regs.TCTL, _TCTL_EN),
        ):
            client.window_write(MMIO, register, value.to_bytes(4, "little"))

    def send(self, addresses: Sequence[int], length: int = 60) -> None:
        """Send one frame from each address, with one write of the tail. Fewer than the ring holds."""
        assert len(addresses) < self._size
        for address in addresses:
            descriptor = struct.pack("<QHBBBBH", address, length, 0, _EOP_RS, 0, 0, 0)
            self._memory.write(self._ring + 16 * self._tail, descriptor)
            self._tail = (self._tail + 1) % self._size
        self._client.window_write(MMIO, regs.TDT, self._tail.to_bytes(4, "little"))

    def wait(self) -> None:
        """Wait until all of it is sent. Fails if vnic disconnects the VM."""
        while int.from_bytes(self._client.window_read(MMIO, regs.TDH, 4), "little") != self._tail:
            pass


class HonestGuest(Closing):
    """A guest on a NIC's vhost-user socket, with an echo netdev as its peer. It checks the contents of its memory."""

    PATTERN = bytes(range(1, 250)) * 4096

    def __init__(self, path: str) -> None:
        self._memory = FakeGuestMemory()
        self._driver = NetDriver(self._memory)
        self._pattern_at = self._memory.alloc(len(self.PATTERN))
        self._memory.write(self._pattern_at, self.PATTERN)
        self._wire = SocketWire.connect(path)
        self._client = VhostUserClient(self._wire, self._memory, self._driver)
        self._client.start()
        self._client.link_up()
        self._driver.fill_rx(64)

    def close(self) -> None:
        self._client.close()
        self._driver.close()
        self._memory.close()

    def ask(self, patience_s: float = 60.0) -> float:
        """Ask the echo host for its MAC address; returns how many seconds the answer took."""
        began = time.monotonic()
        self._driver.send(arp_request())
        while not self._driver.received():
            assert time.monotonic() < began + patience_s, "the honest guest is not served"
            time.sleep(0.0001)
        return time.monotonic() - began

    def assert_untouched(self) -> float:
        """Check that it is served and its memory is unchanged; returns how many seconds an answer took."""
        self._client.link_up()  # is answered
        self._driver.fill_rx(1)
        seconds = self.ask()
        assert self._memory.read(self._pattern_at, len(self.PATTERN)) == self.PATTERN
        return seconds


@contextlib.contextmanager
def memory_of(fd: int, size: int) -> Iterator[FakeGuestMemory]:
    """A guest's memory in the file `fd`, which is closed with it."""
    memory = FakeGuestMemory(size, fd=fd)
    try:
        yield memory
    finally:
        memory.close()


def other_pages(memory: FakeGuestMemory, count: int, first: int = 64) -> list[int]:
    """`count` addresses, in every second page from page `first` on."""
    page = os.sysconf("SC_PAGESIZE")
    return [memory.guest_addr + page * (first + 2 * number) for number in range(count)]
