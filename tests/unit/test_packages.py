"""The Debian package is of this version, and brings the unit that it is to bring."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_debian_package_has_the_projects_version() -> None:
    found = re.match(r"vnic \((.+?)\) ", (ROOT / "debian/changelog").read_text())
    assert found is not None
    assert found[1] == PROJECT["version"]


def test_packages_have_extras_that_there_are() -> None:
    for file in ("debian/rules", "Dockerfile"):
        extras = re.search(r"\[([a-z,]+)\]['\"]", (ROOT / file).read_text())
        assert extras is not None, file
        assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"]), file
