"""The documents say what is: names, files, commands and option strings in them exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from vnic.backend import NETDEVS
from vnic.chardev.flat import FLAT_CHARDEVS
from vnic.cli.main import VERBS
from vnic.cli.options import _FLAGS, _WITH_ARGUMENT, parse_run
from vnic.filter import OBJECTS, object_structs
from vnic.machine.nics import DEVICES, device_structs
from vnic.monitor.commands import COMMANDS
from vnic.monitor.events import EVENTS
from vnic.monitor.hmp import help_text
from vnic.monitor.schema import (
    convert_to_shape,
    device_options,
    netdev_options,
    object_options,
    parse_flat_chardev,
)
from vnic.net.records import HoldKind

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/manual.md",
    "docs/follow-one-link-change.md",
    "docs/adopt.md",
    "docs/install.md",
    "docs/labs.md",
    "docs/mcp.md",
    "docs/models.md",
    "docs/page.md",
    "docs/performance.md",
    "docs/python.md",
    "docs/terminal.md",
    "SECURITY.md",
)
MANUAL = (ROOT / "docs/manual.md").read_text()


def links(document: str) -> Iterator[tuple[str, str]]:
    """Text and target of a document's links within the repository."""
    for text, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", (ROOT / document).read_text()):
        if "://" not in target:
            yield text, target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for _, target in links(document):
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_code_is_in_the_named_file(document: str) -> None:
    for text, target in links(document):
        if not target.endswith(".py") or not re.fullmatch(r"`[A-Za-z_.]+`", text):
            continue
        source = ((ROOT / document).parent / target).read_text()
        *classes, name = text.strip("`").split(".")
        for each in classes:
            assert re.search(rf"^class {each}\b", source, re.M), f"{text} in {target}"
        assert re.search(rf"^\s*(class|def|async def) {name}\b", source, re.M), f"{text} in {target}"


def commands(document: str) -> Iterator[list[str]]:
    """The `vnic …` lines of a document's code blocks, their continuation lines joined."""
    for block in re.findall(r"```\w*\n(.*?)```", (ROOT / document).read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("vnic ", "$ vnic ")) and "[" not in line:
                yield shlex.split(line.removeprefix("$ "))[1:]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_taken(document: str) -> None:
    for verb, *words in commands(document):
        assert verb == "run" or verb in VERBS
        if verb == "run":
            check_run([word for word in words if word != "--keep"])  # the supervisor's


def check_run(words: list[str]) -> None:
    """As `vnic run` checks its options before it makes anything of them."""
    options = parse_run(words)
    kinds = (
        (options.netdevs, netdev_options({name: row.options for name, row in NETDEVS.items()})),
        (options.devices, device_options(device_structs())),
        (options.objects, object_options(object_structs())),
    )
    for settings, shape in kinds:
        for setting in settings:
            made = cast(msgspec.Struct, convert_to_shape(shape, setting.tree, strings=not setting.typed))
            assert made is not None
    for setting in options.chardevs:
        assert parse_flat_chardev(setting.tree)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["run", *VERBS], id="verbs"),
        pytest.param([f"-{name}" for name in (*_FLAGS, *_WITH_ARGUMENT) if name != "help"], id="options"),
        pytest.param(NETDEVS, id="netdevs"),
        pytest.param(DEVICES, id="devices"),
        pytest.param(OBJECTS, id="objects"),
        pytest.param(FLAT_CHARDEVS, id="chardevs"),
        pytest.param(COMMANDS, id="qmp"),
        pytest.param(EVENTS, id="events"),
        pytest.param(HoldKind, id="holds"),
        pytest.param(
            {line.split()[0].partition("|")[0] for line in help_text([]).splitlines()}, id="human monitor"
        ),
    ],
)
def test_the_manual_names_all(names: list[str]) -> None:
    prose = re.sub(r"```.*?```", "", MANUAL, flags=re.S)
    said = set(re.findall(r"-?[A-Za-z0-9_-]+", " ".join(re.findall(r"`([^`]+)`", prose))))
    assert not [name for name in names if name not in said]


def test_no_path_of_somebodys_machine_is_in_them() -> None:
    for document in DOCUMENTS:
        assert not re.search(r"/(root|home|work)/", (ROOT / document).read_text()), document
