"""vhost= of a tap: QEMU's rules for combinations, and a kernel without vhost-net."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from tests.unit.backend.helpers import run, until

from vnic.backend.options import TapOptions
from vnic.backend.tap import vhost_net
from vnic.backend.tap.relay import Notifier
from vnic.backend.tap.vhost import check_vhost
from vnic.net.errors import NetError


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (TapOptions(id="t"), False),
        (TapOptions(id="t", vhost=True), True),
        (TapOptions(id="t", vhostforce=True), True),
        (TapOptions(id="t", vhost=False, vhostforce=True), False),
        (TapOptions(id="t", fd="3", vhostfd="4"), True),
        (TapOptions(id="t", fds="3:4", vhostfds="5:6"), True),
    ],
)
def test_vhost_is_requested_as_in_qemu(options: TapOptions, asked: bool) -> None:
    assert check_vhost(options) is asked


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (TapOptions(id="t", vhost=False, vhostfd="3"), r"vhostfd\(s\)= is not valid without vhost"),
        (TapOptions(id="t", vhostfds="3"), "vhostfds= is invalid if fds= wasn't specified"),
    ],
)
def test_contradicting_options_are_refused(options: TapOptions, text: str) -> None:
    with pytest.raises(NetError, match=text):
        check_vhost(options)


def test_passed_descriptors_of_something_else_are_refused() -> None:
    for fd in (os.open("/dev/null", os.O_RDWR), os.eventfd(0), os.open("/proc/self/exe", os.O_RDONLY)):
        with pytest.raises(NetError, match=r"is not that of /dev/vhost-net"):
            vhost_net.check_vhost_net(fd)
        os.close(fd)


def test_a_vms_sockets_are_relayed_to_eventfds_of_the_kernels() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            kick = Notifier(loop, theirs.fileno(), kick=True)
            call = Notifier(loop, theirs.fileno(), kick=False)
            os.set_blocking(theirs.fileno(), True)
            ours.send(bytes(16))
            await until(lambda: bool(_count(kick.fd)))
            os.eventfd_write(call.fd, 3)
            ours.setblocking(False)
            assert await loop.sock_recv(ours, 100) == (1).to_bytes(8, "little")
            kick.close()
            call.close()

    run(main())


def _count(eventfd: int) -> int:
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


def test_what_the_kernel_cannot_use_is_refused() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        with pytest.raises(ValueError, match="a notifier is a pipe"):
            Notifier(asyncio.get_running_loop(), writing, kick=False)
        os.close(reading)
        os.close(writing)
        assert Notifier(asyncio.get_running_loop(), None, kick=False).fd == -1

    run(main())
