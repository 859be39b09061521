"""The order of the packages: each imports only what stands before it. No circles, and the lower half knows no I/O."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "vnic"

ORDER = (
    *(
        "errors",
        "descriptors",
        "threads",
        "open_files",
        "lifecycle",
        "printable",
        "plainfile",
        "quota",
        "record",
        "keep",
        "memory",
        "net",
        "pci",
        "virtio",
        "dataplane",
        "nic",
        "protocol",
    ),
    *(
        "observe",
        "children",
        "sandbox",
        "scratch",
        "pidfile",
        "keeper",
        "sockets",
        "state",
        "chardev",
        "backend",
        "dataplane.wire",
        "follow",
        "adopt",
        "filter",
        "attach",
        "monitor",
    ),
    *("machine", "web", "cli", "lab", "api", "aio", "mcp", "pytest_plugin", "reference", "__main__"),
)
"""All packages and top-level modules, the lowest first."""

INNER = ("dataplane.wire",)
"""Packages within another that have a place of their own: this one speaks to vnic-wire, and is no data plane itself."""

MODELS = (
    *("eepro100", "ne2k_pci", "pcnet", "tulip", "virtio_net", "vmxnet3"),
    *("intel/e1000", "intel/e1000e", "intel/igb"),
)
"""The folders of NIC models below nic/."""

PURE = ("memory", "net", "pci", "virtio", "dataplane", "nic", "protocol")
IO = {"asyncio", "socket", "selectors", "select", "subprocess", "threading", "multiprocessing"}


@cache
def modules() -> dict[str, Path]:
    """All modules of vnic by their names; a package is its __init__."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that one imports, also for types only or when it runs; of others' packages, their first name."""
    path = modules()[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names.update(
                f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in modules() else origin
                for alias in node.names
            )
    return frozenset(name if name in modules() else name.split(".")[0] for name in names)


def own_imports(module: str) -> Iterator[str]:
    return (name for name in imports(module) if name.startswith("vnic."))


def place(module: str) -> str:
    """The package or top-level module that a module belongs to."""
    name = module.removeprefix("vnic.")
    return next((each for each in INNER if name == each or name.startswith(f"{each}.")), name.split(".")[0])


def test_the_order_names_all() -> None:
    assert {place(module) for module in modules() if module != "vnic"} == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_what_stands_before_it(package: str) -> None:
    before = set(ORDER[: ORDER.index(package) + 1])
    for module in modules():
        if module != "vnic" and place(module) == package:
            above = {name for name in own_imports(module) if place(name) not in before}
            assert not above, f"{module} imports {above}"


def test_no_file_is_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way[way.index(module) :], module))
        if module not in done:
            for name in own_imports(module):
                visit(name, (*way, module))
            done.add(module)

    for module in modules():
        visit(module, ())


def reaches_io(module: str) -> tuple[str, ...]:
    """The shortest way by which a module comes to I/O; empty where it does not."""
    ways: deque[tuple[str, ...]] = deque([(module,)])
    seen = {module}
    while ways:
        way = ways.popleft()
        if own := imports(way[-1]) & IO:
            return (*way, min(own))
        for name in own_imports(way[-1]):
            if name not in seen:
                seen.add(name)
                ways.append((*way, name))
    return ()


@pytest.mark.parametrize("package", PURE)
def test_the_lower_half_knows_no_io(package: str) -> None:
    """Also not through what it imports."""
    for module in modules():
        if module != "vnic" and place(module) == package:
            assert not reaches_io(module), " → ".join(reaches_io(module))


def test_files_stay_small() -> None:
    """A file past 450 lines wants a cut where the design names one."""
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path


def test_a_nic_models_folder_is_short() -> None:
    """At most 1 200 lines, so that it reads like its datasheet; what several need is beside it in nic/."""
    for folder in MODELS:
        lines = sum(len(path.read_text().splitlines()) for path in (SOURCE / "nic" / folder).rglob("*.py"))
        assert lines <= 1200, f"{folder}: {lines}"
