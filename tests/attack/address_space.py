"""Guests declare sparse memfds of up to 128 TiB, one after the other and many at a time.

What must hold: each that is above a limit is refused in a line, and a guest of usual size still gets its memory.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.fakes.hostile_memory import HonestGuest
from tests.integration.process import Place

from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import Disconnected, SocketWire, VhostUserClient
from vnic.protocol.vhost_user import messages as vu

TIB = 1 << 40
NICS = 40


def main() -> int:
    place = Place()
    options = ["-netdev", "echo,id=net0,ip=10.0.2.2", "-guest-memory", "max=1T,total=32T"]
    for number in range(NICS):
        options += ["-device", f"virtio-net,id=bad{number},attach.type=vhost-user,attach.path={number}.sock"]
    options += ["-device", "virtio-net,id=good,netdev=net0,attach.type=vhost-user,attach.path=good.sock"]
    sockets = [place.path(f"{number}.sock") for number in range(NICS)]
    try:
        with place.run(*options) as running:
            began = time.monotonic()
            for number, path in enumerate(sockets):
                with front_end(path) as client:
                    assert not add(client, (2 + number) * 3 * TIB)
            took = (time.monotonic() - began) / NICS * 1000
            print(
                f"   {NICS} guests with memory of 6 to {(NICS + 1) * 3} TiB were refused, {took:.2f} ms each"
            )
            with HonestGuest(place.path("good.sock")) as honest, ExitStack() as held:
                honest.assert_untouched()
                taken = sum(add(held.enter_context(front_end(path)), TIB) for path in sockets)
                print(f"   {taken} of {NICS} guests got 1 TiB each, where 32 TiB is the limit for all")
                assert taken == 31  # and the honest one's few MiB
                honest.assert_untouched()
            with HonestGuest(place.path("good.sock")) as honest:
                honest.assert_untouched()
            code, stderr = running.end()
            assert code == 0
            refused = stderr.count("limit of 1 TiB for one guest")
            print(f"   log: {stderr.count(chr(10))} lines, {refused} of them of one guest's limit")
            assert "limit of 32 TiB for all guests" in stderr
            assert "Traceback" not in stderr
    finally:
        place.close()
    return 0


@contextmanager
def front_end(path: str) -> Iterator[VhostUserClient]:
    with FakeGuestMemory(1 << 20) as memory:
        driver = NetDriver(memory, size=64)
        client = VhostUserClient(SocketWire.connect(path), memory, driver)
        try:
            client.negotiate()
            yield client
        finally:
            client.close()
            driver.close()


def add(client: VhostUserClient, size: int) -> bool:
    """ADD_MEM_REG of a sparse memfd; whether it was taken."""
    fd = os.memfd_create("sparse")
    try:
        os.ftruncate(fd, size)
        row = struct.pack("<QQQQQ", 0, 0, size, 0, 0)
        return client.acked(vu.ADD_MEM_REG, row, [fd]) == 0
    except (Disconnected, OSError):
        return False
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
