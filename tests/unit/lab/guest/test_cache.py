"""The cache folder: entries are whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vnic.lab.guest import cache, kit, qemu_kit
from vnic.lab.guest.errors import GuestUnavailable
from vnic.scratch import LOCK_NAME


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def fill(folder: Path) -> None:
    (folder / "usr").mkdir()
    (folder / "usr/kernel").write_bytes(b"kernel")


def test_an_entry_is_found_again_as_it_was_stored() -> None:
    assert cache.entry("uml") is None
    folder = cache.store("uml", fill)
    assert cache.entry("uml") == folder
    assert (folder / "usr/kernel").read_bytes() == b"kernel"


def test_a_file_that_was_cut_short_or_lost_voids_the_entry() -> None:
    folder = cache.store("uml", fill)
    (folder / "usr/kernel").write_bytes(b"ker")
    assert cache.entry("uml") is None
    (folder / "usr/kernel").unlink()
    assert cache.entry("uml") is None
    cache.store("uml", fill)
    assert cache.entry("uml") == folder


@pytest.mark.parametrize("name", [".fresh-a1b2", ".packages-c3d4"])
def test_what_a_killed_download_left_is_removed_by_the_next(cache_home: Path, name: str) -> None:
    left = cache_home / "vnic" / name
    (left / "half").mkdir(parents=True)
    (left / LOCK_NAME).touch()
    another = cache.scratch_folder(".packages-")  # is under way
    assert not left.exists()
    cache.store("uml", fill)
    assert {path.name for path in (cache_home / "vnic").iterdir()} == {"uml", another.path.name}
    another.remove()


def test_corrupt_manifest_voids_the_entry() -> None:
    folder = cache.store("uml", fill)
    (folder / "manifest.json").write_text("{")
    assert cache.entry("uml") is None


def test_a_failed_fill_leaves_nothing_and_keeps_the_old_entry(cache_home: Path) -> None:
    cache.store("uml", fill)

    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.store("uml", fail)
    assert cache.entry("uml") is not None
    assert [path.name for path in (cache_home / "vnic").iterdir()] == ["uml"]


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache.cache_folder() == Path("/home/somebody/.cache/vnic")


@pytest.mark.parametrize("download", [kit.download_kit, qemu_kit.download_kit])
def test_a_download_names_the_folder_it_cannot_write_and_the_way_to_another(
    download: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(kit, "apt_available", lambda: True)
    monkeypatch.setattr(qemu_kit, "require_means", lambda _remedy: None)
    with pytest.raises(GuestUnavailable) as error:
        download()
    assert error.value.what == f"cannot write below {tmp_path}/file/vnic: Not a directory"
    assert error.value.remedy == "export XDG_CACHE_HOME=A_FOLDER_OF_YOURS"
