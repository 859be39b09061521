"""Finding the parts of a guest: a whole kit or none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vnic.guest import apt, kit
from vnic.guest.errors import BootFailed, GuestError, GuestUnavailable
from vnic.guest.uml import UmlGuest

PT_LOAD, PT_INTERP = 1, 3


def elf(*segment_types: int) -> bytes:
    """A 64-bit ELF header and program headers of these types."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segment_types), 0, 0, 0)
    return header + b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in segment_types)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the two packages unpack to."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    kernel = tmp_path / "usr/bin/linux.uml"
    kernel.write_text("#!/bin/sh\necho 6.1.176\n")
    kernel.chmod(0o755)
    folder = tmp_path / "usr/lib/uml/modules/6.1.176/kernel/drivers/net"
    folder.mkdir(parents=True)
    (folder / "virtio_net.ko").write_bytes(b"module")
    (tmp_path / "bin/busybox").write_bytes(elf(PT_LOAD, PT_LOAD))
    return tmp_path


def find(root: Path) -> kit.UmlKit | None:
    return kit.find_kit(root, root / "usr/bin/linux.uml", [root / "bin"])


def test_finds_a_whole_kit(root: Path) -> None:
    found = find(root)
    assert found is not None
    assert found.version == (6, 1, 176)
    assert found.version_text() == "6.1.176"


def test_without_modules_of_that_version_there_is_no_kit(root: Path) -> None:
    (root / "usr/lib/uml/modules/6.1.176").rename(root / "usr/lib/uml/modules/6.1.170")
    assert find(root) is None


def test_a_dynamic_busybox_does_not_do(root: Path) -> None:
    (root / "bin/busybox").write_bytes(elf(PT_INTERP, PT_LOAD))
    assert find(root) is None


def test_a_kernel_that_does_not_run_is_none(root: Path) -> None:
    (root / "usr/bin/linux.uml").chmod(0o644)
    assert find(root) is None


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60), elf(PT_LOAD)[:70]])
def test_what_is_no_whole_elf_file_is_not_static(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "busybox").write_bytes(content)
    assert not kit.is_static_program(tmp_path / "busybox")


def test_without_apt_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not apt.apt_available()
    with pytest.raises(GuestUnavailable) as error:
        kit.obtain_uml()
    assert error.value.remedy == "sudo apt-get install user-mode-linux busybox-static"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/tmp/a:b.sock", "colon"),
        ("/tmp/a b.sock", "colon or a space"),
        ("/tmp/" + "x" * 108, "longer than 107"),
    ],
)
def test_refuses_socket_paths_that_the_kernel_would_misread(root: Path, path: str, text: str) -> None:
    with pytest.raises(GuestError, match=text):
        UmlGuest([path], kit=find(root))


def test_a_file_that_is_no_socket_is_refused_before_a_kernel_is_booted(root: Path, tmp_path: Path) -> None:
    (tmp_path / "nic0.sock").touch()
    guest = UmlGuest([tmp_path / "nic0.sock"], kit=find(root))
    with pytest.raises(BootFailed, match=r"no NIC listens on .*nic0\.sock: start `vnic run`"):
        guest.boot()
    guest.close()
