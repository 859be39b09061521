"""Finding and fetching the parts of a QEMU guest, with small stand-ins for the packages and for apt-get."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest
from tests.needs import need

from vnic.lab.guest import cache, debian, qemu_kit
from vnic.lab.guest.errors import GuestUnavailable


def indexes(*places: str) -> list[str]:
    return [f"{place}/InRelease" for place in places]


def test_the_mirror_is_debians_own() -> None:
    found = debian.find_mirror(
        indexes(
            "http://tools.example/linux/debian/dists/bookworm",
            "http://mirror.example/debian/dists/bookworm",
            "http://mirror.example/debian/dists/bookworm-updates",
            "http://mirror.example/debian-security/dists/bookworm-security",
            "http://node.example/dists/nodistro",
        )
    )
    assert found == "http://mirror.example/debian"


def test_where_no_source_is_debians_there_is_no_mirror() -> None:
    assert debian.find_mirror(indexes("http://mirror.example/ubuntu/dists/noble")) is None
    assert debian.find_mirror([]) is None


def test_what_apt_knows_of_debian_names_its_mirror() -> None:
    text = "Suite: forky\nRepositoryType: deb\nBaseURI: https://mirror.example/debian/\nMatchURI: x\n"
    assert debian.described_mirror(text) == "http://mirror.example/debian"
    assert debian.described_mirror("Suite: forky\n") is None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing of a kit, and the shell's programs alone; returns its folder for programs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "keyring.gpg")
    (tmp_path / "keyring.gpg").touch()
    return programs


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    need("exec-tmp")
    path.chmod(0o755)
    return path


def says_version(version: str) -> str:
    return f"echo 'QEMU emulator version {version} (Debian 1:{version}+ds-1)'"


def store_linux() -> Path:
    def fill(folder: Path) -> None:
        (folder / "vmlinuz-6.12.1-amd64").write_bytes(b"kernel")
        (folder / "busybox").write_bytes(b"busybox")
        for name in ("modules", "tools"):
            (folder / name).mkdir()
        (folder / "tools/ethtool").write_bytes(b"ethtool")
        (folder / "tools/libmnl.so.0").write_bytes(b"library")
        (folder / "tools/ld-linux-x86-64.so.2").write_bytes(b"loader")

    return cache.store("linux-3", fill)


def test_a_qemu_of_the_machine_is_taken_if_it_is_new_enough(machine: Path) -> None:
    linux = store_linux()
    script(machine / "qemu-system-x86_64", says_version("7.2.22"))
    assert qemu_kit.find_qemu() is None
    script(machine / "qemu-system-x86_64", says_version("10.1.0"))
    kit = qemu_kit.find_qemu()
    assert kit is not None
    assert kit.command == (str(machine / "qemu-system-x86_64"),)
    assert kit.kernel == linux / "vmlinuz-6.12.1-amd64"
    assert kit.version_text() == "QEMU 10.1.0, Linux 6.12.1-amd64"


def test_tools_have_their_places_in_the_guest(machine: Path) -> None:
    store_linux()
    script(machine / "qemu-system-x86_64", says_version("11.0.0"))
    kit = qemu_kit.find_qemu()
    assert kit is not None
    assert kit.tools() == {
        "/lib64/ld-linux-x86-64.so.2": b"loader",
        "/usr/bin/ethtool": b"ethtool",
        "/usr/lib/x86_64-linux-gnu/libmnl.so.0": b"library",
    }


def test_a_downloaded_qemu_runs_by_its_own_loader_and_firmware(machine: Path) -> None:
    store_linux()

    def fill(folder: Path) -> None:
        script(folder / "lib/ld-linux-x86-64.so.2", says_version("11.1.3"))
        (folder / "qemu-system-x86_64").touch()
        (folder / "firmware").mkdir()

    folder = cache.store("qemu-1", fill)
    kit = qemu_kit.find_qemu()
    assert kit is not None
    assert kit.command == (
        f"{folder}/lib/ld-linux-x86-64.so.2",
        *("--library-path", f"{folder}/lib", f"{folder}/qemu-system-x86_64", "-L", f"{folder}/firmware"),
    )
    (folder / "lib/ld-linux-x86-64.so.2").write_text("#!/bin/sh\n")
    assert qemu_kit.find_qemu() is None


def test_qemu_that_does_not_run_is_not_used(machine: Path) -> None:
    script(machine / "qemu-system-x86_64", "exit 1")
    assert qemu_kit.installed_qemu() is None
    (machine / "qemu-system-x86_64").write_bytes(b"\x7fELF")
    assert qemu_kit.installed_qemu() is None


def test_says_what_is_missing_for_a_download(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GuestUnavailable, match="no apt-get to fetch them"):
        qemu_kit.obtain_qemu()
    for name in ("apt-get", "dpkg-deb"):
        script(machine / name, "exit 0")
    with pytest.raises(GuestUnavailable, match="name no mirror of Debian"):
        qemu_kit.obtain_qemu()
    script(machine / "apt-get", "echo \"'http://mirror.example/debian/dists/trixie/InRelease' x 0 \"")
    debian.KEYRING.unlink()
    with pytest.raises(GuestUnavailable, match="lack debian-archive-keyring"):
        qemu_kit.obtain_qemu()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(GuestUnavailable, match="not aarch64"):
        qemu_kit.obtain_qemu()


def test_useless_remedy_is_not_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a QEMU installed, the kernel would still be lacking."""
    with pytest.raises(GuestUnavailable, match="mend it with: a machine with Debian's apt"):
        qemu_kit.obtain_qemu()
    for name in ("apt-get", "dpkg-deb"):
        script(machine / name, "exit 0")
    with pytest.raises(GuestUnavailable, match=r"mend it with: a source of Debian's in /etc"):
        qemu_kit.obtain_qemu()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(
        GuestUnavailable, match=r"cannot write below /dev/null/vnic: Not a dir.*: export XDG_CACHE_"
    ):
        qemu_kit.obtain_qemu()


# Downloads stand-ins: a .deb here is a file with the name of the folder to unpack.
APT_GET = """\
case "$*" in
*--print-uris*) echo "'http://mirror.example/debian/dists/bookworm/InRelease' x 0 ";;
*" download linux-image-amd64") : >linux-image-amd64.deb;;
*" download linux-image-6.12.1-amd64") echo kernel >kernel.deb;;
*" install "*) echo "$@" >"$CALLS"; echo root >all.deb;;
esac
"""
DPKG_DEB = """\
case "$1" in
-f) echo "linux-image-6.12.1-amd64 (= 6.12.1-1)";;
-x) read -r name <"$2"; /bin/cp -r "$PACKAGES/$name/." "$3";;
esac
"""


@pytest.fixture
def packages(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpacked packages, and an apt-get and a dpkg-deb that know them."""
    script(machine / "apt-get", APT_GET)
    script(machine / "dpkg-deb", DPKG_DEB)
    folder = tmp_path / "packages"
    monkeypatch.setenv("PACKAGES", str(folder))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    loader = 'case "$*" in *--version) ' + says_version("11.1.3") + ";; *)\n"
    loader += "printf '\\tlibz.so.1 => %s/usr/lib/libz.so.1 (0x2)\\n' \"${0%/usr/*}\";; esac"
    script(folder / "root/usr/lib/ld-linux-x86-64.so.2", loader)
    (folder / "root/usr/lib/libz.so.1.3").write_bytes(b"library")
    (folder / "root/usr/lib/libz.so.1").symlink_to("libz.so.1.3")
    for program in ("bin/qemu-system-x86_64", "bin/busybox", "sbin/ethtool", "bin/lspci"):
        script(folder / "root/usr" / program, "")
    (folder / "root/usr/share/firmware").mkdir(parents=True)
    for name in (*qemu_kit.FIRMWARE, "keymaps"):
        (folder / "root/usr/share/firmware" / name).write_bytes(b"firmware")
    (folder / "kernel/boot").mkdir(parents=True)
    (folder / "kernel/boot/vmlinuz-6.12.1-amd64").write_bytes(b"kernel")
    for name in (*qemu_kit.MODULES, "unwanted"):
        (folder / f"kernel/{name}.ko.xz").write_bytes(lzma.compress(b"\0depends=\0"))
    return folder


def test_keeps_of_the_packages_only_what_a_guest_needs(packages: Path, tmp_path: Path) -> None:
    told: list[float] = []
    kit = qemu_kit.obtain_qemu(lambda done, _text: told.append(done))
    assert kit.qemu_version == (11, 1, 3)
    modules = {path.name.removesuffix(".ko.xz") for path in kit.modules_folder.iterdir()}
    assert modules == set(qemu_kit.MODULES)
    assert sorted(path.name for path in kit.tools_folder.iterdir()) == [
        "ethtool", "ld-linux-x86-64.so.2", "libz.so.1", "lspci",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "cache/vnic")) == ["linux-3", "qemu-1"]
    call = (tmp_path / "calls").read_text()
    assert "APT::Default-Release=trixie-backports" in call
    assert call.endswith(" qemu-system-x86 seabios ipxe-qemu busybox-static ethtool pciutils\n")
    assert qemu_kit.find_qemu() == kit


def test_downloads_no_qemu_where_one_is_installed(packages: Path, machine: Path, tmp_path: Path) -> None:
    script(machine / "qemu-system-x86_64", says_version("11.0.0"))
    kit = qemu_kit.obtain_qemu()
    assert kit.command == (str(machine / "qemu-system-x86_64"),)
    assert (tmp_path / "calls").read_text().endswith(" busybox-static ethtool pciutils\n")
    assert not (tmp_path / "cache/vnic/qemu-1").exists()


def test_packages_without_what_is_wanted_are_refused_and_leave_nothing(
    packages: Path, tmp_path: Path
) -> None:
    (packages / "root/usr/share/firmware/bios-256k.bin").unlink()
    with pytest.raises(GuestUnavailable, match=r"hold no bios-256k\.bin"):
        qemu_kit.obtain_qemu()
    assert os.listdir(tmp_path / "cache/vnic") == []
