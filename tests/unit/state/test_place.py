"""Where journals are, and whose folders and files are taken."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vnic.state.place import Unusable, default_path, folder, journals, make_file, make_folder


def test_folder_for_state_is_xdgs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path("lab") == tmp_path / "vnic" / "lab.db"


@pytest.mark.parametrize("state", [None, "", "relative/folder"])
@pytest.mark.parametrize(("user", "expected"), [(0, "/var/lib/vnic"), (1000, "/h/.local/state/vnic")])
def test_without_it_root_and_users_have_their_own(
    monkeypatch: pytest.MonkeyPatch, state: str | None, user: int, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setattr("os.geteuid", lambda: user)
    if state is None:
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", state)
    assert folder() == Path(expected)


def test_user_without_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    with pytest.raises(Unusable, match="no home folder"):
        folder()
    assert journals() == {}


def test_made_folder_is_private(tmp_path: Path) -> None:
    made = tmp_path / "state" / "vnic"
    make_folder(made)
    make_folder(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    make_folder(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Unusable, match="is not a folder"):
        make_folder(tmp_path / "link")
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Unusable, match="belongs to another user"):
        make_folder(tmp_path)
    with pytest.raises(Unusable, match=r"j\.db belongs to another user"):
        make_file(tmp_path / "j.db")


def test_journals_are_listed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert journals() == {}
    make_folder(folder())
    for name in ("b.db", "a.db", "a.db-wal", "a.db.lock"):
        (folder() / name).touch()
    assert journals() == {"a": folder() / "a.db", "b": folder() / "b.db"}
