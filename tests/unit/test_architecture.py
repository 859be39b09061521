"""The imports point one way: the pure packages know no socket and no event loop, and nothing below imports above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "vnic"

PURE = ("net", "nic", "virtio", "pci", "protocol")
IMPURE_MODULES = {"asyncio", "socket", "selectors", "subprocess", "threading"}

BELOW = {
    "net": {"net", "dataplane"},
    "protocol": {"protocol", "net", "virtio"},
    "virtio": {"virtio", "net", "pci", "nic"},
    "pci": {"pci", "net", "virtio"},
    "nic": {"nic", "net", "virtio", "pci", "dataplane"},
    "dataplane": {"dataplane", "net", "nic", "virtio"},
    "sockets": {"sockets", "net"},
    "backend": {"backend", "net", "protocol", "nic", "virtio", "dataplane", "sockets"},
    "filter": {"filter", "net", "backend", "dataplane"},
    "attach": {"attach", "sockets", "net", "nic", "virtio", "pci", "protocol"},
    "monitor": {"monitor", "net", "protocol", "sockets"},
}
"""Which packages of vnic a package may import."""


def imports(path: Path) -> set[str]:
    """The absolute names of all that a module imports when it is loaded or run."""
    package = ["vnic", *path.relative_to(SOURCE).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_import_no_io(package: str) -> None:
    for path in (SOURCE / package).rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & IMPURE_MODULES, path


@pytest.mark.parametrize("package", BELOW)
def test_packages_import_only_what_is_below(package: str) -> None:
    for path in (SOURCE / package).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "vnic" and len(parts) > 1 and (SOURCE / parts[1]).is_dir():
                assert parts[1] in BELOW[package], f"{path} imports {name}"


def test_files_stay_small() -> None:
    """A file past 450 lines wants a cut where the design names one."""
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path
