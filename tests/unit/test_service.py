"""The unit template of systemd: it is right, and says what vnic relies on."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.needs import beside_python

from vnic.cli.kept import LEAVES
from vnic.keeper.supervisor import EXIT_LEFT

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "vnic@.service"


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.needs("systemd")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = beside_python("vnic") or sys.executable
    instance = tmp_path / "vnic@lab.service"
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("ExecStart=vnic ", f"ExecStart={program} "))
    instance.symlink_to(UNIT.name)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(instance)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_restarts_by_the_signal_and_the_exit_code_that_vnic_has() -> None:
    unit = settings()
    assert signal.Signals[unit["RestartKillSignal"][0]] == LEAVES
    assert unit["RestartForceExitStatus"] == unit["SuccessExitStatus"] == [str(EXIT_LEFT)]
    assert unit["KillMode"] == ["process"]


def test_the_wheel_has_the_unit_where_systemd_looks_for_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {str(UNIT.relative_to(ROOT)): f"lib/systemd/system/{UNIT.name}"}
