"""A libvirtd of the tests' own: in a folder of its own, without a system service, and with real QEMUs.

It is a session's libvirtd, which root may not have (libvirt would use the system's folders): root starts it as nobody.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.process import is_listening, wait_for
from tests.leftovers import MARK
from tests.needs import need

from vnic.adopt.domain.xml import parse

IDLE_S = 120
"""It ends by itself after so long without clients and domains, where the tests were killed."""

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>{emulator}</emulator>
    {interfaces}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <audio id='1' type='none'/>
  </devices>
</domain>
"""


def interface(index: int, link: str = "", model: str = "virtio") -> str:
    """A NIC; `link` is up, down, or not said."""
    state = f"<link state='{link}'/>" if link else ""
    mac = f"52:54:00:ad:00:{index:02x}"
    return f"<interface type='user'><mac address='{mac}'/><model type='{model}'/>{state}</interface>"


class LibvirtDaemon:
    """One libvirtd, while it runs and after it was killed."""

    def __init__(self, folder: Path) -> None:
        import libvirt

        self._libvirt = libvirt
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        settings = folder / "c" / "libvirt"
        settings.mkdir(parents=True)
        (settings / "qemu.conf").write_text('stdio_handler = "file"\n')
        (folder / "libvirtd.conf").write_text(f'unix_sock_dir = "{folder}"\n')

    def start(self) -> None:
        folder = str(self._folder)
        names = ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")
        environment = {
            "PATH": os.environ["PATH"] + ":/usr/sbin",
            "XDG_CONFIG_HOME": f"{folder}/c",
            MARK: os.environ[MARK],
            **dict.fromkeys(names, folder),
        }
        command = ["libvirtd", "--config", f"{folder}/libvirtd.conf", "--pid-file", f"{folder}/pid"]
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self._folder, *self._folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            command = [
                *("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
                *command,
            ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--timeout", str(IDLE_S)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: is_listening(str(self.socket)) or self._has_ended())
        assert not self._has_ended(), (self._folder / "log").read_text()

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """Its domains run on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        if not self._has_ended():
            self.kill()
        for path in self._folder.rglob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)

    # -- domains --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        opened = self._libvirt.open(self.uri)
        try:
            yield opened
        finally:
            opened.close()

    def define(self, name: str, *interfaces: str) -> None:
        """A domain that is shut off."""
        emulator = shutil.which("qemu-system-x86_64")
        with self.connection() as opened:
            opened.defineXML(DOMAIN.format(name=name, emulator=emulator, interfaces="".join(interfaces)))

    def boot(self, name: str, *, paused: bool = True) -> None:
        with self.connection() as opened:
            flags = self._libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
            opened.lookupByName(name).createWithFlags(flags)

    def destroy(self, name: str) -> None:
        with self.connection() as opened:
            opened.lookupByName(name).destroy()

    def xml(self, name: str) -> str:
        with self.connection() as opened:
            return str(opened.lookupByName(name).XMLDesc())

    def set_link(self, name: str, alias: str, link: str) -> None:
        """As `virsh domif-setlink` does."""
        with self.connection() as opened:
            domain = opened.lookupByName(name)
            (nic,) = [each for each in parse(domain.XMLDesc()).interfaces if each.alias == alias]
            domain.updateDeviceFlags(nic.with_link(link == "up"), self._libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def attach(self, name: str, device: str) -> None:
        with self.connection() as opened:
            opened.lookupByName(name).attachDeviceFlags(device, self._libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def pid(self, name: str) -> int:
        """Of its QEMU."""
        return int((self._folder / "libvirt" / "qemu" / "run" / f"{name}.pid").read_text())


@contextlib.contextmanager
def libvirt_daemon() -> Iterator[LibvirtDaemon]:
    """It runs, and ends with all its domains."""
    need("libvirtd", "libvirt-python", "qemu", *(("setpriv",) if os.geteuid() == 0 else ()))
    # Beside the folder of the run, which is root's alone.
    beside = Path(os.environ["TMPDIR"]).parent
    if os.geteuid() == 0 and not beside.stat().st_mode & stat.S_IXOTH:
        beside = Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="vnic-l-", dir=beside))
    daemon = LibvirtDaemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)
