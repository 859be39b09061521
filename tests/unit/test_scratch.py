"""Temporary folders go with their makers: in order, or at the next start where the maker was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vnic.scratch import LOCK_NAME, ScratchFolder, remove_leftovers

SOURCE = Path(__file__).parents[2] / "src"

MAKER = """
import sys
from pathlib import Path
from vnic.scratch import ScratchFolder
folder = ScratchFolder("vnic-guest-", Path(sys.argv[1]))
(folder.path / "initrd").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_folder_is_removed(tmp_path: Path) -> None:
    folder = ScratchFolder("vnic-guest-", tmp_path)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_killed_maker_is_removed_at_next_start(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    ) as maker:
        assert maker.stdout is not None
        path = Path(maker.stdout.readline().strip())
        remove_leftovers(tmp_path)
        assert (path / "initrd").exists(), "its maker lives"
        maker.kill()
        maker.wait()
        remove_leftovers(tmp_path)
        assert not path.exists()


def test_other_folders_stay(tmp_path: Path) -> None:
    """Folders without a lock file, of other names, and links."""
    (tmp_path / "vnic-guest-older").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / LOCK_NAME).touch()
    (tmp_path / "vnic-guest-link").symlink_to(other)
    fifo = tmp_path / "vnic-passt-fifo"
    fifo.mkdir()
    os.mkfifo(fifo / LOCK_NAME)
    linked = tmp_path / "vnic-demo-linked"
    linked.mkdir()
    (linked / LOCK_NAME).symlink_to(other / LOCK_NAME)
    before = sorted(tmp_path.rglob("*"))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    remove_leftovers(tmp_path / "none")
