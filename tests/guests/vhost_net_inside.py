"""Runs in a Debian guest that has vhost-net: a vnic there, User-Mode Linux on its NIC, and a tap with vhost=on.

`test_vhost_net` boots that guest and judges what is printed: a line of JSON for each step.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from vnic.lab.bench.process import VnicProcess
from vnic.lab.guest.kit import find_uml
from vnic.lab.guest.uml import UmlGuest

PATIENCE_S = 200.0
TAP = "tap0"
FILE_BYTES = 1 << 20


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
    subprocess.run(["ip", *words], check=True)


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

    def log(self) -> str:
        return (self.vnic.folder / "log").read_text()


def take_and_pull(run: Run) -> None:
    ip("addr", "add", "10.0.5.1/24", "dev", TAP)
    ip("link", "set", TAP, "up")
    run.guest.set_address("10.0.5.2/24")
    taken = until(lambda: run.path() == "vhost")
    tell("taken", path=run.path(), taken=taken, ping=run.pings(), workers=workers(), log=run.log())
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
    before = cpu_ticks(run.vnic.process.pid)
    folder = run.vnic.folder / "files"
    folder.mkdir()
    (folder / "file").write_bytes(content)
    server = subprocess.Popen(
        ["/bin/busybox", "httpd", "-f", "-p", "10.0.5.1:80", "-h", str(folder)]
        if Path("/bin/busybox").exists()
        else ["busybox", "httpd", "-f", "-p", "10.0.5.1:80", "-h", str(folder)]
    )
    try:
        run.guest.run("wget -q -O /tmp/file http://10.0.5.1/file", timeout=PATIENCE_S)
    finally:
        server.kill()
        server.wait()
    told = run.guest.run("sha256sum </tmp/file").split()[0]
    run.guest.run("httpd -p 10.0.5.2:80 -h /tmp")
    got = subprocess.run(
        ["busybox", "wget", "-q", "-O", "-", "http://10.0.5.2/file"], capture_output=True, timeout=PATIENCE_S
    ).stdout
    import hashlib

    tell(
        "transfer",
        to_guest=told == hashlib.sha256(content).hexdigest(),
        from_guest=got == content,
        ticks=cpu_ticks(run.vnic.process.pid) - before,
    )


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> None:
    options = ["-netdev", f"tap,id=net0,ifname={TAP},vhost=on", "-device"]
    options += ["virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"]
    with VnicProcess(*options, patience_s=PATIENCE_S) as vnic:
        tell("started", workers=workers())
        kit = find_uml()
        assert kit is not None
        with UmlGuest([vnic.folder / "nic0.sock"], kit=kit, boot_timeout=PATIENCE_S) as guest:
            run = Run(vnic, guest)
            take_and_pull(run)
            transfer(run)
        until(lambda: run.path() == "none")
        tell("detached", path=run.path(), log=run.log())
    tell("ended", workers=workers())


if __name__ == "__main__":
    main()
