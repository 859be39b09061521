"""A Debian with systemd as PID 1, as an initrd: this machine's own systemd, Python and vnic.

Nothing is installed and no root is needed. All is in memory, so the guest needs neither a disk nor a module.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from vnic.lab.guest.initrd import CpioArchive

ROOT = Path(__file__).parents[2]
SYSTEMD = Path("/usr/lib/systemd")
PROGRAMS = ("systemctl", "systemd-tmpfiles")
UNITS = (
    *("basic", "sysinit", "local-fs", "local-fs-pre", "multi-user", "network", "paths", "slices", "sockets"),
    *("swap", "timers", "umount", "shutdown", "final"),
)
LIBRARIES = ("msgspec", "pyroute2", "yaml", "qemu", "rich", "markdown_it", "mdurl", "typing_extensions.py")
"""What vnic imports; rich's colours for code are not needed."""
UNWANTED = {
    *("test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "distutils", "pydoc_data"),
    *("site-packages", "dist-packages", "unittest"),
}
SYSTEM_CONF = """\
[Manager]
DefaultStandardOutput=null
ShowStatus=no
DefaultTimeoutStartSec=120
"""
PASSWD = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"


class Image:
    """Files by their paths in the guest."""

    def __init__(self) -> None:
        self._archive = CpioArchive()
        self._made = {"."}

    def add(self, path: str, content: bytes | str, *, executable: bool = False) -> None:
        self._parents(path)
        data = content.encode() if isinstance(content, str) else content
        self._archive.add_file(path.lstrip("/"), data, executable=executable)

    def copy(self, path: Path) -> None:
        """A file of this machine, to the same place."""
        self._parents(str(path))
        mode = path.stat()
        self._archive.add_file(
            str(path).lstrip("/"),
            path.read_bytes(),
            executable=bool(mode.st_mode & stat.S_IXUSR),
            mtime=int(mode.st_mtime),
        )

    def folder(self, path: str) -> None:
        self._parents(f"{path}/x")

    def link(self, path: str, target: str) -> None:
        self._parents(path)
        self._archive.add_link(path.lstrip("/"), target)

    def _parents(self, path: str) -> None:
        for parent in map(str, reversed(Path(path.lstrip("/")).parents)):
            if parent not in self._made:
                self._made.add(parent)
                self._archive.add_folder(parent)

    def finish(self) -> bytes:
        return self._archive.finish()


def build(busybox: Path, files: dict[str, str]) -> bytes:
    """The initrd; `files` are added."""
    image = Image()
    image.add("/usr/bin/busybox", busybox.read_bytes(), executable=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        image.link(f"/{name}", f"usr/{name}")
    image.link("/usr/bin/sh", "busybox")
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "var/lib"):
        image.folder(f"/{name}")
    image.add("/etc/passwd", PASSWD)
    image.add("/etc/group", GROUP)
    image.add("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    image.add("/etc/os-release", Path("/etc/os-release").read_text())
    image.add("/etc/systemd/system.conf", SYSTEM_CONF)
    for path, content in files.items():
        image.add(path, content, executable=content.startswith("#!"))
    programs = [SYSTEMD / "systemd", *_executables()]
    for unit in [*programs, *(SYSTEMD / "system" / f"{name}.target" for name in UNITS)]:
        image.copy(unit)
    python, modules = _python()
    own = [each for each in (ROOT / "src").rglob("*") if each.suffix == ".py" or each.name == "vnic-wire"]
    for module in [*modules, *own]:
        image.copy(module)
        cached = module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
        if cached.exists():
            image.copy(cached)
    image.copy(python)
    for library in _libraries([*programs, python, *(each for each in modules if each.suffix == ".so")]):
        image.copy(library)
    image.add(
        "/usr/local/bin/vnic",
        f'#!/bin/sh\n{environment(python)} exec {python} -m vnic "$@"\n',
        executable=True,
    )
    return image.finish()


def environment(python: Path) -> str:
    """What a shell puts before the guest's Python."""
    packages = sysconfig.get_path("purelib")
    return f"PYTHONPATH={ROOT}/src:{packages} PYTHONDONTWRITEBYTECODE=1"


def guest_python() -> Path:
    return Path(sys.executable).resolve()


def _executables() -> Iterable[Path]:
    for name in PROGRAMS:
        if found := shutil.which(name):
            yield Path(found).resolve()
    for name in ("systemd-shutdown", "systemd-executor"):
        if (SYSTEMD / name).exists():
            yield SYSTEMD / name


def _python() -> tuple[Path, list[Path]]:
    """The interpreter, and the files of the standard library and of what vnic imports."""
    standard = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    files = list(_modules(standard))
    for name in LIBRARIES:
        path = packages / name
        files += _modules(path) if path.is_dir() else [path] if path.exists() else []
    return guest_python(), files


def _modules(folder: Path) -> Iterable[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in UNWANTED and not name.startswith(("config-", "__pycache__"))
        ]
        yield from (Path(root, name) for name in names if name.endswith((".py", ".so")))


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """The shared libraries that they load, and the loader."""
    found: set[Path] = set()
    words = [str(each) for each in programs]
    done = subprocess.run(["ldd", *words], capture_output=True, text=True, check=False)
    for path in re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", done.stdout, re.M):
        found.add(Path(path))
    return sorted(found)
