"""A guest's memory file is put where vnic takes it from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from vnic.lab.guest import memory_folder as module
from vnic.lab.guest.memory_folder import memory_folder, memory_folders


def test_memory_folder_is_on_tmpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the files made there; `seals_of` is that of descriptors, which has its own tests."""
    disk, memory = tmp_path / "disk", tmp_path / "memory"
    for folder in (disk, memory):
        folder.mkdir()
    monkeypatch.setattr(module, "FOLDERS", (str(tmp_path / "missing"), str(disk), str(memory)))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(disk))

    def seals_of(fd: int) -> int | None:
        return 0 if os.readlink(f"/proc/self/fd/{fd}").startswith(str(memory)) else None

    monkeypatch.setattr(module, "seals_of", seals_of)
    assert [folder for folder, _ in memory_folders()] == [str(memory)]


@pytest.mark.parametrize(
    ("rooms", "folder"),
    [
        ({"/a": 200, "/b": 300}, "/a"),
        ({"/a": 64, "/b": 300}, "/b"),
        ({"/a": 64, "/b": 32}, "/a"),
        ({}, None),
    ],
)
def test_memory_folder_is_the_first_with_room_or_the_largest(
    rooms: dict[str, int], folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "memory_folders", rooms.items)
    assert memory_folder(128) == folder
