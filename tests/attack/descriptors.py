"""20 000 descriptors that replace each other, and files on FUSE whose close hangs.

Once a descriptor whose fstat failed stayed open, and a file on FUSE hung the process for good. What must hold: vnic has
as many open afterwards as before, and a guest beside it is served while the close hangs.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes.deaf_fuse import deaf_fuse
from tests.fakes.hostile_memory import HonestGuest
from tests.fakes.loops import open_fds
from tests.integration.process import Place, wait_for

from vnic.protocol.vhost_user import messages as vu

NUMBER = 20_000
A_MESSAGE = 8


def main() -> int:
    place = Place()
    options = ["-netdev", "echo,id=net0,ip=10.0.2.2"]
    options += ["-device", "virtio-net,id=good,netdev=net0,attach.type=vhost-user,attach.path=good.sock"]
    options += ["-device", "virtio-net,id=bad,attach.type=vhost-user,attach.path=bad.sock"]
    try:
        with place.run(*options) as running, HonestGuest(place.path("good.sock")) as honest:
            before = open_fds(running.process.pid)
            began = time.monotonic()
            replaced(place.path("bad.sock"))
            wait_for(lambda: open_fds(running.process.pid) <= before)
            seconds = time.monotonic() - began
            print(f"   {NUMBER} descriptors in {seconds:.1f} s: {before} open before, as many after")
            if os.geteuid() == 0:
                hung(place, honest)
            honest.assert_untouched()
    finally:
        place.close()
    return 0


def replaced(path: str) -> None:
    """Each call descriptor takes the place of the one before, and the connection ends with the last ones."""
    message = vu.HEADER.pack(vu.SET_VRING_CALL, vu.VERSION, 8) + bytes(8)
    kinds = [os.eventfd(0), *os.pipe(), socket.socketpair()[0].detach()]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        for number in range(NUMBER):
            socket.send_fds(client, [message], [kinds[number % len(kinds)]])
    for fd in kinds:
        os.close(fd)


def hung(place: Place, honest: HonestGuest) -> None:
    """A file on FUSE."""
    with tempfile.TemporaryDirectory() as folder, deaf_fuse(Path(folder)) as fuse:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place.path("bad.sock"))
            fuse.pass_on(client, bytes(12), A_MESSAGE)
            assert client.recv(1) == b""
        wait_for(fuse.all_wait)
        slowest = max(honest.assert_untouched() for _ in range(100))
        print(f"   {A_MESSAGE} closes hang: ping at most {slowest * 1e3:.1f} ms")
        assert slowest < 1.0


if __name__ == "__main__":
    sys.exit(main())
