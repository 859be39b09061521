"""`vnic lab` with one UML and one QEMU guest: a cable pulled at either end is seen by the driver at the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.process import new_place

LAB = """\
name: mixed
nodes: {u: {kind: uml}, q: {kind: qemu, model: e1000}}
links:
  - endpoints: ["u:eth1", "q:lan0"]
    ipv4: [10.0.1.1/24, 10.0.1.2/24]
"""


@pytest.mark.needs("uml", "qemu-guest")
def test_a_cable_between_uml_and_qemu(tmp_path: Path) -> None:
    file = tmp_path / "mixed.yml"
    file.write_text(LAB)
    with new_place() as place:

        def verb(*words: str) -> str:
            done = place.command(*words, timeout=300)
            assert done.returncode == 0, done.stderr
            return done.stdout

        verb("lab", "up", str(file))
        try:
            assert " 0% packet loss" in verb("lab", "exec", "q", "ping -c 1 -W 30 10.0.1.1")
            for near, far in (("u.eth1", ("q", "lan0")), ("q.lan0", ("u", "eth1"))):
                verb("link", "set", near, "down")
                verb("lab", "exec", far[0], f"wait_carrier {far[1]} 0 60")
                verb("link", "set", near, "up")
                verb("lab", "exec", far[0], f"wait_carrier {far[1]} 1 60")
        finally:
            verb("lab", "down")
        assert place.files() == []
