"""The initrd: a newc archive that other readers take, with everything /init needs."""

from __future__ import annotations

import lzma
import stat
import subprocess
from pathlib import Path

import pytest

from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.initrd import (
    CpioArchive,
    build_initrd,
    module_closure,
    read_module,
)


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, read by the rules of the format alone."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 109 + name_size].decode()
        at += -(-(110 + name_size) // 4) * 4
        content = archive[at : at + size]
        at += -(-size // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, content)


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, list[Path]]:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF and so on")
    first = tmp_path / "failover.ko"
    first.write_bytes(b"first module")
    second = tmp_path / "virtio_net.ko.xz"
    second.write_bytes(lzma.compress(b"second module"))
    return busybox, [first, second]


def test_holds_init_busybox_and_the_modules_in_order(parts: tuple[Path, list[Path]]) -> None:
    busybox, modules = parts
    found = entries(build_initrd(busybox, modules))
    assert stat.S_IMODE(found["init"][0]) == 0o755
    assert found["init"][1].startswith(b"#!/bin/busybox sh\n")
    assert found["bin/busybox"] == (stat.S_IFREG | 0o755, b"\x7fELF and so on")
    names = [name for name in found if name.startswith("modules/")]
    assert names == ["modules/00-failover.ko", "modules/01-virtio_net.ko"]
    assert found["modules/01-virtio_net.ko"][1] == b"second module"
    assert stat.S_ISCHR(found["dev/console"][0])


def test_takes_files_of_the_caller(parts: tuple[Path, list[Path]]) -> None:
    busybox, modules = parts
    found = entries(build_initrd(busybox, modules, {"/bin/probe": b"#!/bin/sh\n"}))
    assert found["bin/probe"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n")


def test_makes_the_folders_of_the_callers_files_once_and_first(parts: tuple[Path, list[Path]]) -> None:
    busybox, modules = parts
    files = {"/usr/lib/a.so": b"a", "/usr/lib/b.so": b"b", "/usr/bin/tool": b"tool"}
    names = list(entries(build_initrd(busybox, modules, files)))
    assert names[-6:] == ["usr", "usr/lib", "usr/lib/a.so", "usr/lib/b.so", "usr/bin", "usr/bin/tool"]


@pytest.mark.parametrize("length", range(6))
def test_pads_names_and_contents_of_every_length(length: int) -> None:
    archive = CpioArchive()
    archive.add_file("n" * (length + 1), b"x" * length)
    archive.add_folder("after")
    assert list(entries(archive.finish())) == ["n" * (length + 1), "after"]


@pytest.mark.needs("cpio")
def test_cpio_reads_it(tmp_path: Path) -> None:
    archive = CpioArchive()
    archive.add_folder("folder")
    archive.add_file("folder/file", b"content")
    subprocess.run(["cpio", "-i", "--quiet"], input=archive.finish(), cwd=tmp_path, check=True)
    assert (tmp_path / "folder/file").read_bytes() == b"content"


def test_refuses_a_module_that_it_cannot_unpack(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="neither"):
        read_module(tmp_path / "virtio_net.ko.zst")


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    texts = {
        "kernel/ipv6.ko": "crc-ccitt",
        "lib/crc-ccitt.ko": "",
        "net_failover.ko": "failover",
        "failover.ko": "",
    }
    for name, depends in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x7fELF\0license=GPL\0depends=%s\0name=x\0" % depends.encode())
    (tmp_path / "virtio_net.ko.xz").write_bytes(lzma.compress(b"\0depends=net_failover\0"))
    found = module_closure(tmp_path, ["virtio_net", "ipv6"])
    names = ["failover.ko", "net_failover.ko", "virtio_net.ko.xz", "crc-ccitt.ko", "ipv6.ko"]
    assert [path.name for path in found] == names
    with pytest.raises(GuestError, match="the kernel module e1000 is not below"):
        module_closure(tmp_path, ["e1000"])


def test_what_is_built_into_the_kernel_is_no_missing_module(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/net/core/failover.ko\nkernel/lib/crc-ccitt.ko\n")
    (tmp_path / "modules.builtin.modinfo").write_bytes(b"tcp.parm=x:y\0ipv6.parmtype=disable:int\0")
    (tmp_path / "virtio_net.ko").write_bytes(b"\0depends=failover,crc-ccitt\0")
    found = module_closure(tmp_path, ["virtio_net", "ipv6"])
    assert [path.name for path in found] == ["virtio_net.ko"]
