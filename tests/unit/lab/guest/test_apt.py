"""apt-get and dpkg-deb, played by scripts: arguments, progress, and errors that name the reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.needs import need

from vnic.lab.guest.apt import Apt, apt_available, unpack
from vnic.lab.guest.errors import GuestUnavailable

# Finds the descriptor for its progress in its arguments, as apt-get does.
APT_GET = """#!/bin/sh
for word; do case "$word" in APT::Status-Fd=*) fd=${word#*=};; esac; done
echo "$@" >>"$CALLS"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH besides the shell's own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    need("exec-tmp")
    (folder / name).chmod(0o755)


def test_downloads_into_the_folder_and_tells_the_progress(tools: Path, tmp_path: Path) -> None:
    lines = "dlstatus:1:0:Retrieving file 1 of 2\\ndlstatus:2:50.5:Retrieving file 2 of 2\\n"
    script(tools, "apt-get", APT_GET + f"printf '{lines}' >/proc/self/fd/$fd\ntouch b.deb a.deb\n")
    told: list[tuple[float, str]] = []
    found = Apt().download(["a", "b"], tmp_path, lambda done, text: told.append((done, text)))
    assert found == [tmp_path / "a.deb", tmp_path / "b.deb"]
    assert told == [(0.0, "Retrieving file 1 of 2"), (0.505, "Retrieving file 2 of 2")]
    assert (tmp_path / "calls").read_text().endswith(" download a b\n")


def test_names_the_reason_and_the_remedy(tools: Path, tmp_path: Path) -> None:
    script(tools, "apt-get", "#!/bin/sh\necho 'E: Unable to locate package zz' >&2\nexit 100\n")
    with pytest.raises(GuestUnavailable) as error:
        Apt().download(["zz"], tmp_path)
    assert str(error.value).startswith(
        "apt-get download zz failed: Unable to locate package zz; mend it with: "
    )


def test_names_the_mirror_that_the_lists_did_not_come_from(tools: Path, tmp_path: Path) -> None:
    script(
        tools,
        "apt-get",
        APT_GET
        + 'case "$*" in *update) echo "W: Failed to fetch http://mirror/x  Cannot resolve" >&2; exit 0;; esac\n'
        "echo 'E: Unable to locate package zz' >&2; exit 100\n",
    )
    private = Apt.private(tmp_path / "lists")
    private.update()
    with pytest.raises(GuestUnavailable, match="Failed to fetch http://mirror/x  Cannot resolve"):
        private.download(["zz"], tmp_path)


def test_a_private_state_lies_in_its_folder(tools: Path, tmp_path: Path) -> None:
    script(tools, "apt-get", APT_GET)
    Apt.private(tmp_path / "lists", "Types: deb\n").update()
    call = (tmp_path / "calls").read_text()
    root = tmp_path / "lists"
    assert f"Dir::State={root}/state" in call
    assert f"Dir::Etc::sourceparts={root}/sources.list.d" in call
    assert (root / "sources.list.d/extra.sources").read_text() == "Types: deb\n"


def test_says_which_archive_does_not_unpack(tools: Path, tmp_path: Path) -> None:
    script(tools, "dpkg-deb", "#!/bin/sh\necho 'not a Debian archive' >&2\nexit 2\n")
    with pytest.raises(GuestUnavailable, match=r"cannot unpack x\.deb: not a Debian archive"):
        unpack([tmp_path / "x.deb"], tmp_path)


def test_knows_when_there_is_no_apt(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tools))
    assert not apt_available()
    script(tools, "apt-get", APT_GET)
    script(tools, "dpkg-deb", APT_GET)
    assert apt_available()


def test_what_the_progress_raises_ends_apt_get(tools: Path, tmp_path: Path) -> None:
    line = "dlstatus:1:0:Retrieving file 1 of 2\\n"
    script(tools, "apt-get", APT_GET + f"printf '{line}' >/proc/self/fd/$fd\nexec sleep 60\n")

    def break_off(_done: float, _text: str) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Apt().download(["a"], tmp_path, break_off)
    assert time.monotonic() - started < 30
