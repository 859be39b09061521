"""Writes the initrd of a guest: busybox, the modules in the order to load them, and /init, as a cpio archive.

The archive format is "newc" (Documentation/driver-api/early-userspace/buffer-format.rst of Linux), written here so
that no cpio program is needed.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from vnic.lab.guest.errors import GuestError

INIT = Path(__file__).with_name("init.sh")
WORDS = Path(__file__).with_name("words.sh")

OVER_ROOT = "/files"
"""Where files are that a guest with a root of its own is to have in front of those of the root."""

_FOLDERS = ("bin", "dev", "files", "modules", "proc", "sys", "tmp")


class CpioArchive:
    """A newc archive that grows in memory."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def add_folder(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, content: bytes, *, executable: bool = False, mtime: int = 0) -> None:
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), content, mtime=mtime)

    def add_link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_console(self) -> None:
        """/dev/console: the kernel opens it for /init before devtmpfs is mounted."""
        self._add("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return bytes(self._data)

    def _add(
        self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0), mtime: int = 0
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, check
        fields = (self._inode, mode, 0, 0, 1, mtime, len(content), 0, 0, *device, len(path), 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)


def module_name(path: Path) -> str:
    """The name that the kernel gives a module of that file name."""
    return path.name.split(".")[0].replace("-", "_")


def module_closure(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files of the named modules and of all that they depend on, in the order to load them.

    What is built into the kernel has none. GuestError if one is missing. The dependencies are in the modules
    themselves (`depends=` in .modinfo).
    """
    files = {module_name(path): path for path in folder.rglob("*.ko*")}
    built_in = builtin_modules(folder)
    ordered: list[Path] = []

    def visit(name: str) -> None:
        if name in built_in:
            return
        if name not in files:
            raise GuestError(f"the kernel module {name} is not below {folder}")
        if files[name] in ordered:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", read_module(files[name]))
        for needed in filter(None, depends[1].decode().split(",") if depends else ()):
            visit(needed.replace("-", "_"))
        ordered.append(files[name])

    for name in names:
        visit(name)
    return ordered


def builtin_modules(folder: Path) -> set[str]:
    """The names of what is in the kernel itself.

    `modules.builtin` has what could be a module; `modules.builtin.modinfo`, of texts that begin with "NAME.", what
    never is one as well, as ipv6 in Linux 7.2 (Documentation/kbuild/kbuild.rst).
    """
    names = set()
    for file, name in (
        ("modules.builtin", rb"([^/\n]+)\.ko\n"),
        ("modules.builtin.modinfo", rb"(?:^|\0)([^.\0]+)\."),
    ):
        with contextlib.suppress(OSError):
            names |= set(re.findall(name, (folder / file).read_bytes()))
    return {name.decode().replace("-", "_") for name in names}


def read_module(path: Path) -> bytes:
    """A kernel module's bytes, decompressed: busybox insmod wants them plain."""
    if path.name.endswith(".ko"):
        return path.read_bytes()
    if path.name.endswith(".ko.xz"):
        return lzma.decompress(path.read_bytes())
    raise GuestError(f"cannot unpack the kernel module {path}: neither .ko nor .ko.xz")


def build_initrd(busybox: Path, modules: Iterable[Path], files: Mapping[str, bytes] | None = None) -> bytes:
    """The initrd; `modules` are loaded in the order given, `files` maps paths in the guest to what is there."""
    archive = CpioArchive()
    for name in _FOLDERS:
        archive.add_folder(name)
    archive.add_console()
    archive.add_file("init", INIT.read_bytes(), executable=True)
    archive.add_file("words", WORDS.read_bytes())
    archive.add_file("bin/busybox", busybox.read_bytes(), executable=True)
    for position, module in enumerate(modules):
        archive.add_file(f"modules/{position:02}-{module_name(module)}.ko", read_module(module))
    made = {".", *_FOLDERS}
    for path, content in (files or {}).items():
        name = path.lstrip("/")
        for folder in map(str, reversed(Path(name).parents)):
            if folder not in made:
                made.add(folder)
                archive.add_folder(folder)
        archive.add_file(name, content, executable=True)
    return archive.finish()
