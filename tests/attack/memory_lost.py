"""Guests send from each second page of a sparse 1 GiB file on a full tmpfs, again and again, by virtio-net and e1000.

Once this took a mapping for each page, until there were none, and then zeroed another guest's memory. What must hold:
each of them is cut off at its first lost page, vnic's mappings do not grow, and the guest beside them is served.
"""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from tests.fakes.hostile_memory import (
    E1000Sender,
    HonestGuest,
    memory_of,
    other_pages,
    private_mounts,
    sparse_file,
)
from tests.integration.process import Place

from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

ROUNDS = 25
SIZE = 1 << 30
PAGES = 40_000
"""More than half of the usual vm.max_map_count."""


def main() -> int:
    if not private_mounts():
        print("   not run: no mount namespace of one's own is to be had here")
        return 0
    place = Place()
    options = ["-netdev", "echo,id=net0,ip=10.0.2.2"]
    options += ["-device", "virtio-net,id=good,netdev=net0,attach.type=vhost-user,attach.path=good.sock"]
    for number in range(ROUNDS):  # a NIC each: one that cut a guest off lets the next one wait
        options += [
            "-netdev",
            f"echo,id=netv{number},ip=10.0.2.2",
            "-netdev",
            f"echo,id=nete{number},ip=10.0.2.2",
        ]
        virtio = f"virtio-net,id=v{number},netdev=netv{number},attach.type=vhost-user"
        options += ["-device", f"{virtio},attach.path=v{number}.sock"]
        e1000 = f"e1000,id=e{number},netdev=nete{number},attach.type=vfio-user"
        options += ["-device", f"{e1000},attach.path=e{number}.sock"]
    try:
        with (
            place.run(*options) as running,
            HonestGuest(place.path("good.sock")) as honest,
        ):
            honest.assert_untouched()
            before = mappings(running.process.pid)
            attack("virtio-net", honest, lambda number: by_virtio(place.path(f"v{number}.sock")))
            attack("e1000", honest, lambda number: by_e1000(place.path(f"e{number}.sock")))
            after = mappings(running.process.pid)
            print(f"   mappings of vnic: {before} before, {after} after")
            assert after < before + 100
    finally:
        place.close()
    return 0


def attack(name: str, honest: HonestGuest, one: Callable[[int], int]) -> None:
    shown, answers = [], []
    for number in range(ROUNDS):
        shown.append(one(number))
        answers.append(honest.assert_untouched())
    print(
        f"   {name}: {ROUNDS} guests cut off, after at most {max(shown)} pages that they showed; the honest one's"
        f" answers took {statistics.median(answers) * 1000:.2f} ms, at most {max(answers) * 1000:.2f} ms"
    )


def by_virtio(path: str) -> int:
    """The pages shown until the guest was cut off."""
    memory = FakeGuestMemory(SIZE, fd=sparse_file(SIZE, "512k"))
    driver = NetDriver(memory)
    wire = SocketWire.connect(path)
    client = VhostUserClient(wire, memory, driver)
    ring = driver.rings[1]
    shown = 0
    try:
        client.start()
        client.link_up()
        for address in other_pages(memory, PAGES):
            ring.add([(address, 100)])
            shown += 1
            if ring.free == 0:
                ring.publish()
                while ring.used_idx != ring.avail_idx and not is_closed(wire.sock):
                    pass
                if ring.used_idx != ring.avail_idx:
                    return shown
                ring.take_used()
        raise AssertionError(f"{shown} pages, and nobody was cut off")
    finally:
        client.close()
        driver.close()
        memory.close()


def by_e1000(path: str) -> int:
    with memory_of(sparse_file(SIZE, "512k"), SIZE) as memory, VfioUserClient(path) as client:
        client.attach(memory)
        sender = E1000Sender(client, memory)
        pages = other_pages(memory, PAGES)
        shown = 0
        with contextlib.suppress(AssertionError, OSError):  # the connection ends
            while pages:
                now, pages = pages[:250], pages[250:]
                shown += len(now)
                sender.send(now)
                sender.wait()
        assert pages, f"{shown} pages, and nobody was cut off"
        return shown


def is_closed(sock: socket.socket) -> bool:
    """Whether vnic has closed the connection; it sends nothing."""
    return bool(select.select([sock], [], [], 0.001)[0])


def mappings(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("\n")


if __name__ == "__main__":
    sys.exit(main())
