"""`vnic doctor`: its findings on machines with and without the parts that vnic uses, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.needs import need

from vnic.cli.main import main
from vnic.lab import doctor
from vnic.lab.doctor import Finding


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    """The findings on this machine; apt and testpmd take their time."""
    return [check() for check in doctor.CHECKS]


@pytest.fixture
def here(found: list[Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks return these at once."""
    monkeypatch.setattr(doctor, "CHECKS", [lambda finding=finding: finding for finding in found])


@pytest.mark.usefixtures("here")
def test_this_machine_can_run_vnic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("has   python ")
    assert "vnic works here" in said.splitlines()[-1]


@pytest.mark.usefixtures("here")
def test_json_has_every_finding_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [finding["name"] for finding in findings][:3] == ["python", "system", "libraries"]
    assert all(set(finding) == {"name", "has", "detail", "use", "mend", "required"} for finding in findings)


@pytest.mark.parametrize(("required", "code"), [(True, 1), (False, 0)])
def test_fails_only_for_what_vnic_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: bool, code: int
) -> None:
    finding = Finding("tool", False, "it is not there", "something", "apt-get install tool", required)
    monkeypatch.setattr(doctor, "CHECKS", (lambda: finding,))
    assert main(["doctor"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("LACKS" if required else "lacks") + " tool  it is not there"
    assert lines[2].strip() == "mend it with: apt-get install tool"


def test_on_an_empty_machine_every_lack_comes_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    findings = {finding.name: finding for finding in (check() for check in doctor.CHECKS)}
    for name in ("passt", "testpmd", "tshark"):
        assert not findings[name].has
        assert "with this system's package manager" in findings[name].mend
    assert findings["User-Mode Linux"].mend == "vnic demo"
    assert all(finding.mend for finding in findings.values() if not finding.has)


APT_CACHE = """\
case "$*" in
policy) echo " 500 http://mirror.example/debian trixie/main amd64 Packages";;
"policy qemu-system-x86") printf 'qemu-system-x86:\\n  Installed: (none)\\n  Candidate: 1:11.1.2+ds-3\\n';;
"pkgnames librte-net-virtio") printf 'librte-net-virtio25\\nlibrte-net-virtio-dev\\n';;
"pkgnames librte-net-vhost") echo librte-net-vhost25;;
"pkgnames tshark") ;;
"pkgnames "*) echo "$2";;
esac
"""


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with apt, whose sources have no tshark; returns its folder for programs."""
    for name, text in {"apt-get": "", "apt-cache": APT_CACHE}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return tmp_path


@pytest.mark.needs("exec-tmp")
def test_only_what_the_package_sources_have_is_recommended(apt: Path) -> None:
    assert doctor.check_passt().mend == "sudo apt-get install passt"
    assert doctor.check_testpmd().mend == (
        "sudo apt-get install dpdk-dev librte-net-virtio25 librte-net-vhost25"
    )
    assert doctor.check_tshark().mend == "nothing: this machine's package sources have no tshark"
    assert doctor.check_qemu().mend == "sudo apt-get install qemu-system-x86"


@pytest.mark.needs("exec-tmp")
def test_without_package_lists_they_come_first(apt: Path) -> None:
    (apt / "apt-cache").write_text("#!/bin/sh\n")
    assert doctor.check_passt().mend == "sudo apt-get update, then vnic doctor again"


@pytest.mark.parametrize(
    ("release", "mend"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "trixie"}, "apt-get install -t trixie-backports"),
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "install QEMU 10.1 or later"),
        ({"ID": "fedora"}, "install QEMU 10.1 or later"),
    ],
)
def test_apt_is_named_for_qemu_only_where_it_has_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: dict[str, str], mend: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert mend in doctor.check_qemu().mend


@pytest.mark.parametrize(
    ("says", "has"),
    [("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", False), ("QEMU emulator version 11.1.3", True)],
)
def test_knows_which_qemu_speaks_vfio_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str, has: bool
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    need("exec-tmp")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = doctor.check_qemu()
    assert finding.has is has
    assert ("too old" in finding.detail) is not has


def test_a_program_without_a_version_is_still_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "passt").write_text("#!/bin/sh\necho passt unknown version\necho GPL version 3.0\n")
    need("exec-tmp")
    (tmp_path / "passt").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_passt().has
    assert doctor.check_passt().detail.endswith(", which does not tell its version")
