"""The page's files: what they name is there, nothing comes from elsewhere, and the wheel carries them."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "src/vnic/web/static"
PAGE = (STATIC / "index.html").read_text()
MODULES = sorted(STATIC.glob("*.js"))


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r'(?:href|src)="/static/([^"]+)"', PAGE)
    assert {"app.js", "style.css", "icon.svg"} <= set(named)
    assert [name for name in named if not (STATIC / name).is_file()] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_what_a_module_imports_is_there(module: Path) -> None:
    text = module.read_text()
    imported = re.findall(r'^(?:import|export) .*?from "([^"]+)";', text, re.M | re.S)
    for name in imported:
        assert name.startswith("./"), name
        found = re.findall(rf'\{{([^}}]*)\}} from "{re.escape(name)}"', text)
        names = {each.strip() for group in found for each in group.split(",") if each.strip()}
        exported = set(
            re.findall(
                r"^export (?:async )?(?:const|class|function) (\w+)", (STATIC / name).read_text(), re.M
            )
        )
        assert names <= exported, f"{name} does not export {names - exported}"


def test_the_page_loads_all_modules_at_once() -> None:
    """A module that is found only when another one was read costs a trip more before the page is drawn."""
    named = set(re.findall(r'(?:href|src)="/static/([^"]+\.js)"', PAGE))
    assert named == {module.name for module in MODULES}


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    """The content security policy of the server would refuse it."""
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|\beval\(|\bnew Function\b|innerHTML *=|data:", text), (
            file.name
        )
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", PAGE)


def test_the_texts_of_the_page_say_what_its_elements_are_for() -> None:
    """Each button and each field has a name that a screen reader says."""
    for tag in re.findall(r"<(?:input|select)\b[^>]*>", PAGE):
        before = PAGE[: PAGE.index(tag)]
        in_label = before.rfind("<label") > before.rfind("</label>")
        assert in_label or "aria-label=" in tag, tag
    for attributes, text in re.findall(r"<button\b([^>]*)>(.*?)</button>", PAGE):
        assert "aria-label=" in attributes or re.search(r"[A-Za-z]{2}|\d", re.sub(r"<[^>]+>", "", text)), text


def test_ids_are_there_once_and_modules_use_no_others() -> None:
    ids = re.findall(r'\sid="([^"]+)"', PAGE)
    assert len(ids) == len(set(ids))
    used = {name for module in MODULES for name in re.findall(r'byId\("([^"]+)"\)', module.read_text())}
    assert used <= set(ids)


def test_the_wheel_has_the_files() -> None:
    """hatchling takes all files of the package but those that Git ignores or that `exclude` names."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["src/vnic"]
    patterns = [*wheel["exclude"], *(ROOT / ".gitignore").read_text().split()]
    for file in STATIC.iterdir():
        parts = file.relative_to(ROOT).parts
        assert not [each for each in patterns for part in parts if fnmatch.fnmatch(part, each.strip("/"))]
