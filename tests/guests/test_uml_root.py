"""A User-Mode Linux whose root is a folder of this machine: its programs run, and what the guest writes stays there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vnic.lab.guest import kit
from vnic.lab.guest.errors import BootFailed, GuestError
from vnic.lab.guest.uml import UmlGuest

pytestmark = pytest.mark.needs("uml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a shell, which stands for a whole system."""
    found = kit.find_uml()
    assert found is not None
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(found.busybox, folder / "bin/busybox")
    (folder / "bin/sh").symlink_to("/bin/busybox")
    (folder / "etc").mkdir()
    (folder / "etc/motd").write_text("of the host\n")
    return folder


def paths(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def test_what_the_guest_writes_stays_in_the_guest(root: Path) -> None:
    before = paths(root)
    with UmlGuest(root=root, files={"/etc/issue": b"of the test\n"}) as guest:
        assert guest.run("cat /etc/motd /etc/issue") == "of the host\nof the test"
        guest.run("echo changed >/etc/motd; mkdir /var; echo new >/var/new; rm /etc/issue")
        assert guest.run("cat /etc/motd; ls /etc") == "changed\nmotd"
        assert guest.try_run("exit 3").status == 3
        assert guest.wait_carrier(True, "lo")
        assert not guest.wait_carrier(False, "lo", timeout=0)
        # Of its own, although the folder has none of them.
        own = guest.run("while read -r _ folder type _; do echo $folder $type; done </proc/mounts").split(
            "\n"
        )
        assert {"/dev devtmpfs", "/proc proc", "/run tmpfs", "/sys sysfs", "/tmp tmpfs"} <= set(own)
    assert paths(root) == before
    assert (root / "etc/motd").read_text() == "of the host\n"


def test_a_root_without_a_shell_is_said(root: Path) -> None:
    (root / "bin/sh").unlink()
    with pytest.raises(BootFailed, match="the root has no /bin/sh"), UmlGuest(root=root):
        pass


@pytest.mark.parametrize(
    ("name", "text"), [("none", "is not a folder"), ("a,b", "the kernel cannot take"), ("a b", "the kernel")]
)
def test_a_root_that_cannot_be_is_refused_before_the_boot(tmp_path: Path, name: str, text: str) -> None:
    if name != "none":
        (tmp_path / name).mkdir()
    with pytest.raises(GuestError, match=text):
        UmlGuest(root=tmp_path / name)
