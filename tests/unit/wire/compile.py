"""Compiles single files of vnic-wire's program into test programs, with sanitizers where the compiler has them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from tests.needs import need

PROGRAM = Path(str(resources.files("vnic"))) / "dataplane" / "wire" / "program"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@functools.cache
def sanitizers(folder: Path) -> tuple[str, ...]:
    """The flags, if a program that is built with them runs here."""
    source, program = folder / "probe.c", folder / "probe"
    source.write_text("int main(void) { return 0; }\n")
    built = subprocess.run(["cc", *SANITIZERS, source, "-o", program], check=False, capture_output=True)
    works = (
        built.returncode == 0 and subprocess.run([program], check=False, capture_output=True).returncode == 0
    )
    return SANITIZERS if works else ()


def compile_program(folder: Path, name: str, *sources: Path) -> Path:
    """A program in `folder` from these files. Skips the test where there is no compiler."""
    need("cc", "exec-tmp")
    program = folder / name
    compiler = shutil.which("cc")
    assert compiler is not None
    options = [*FLAGS, *sanitizers(folder), "-I", str(PROGRAM)]
    command = [compiler, *options, *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program
