"""Finding the parts of a guest: a whole kit or none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.needs import need

from vnic.lab.guest import apt, kit
from vnic.lab.guest.errors import BootFailed, GuestError, GuestUnavailable
from vnic.lab.guest.uml import UmlGuest

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
    need("exec-tmp")
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


def test_dynamic_busybox_is_not_used(root: Path) -> None:
    (root / "bin/busybox").write_bytes(elf(PT_INTERP, PT_LOAD))
    assert find(root) is None


def test_kernel_that_does_not_run_is_not_used(root: Path) -> None:
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
    assert error.value.remedy == kit.remedy()


@pytest.mark.parametrize(
    ("system", "uid", "text"),
    [
        ("debian", 0, "apt-get update && apt-get install user-mode-linux busybox-static"),
        ("debian", 1000, "sudo apt-get update && sudo apt-get install user-mode-linux busybox-static"),
        ("ubuntu", 1000, "sudo apt-get update, with the network up, then try again"),
    ],
)
def test_the_remedy_is_for_this_very_system(
    monkeypatch: pytest.MonkeyPatch, system: str, uid: int, text: str
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": system})
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(kit, "apt_available", lambda: True)
    assert kit.remedy() == text
    monkeypatch.setattr(kit, "apt_available", lambda: False)
    assert kit.remedy().startswith("a Debian or Ubuntu system")


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


def test_a_newer_kernel_finds_its_own_loader_in_its_working_folder(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "entry"
    folder.mkdir()
    modules = root / "usr/lib/uml/modules/7.2.7"
    files = {
        "usr/bin/linux.uml": b"ELF\0/lib64/ld-linux-x86-64.so.2\0more",
        "usr/bin/busybox": b"",
        "usr/lib/ld-linux-x86-64.so.2": b"#!/bin/sh\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        need("exec-tmp")
        (root / name).chmod(0o755)
    modules.mkdir(parents=True)
    loaded = [f"{name}.ko" for name in kit.MODULES if name != "ipv6"]
    for name in loaded:
        (modules / name).write_bytes(b"\0depends=\0")
    (modules / "modules.builtin").touch()
    (modules / "modules.builtin.modinfo").write_bytes(b"ipv6.parm=\0")
    kit._take(root, folder)
    program = (folder / "linux.uml").read_bytes()
    assert program == b"ELF\0ld-linux-x86-64.so.2" + bytes(8) + b"more"
    kept = {path.name for path in (folder / "modules").iterdir()}
    assert kept == {"modules.builtin", "modules.builtin.modinfo", *loaded}
    command = kit.command(Path("linux.uml"), folder / "lib")
    assert command == ["env", f"LD_LIBRARY_PATH={folder / 'lib'}", "linux.uml"], "not for who starts it"
    (root / "usr/bin/linux.uml").write_bytes(b"no loader")
    with pytest.raises(GuestUnavailable, match="names no loader"):
        kit._take(root, tmp_path / "other")
