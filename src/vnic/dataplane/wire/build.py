"""Compiles vnic-wire from `program/`, and vnic-probe, with the system's C compiler, or with zig where there is none.

`make` runs it; the wheel's build hook and the tests call `build`. It imports nothing of vnic, because the hook runs
where vnic is not installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
PROGRAM = FOLDER / "vnic-wire"
"""Where `make` puts the program, and where the wheel has it."""
SOURCES = FOLDER / "program"

FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")

PROBE = FOLDER.parents[1] / "lab" / "rehearse" / "vnic-probe"
"""What `vnic rehearse` puts into guests, which are x86-64: a program of some 2 KiB without a C library."""
PROBE_MACHINE = "x86_64"
PROBE_FLAGS = (
    *(
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-Os",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-s",
        "-nostdlib",
        "-ffreestanding",
    ),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-pie", "-no-pie"),
    *("-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,norelro"),
)
NO_COMPILER = "none"
"""The value of VNIC_CC that forbids all compilers."""
_PIP = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check")
LIMIT_S = 600
"""The time limit of a compiler: zig compiles its C library first, which takes a minute or two."""


class BuildError(Exception):
    """No compiler was found, or none could compile the program; the text says which, and the first lines of why."""


def compilers() -> list[list[str]]:
    """The commands that may compile C here, the preferred first: $VNIC_CC, the system's, zig's."""
    chosen = os.environ.get("VNIC_CC", "")
    if chosen:
        return [] if chosen == NO_COMPILER else [chosen.split()]
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    return [*found[:1], *([zig()] if find_spec("ziglang") else [])]


def zig(target: str = "") -> list[str]:
    """The C compiler of the package ziglang; `target` is a machine and a C library, `aarch64-linux-musl`."""
    return [sys.executable, "-m", "ziglang", "cc", *(["-target", target] if target else [])]


def build(
    target: Path = PROGRAM, *, compiler: Sequence[str] = (), flags: Sequence[str] = ("-static",)
) -> str:
    """Compile vnic-wire into `target`, and return the command that did.

    `compiler` is one of `compilers()`; without it, they are tried in turn. Raises BuildError.
    """
    return _compile(SOURCES, target, compiler, (*FLAGS, *flags))


def build_probe(target: Path = PROBE, *, compiler: Sequence[str] = ()) -> str:
    """The same for vnic-probe."""
    return _compile(_probe_sources(), target, compiler, (*PROBE_FLAGS, "-static"))


def _probe_sources() -> Path:
    return PROBE.with_name("program")


def _compile(source: Path, target: Path, compiler: Sequence[str], flags: Sequence[str]) -> str:
    sources = sorted(str(path) for path in source.rglob("*.c"))
    complaint = "no C compiler was found (cc, or the package ziglang)"
    for command in [list(compiler)] if compiler else compilers():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            line = [*command, *flags, "-o", str(built), *sources]
            try:
                ended = subprocess.run(
                    line, capture_output=True, text=True, errors="replace", timeout=LIMIT_S
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                complaint = f"{command[0]}: {error}"
                continue
            if ended.returncode == 0:
                built.replace(target)
                return " ".join(command)
            complaint = f"{' '.join(command)}: {_first_lines(ended.stderr)}"
    raise BuildError(complaint)


def is_current(target: Path = PROGRAM, sources: Path = SOURCES) -> bool:
    """Whether the program was built from the sources as they are."""
    try:
        built = target.stat().st_mtime
    except FileNotFoundError:
        return False
    return all(path.stat().st_mtime <= built for path in (*sources.rglob("*"), Path(__file__)))


def _first_lines(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines()[:3]) or "it failed without a word"


def fetch_zig() -> None:
    """Install the package ziglang into this environment. BuildError if that fails."""
    uv = shutil.which("uv")
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else [*_PIP, "--retries", "1"]
    line = [*installer, "-q", "ziglang"]
    try:
        ended = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"there is no C compiler, and ziglang cannot be installed: {error}") from None
    if ended.returncode != 0:
        complaint = _first_lines(ended.stderr)
        raise BuildError(f"there is no C compiler, and ziglang cannot be installed: {complaint}")


def main() -> int:
    """Build what is not current. Never fails without arguments: vnic works without the program, only slower."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--machine", help="cross-compile with zig for this architecture, as `uname -m` calls it"
    )
    parser.add_argument(
        "--output", type=Path, default=PROGRAM, help="the program to make (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.machine is not None:
        build(arguments.output, compiler=zig(f"{arguments.machine}-linux-musl"))
        return 0
    if not is_current(arguments.output):
        _build_wire(arguments.output)
    if platform.machine() == PROBE_MACHINE and not is_current(PROBE, _probe_sources()):
        _build_probe()
    return 0


def _build_wire(output: Path) -> None:
    try:
        if not compilers() and os.environ.get("VNIC_CC") != NO_COMPILER:
            print("vnic-wire … no C compiler here: fetching that of zig, some 100 MB")
            fetch_zig()
        print(f"vnic-wire … built with {build(output)}")
    except BuildError as error:
        output.unlink(missing_ok=True)
        print(f"vnic-wire … not built, packets will pass through Python: {error}", file=sys.stderr)


def _build_probe() -> None:
    try:
        print(f"vnic-probe … built with {build_probe()}")
    except BuildError as error:
        PROBE.unlink(missing_ok=True)
        print(f"vnic-probe … not built, `vnic rehearse` will not work: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
