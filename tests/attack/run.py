"""Runs all scripts of this folder, one after the other; fails if one does."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 150.0
"""For one script; that is how it ends when vnic hangs."""


def main() -> int:
    failed = []
    for script in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if script.name == "run":
            continue
        print(f"== {script.name}", flush=True)
        began = time.monotonic()
        try:
            code = subprocess.run(
                [sys.executable, "-m", f"tests.attack.{script.name}"], timeout=PATIENCE_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        print(f"   {'held' if code == 0 else 'FAILED'}, {time.monotonic() - began:.1f} s", flush=True)
        if code:
            failed.append(script.name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
