"""The wheel's build hook: compiles vnic-wire and vnic-probe into it, and names the architecture that it is for.
It adds the man pages that `make man` made.

hatchling calls it. Where no C compiler can be had, the wheel is one for all machines, without the programs.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MANYLINUX = "manylinux_2_17"
"""The oldest tag that pip knows for all architectures; a static program needs no C library at all."""


class WireHook(BuildHookInterface[Any]):
    """Builds the programs; they have no Python in them, so one wheel serves all Pythons."""

    def _builder(self) -> dict[str, Any]:
        return runpy.run_path(str(Path(self.root) / "src/vnic/dataplane/wire/build.py"))

    def dependencies(self) -> list[str]:
        builder = self._builder()
        has_compiler = builder["compilers"]() or os.environ.get("VNIC_CC") == builder["NO_COMPILER"]
        return [] if has_compiler else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # `make` compiles it in place
        man = Path(self.root) / "build" / "man"  # of `make man`
        for page in sorted(man.glob("man*/*")):
            build_data["shared_data"][str(page)] = f"share/man/{page.parent.name}/{page.name}"
        builder = self._builder()
        self._folder = tempfile.mkdtemp()
        program = Path(self._folder) / builder["PROGRAM"].name
        machine = os.environ.get("VNIC_MACHINE", platform.machine())
        compiler = builder["zig"](f"{machine}-linux-musl") if machine != platform.machine() else ()
        try:
            builder["build"](program, compiler=compiler)
        except builder["BuildError"] as error:
            self.app.display_warning(f"the wheel is without vnic-wire: {error}")
            return
        build_data["force_include"][str(program)] = "vnic/dataplane/wire/vnic-wire"
        if machine == builder["PROBE_MACHINE"]:
            probe = program.with_name(builder["PROBE"].name)
            builder["build_probe"](probe, compiler=compiler)
            build_data["force_include"][str(probe)] = "vnic/lab/rehearse/vnic-probe"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{MANYLINUX}_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self._folder)
