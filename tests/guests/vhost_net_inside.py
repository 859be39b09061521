"""Runs in a Debian guest that has vhost-net: a vnic there, User-Mode Linux on its NIC, and a tap with vhost=on.

`test_vhost_net` boots that guest and judges what is printed: a line of JSON for each step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from vnic.lab.bench.process import VnicProcess
from vnic.lab.guest.kit import find_uml
from vnic.lab.guest.uml import UmlGuest
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

PATIENCE_S = 200.0
TAP = "tap0"
FILE_BYTES = 1 << 20
WORKERS = 3
"""One for each queue pair."""
REFUSED = "netdev net1: vhost-net: it found invalid data in a ring: packets pass through vnic"


def tell(step: str, **facts: object) -> None:
    print(json.dumps({"step": step, **facts}), flush=True)


def until(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def workers() -> int:
    """The kernel's vhost threads: tasks of the process that owns them, or kernel threads before Linux 6.4."""
    found = 0
    for comm in Path("/proc").glob("[0-9]*/task/*/comm"):
        try:
            found += comm.read_text().startswith("vhost-")
        except OSError:
            pass
    return found


def ip(*words: str) -> None:
    subprocess.run([busybox(), "ip", *words], check=True)


def busybox() -> str:
    """That of the guest's kit: this machine may have none."""
    kit = find_uml()
    assert kit is not None
    return str(kit.busybox)


class Run:
    """A vnic with one tap of vhost-net, and a guest on it: 10.0.5.2, and the host's side is 10.0.5.1."""

    def __init__(self, vnic: VnicProcess, guest: UmlGuest) -> None:
        self.vnic = vnic
        self.guest = guest

    def path(self) -> object:
        return self.vnic.link("nic0").get("datapath")

    def pings(self) -> bool:
        return self.guest.ping("10.0.5.1", timeout=20) is not None

    def frames(self) -> int:
        """How many frames the tap got from the guest."""
        return int(Path(f"/sys/class/net/{TAP}/statistics/rx_packets").read_text())

    def set_link(self, name: str, up: bool) -> None:
        self.vnic.execute("set_link", name=name, up=up)

    def control(self) -> int:
        with contextlib.closing(self.vnic.second_client()) as client:
            client.sendall(b'{"execute":"query-vnic"}\n')
            (found,) = self.vnic.replies(client, 1)
        return cast(dict[str, int], found)["pid"]

    def log(self) -> str:
        return (self.vnic.folder / "log").read_text()


def take_and_pull(run: Run) -> None:
    ip("addr", "add", "10.0.5.1/24", "dev", TAP)
    ip("link", "set", TAP, "up")
    run.guest.set_address("10.0.5.2/24")
    taken = until(lambda: run.path() == "vhost")
    tell("taken", path=run.path(), taken=taken, ping=run.pings())
    for name in ("nic0", "net0"):
        run.set_link(name, False)
        down = run.guest.wait_carrier(False, timeout=60)
        before = run.frames()
        reply = run.guest.ping("10.0.5.1", timeout=1)
        tell("down", name=name, down=down, ping=reply, frames=run.frames() - before, path=run.path())
        run.set_link(name, True)
        up = run.guest.wait_carrier(True, timeout=60)
        back = until(lambda: run.path() == "vhost")
        tell("up", name=name, up=up, back=back, ping=run.pings())


def transfer(run: Run) -> None:
    """A file each way, whose packets no process of vnic sees."""
    content = os.urandom(FILE_BYTES)
    wanted = hashlib.sha256(content).hexdigest()
    before = cpu_ticks(run.control())
    folder = run.vnic.folder / "files"
    folder.mkdir()
    (folder / "file").write_bytes(content)
    with subprocess.Popen([busybox(), "httpd", "-f", "-p", "10.0.5.1:80", "-h", str(folder)]) as server:
        run.guest.run("wget -q -O /tmp/file http://10.0.5.1/file", timeout=PATIENCE_S)
        server.kill()
    told = run.guest.run("sha256sum </tmp/file").split()[0]
    run.guest.run("httpd -p 10.0.5.2:80 -h /tmp")
    fetch = [busybox(), "wget", "-q", "-O", "-", "http://10.0.5.2/file"]
    got = subprocess.run(fetch, capture_output=True, timeout=PATIENCE_S).stdout
    ticks = cpu_ticks(run.control()) - before
    tell("transfer", to_guest=told == wanted, from_guest=got == content, ticks=ticks)


def restart(run: Run) -> None:
    """Control is killed: the guest sees no change, and the next one hands its rings over anew."""
    counts = "cat /sys/class/net/eth0/carrier_changes"
    before = run.guest.run(counts)
    os.kill(run.control(), signal.SIGKILL)
    run.vnic.reconnect()
    back = until(lambda: run.path() == "vhost")
    unchanged = run.guest.run(counts) == before
    all_back = until(lambda: workers() == WORKERS)
    tell("restart", back=back, ping=run.pings(), unchanged=unchanged, workers=all_back)


def several_queues(vnic: VnicProcess) -> None:
    """A played driver with two queue pairs: the second is used once it says so."""
    ip("addr", "add", "10.0.6.1/24", "dev", "tap1")
    ip("link", "set", "tap1", "up")
    with (
        FakeGuestMemory(1 << 21) as memory,
        contextlib.closing(NetDriver(memory, pairs=2, size=64)) as driver,
        contextlib.closing(SocketWire.connect(str(vnic.folder / "nic1.sock"))) as wire,
        contextlib.closing(VhostUserClient(wire, memory, driver)) as client,
    ):
        client.start()
        taken = until(lambda: vnic.link("nic1").get("datapath") == "vhost")
        for pair in range(2):
            driver.fill_rx(32, pair)
        use_pairs(driver, 2)
        answers = {}
        for pair in range(2):
            driver.send(arp(pair), pair=pair)
            answers[pair] = until(lambda: arp_answers(driver))
        tell("queues", taken=taken, answers=answers, workers=workers() == WORKERS)
        ring = driver.rings[1]
        ring.set_desc(0, 1 << 40, 60)
        ring.offer(0)
        ring.publish()
        refused = until(lambda: REFUSED in (vnic.folder / "log").read_text())
        returned = until(lambda: vnic.link("nic1").get("datapath") != "vhost")
        tell("hostile", refused=refused, returned=returned)


def use_pairs(driver: NetDriver, pairs: int) -> None:
    """VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET."""
    ring, memory = driver.rings[-1], driver.memory
    request, ack = memory.alloc(4), memory.alloc(1)
    memory.write(request, bytes((4, 0, pairs, 0)))
    memory.write(ack, b"\xff")
    ring.add([(request, 4)], [(ack, 1)])
    ring.publish()
    assert until(lambda: memory.read(ack, 1) == b"\0")


def arp(pair: int) -> bytes:
    """Who has 10.0.6.1? Asked by another address for each pair."""
    mac = bytes((2, 0, 0, 0, 0, pair))
    addresses = mac + bytes((10, 0, 6, 10 + pair)) + bytes(6) + bytes((10, 0, 6, 1))
    return (b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + addresses).ljust(60, b"\0")


def arp_answers(driver: NetDriver) -> list[bytes]:
    found = [frame for pair in range(2) for frame in driver.received(pair)]
    return [frame for frame in found if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2"]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> None:
    options = ["--keep", "-netdev", f"tap,id=net0,ifname={TAP},vhost=on", "-device"]
    options += ["virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"]
    options += ["-netdev", "tap,id=net1,ifname=tap1,vhost=on,queues=2", "-device"]
    options += ["virtio-net,id=nic1,netdev=net1,mq=on,attach.type=vhost-user,attach.path=@/nic1.sock"]
    with VnicProcess(*options, patience_s=PATIENCE_S) as vnic:
        tell("started", workers=workers())
        several_queues(vnic)
        kit = find_uml()
        assert kit is not None
        with UmlGuest([vnic.folder / "nic0.sock"], kit=kit, boot_timeout=PATIENCE_S) as guest:
            run = Run(vnic, guest)
            take_and_pull(run)
            transfer(run)
            restart(run)
        gone = until(lambda: run.path() == "none")
        tell("detached", gone=gone, log=run.log())
    tell("ended", workers=workers())


if __name__ == "__main__":
    main()
