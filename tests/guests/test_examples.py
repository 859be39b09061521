"""The scripts of examples/, each in network and mount namespaces of its own: they end well, and say what they show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.process import Place, new_place

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 240.0
"""Some guests boot, one after the other."""

pytestmark = pytest.mark.needs("namespaces", "ip", "uml")


def run(place: Place, name: str) -> str:
    """What the script prints. It finds the namespaces that it makes in a /run of its own, and this vnic by PATH."""
    programs = place.folder / "bin"
    programs.mkdir()
    vnic = programs / "vnic"
    vnic.write_text(f'#!/bin/sh\nexec {sys.executable} -m vnic "$@"\n')
    vnic.chmod(0o700)
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", 'mount -t tmpfs none /run && exec "$0"', str(EXAMPLES / name)],
        env={**place.environment, "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(place.folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert place.files() == ["vnic"], "it leaves nothing"
    return done.stdout


def told(output: str) -> dict[str, str]:
    """What is told below each heading."""
    parts = output.split("\n# ")[1:]
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.needs("exec-tmp")
def test_containers_veth() -> None:
    with new_place() as place:
        said = told(run(place, "container-veth"))
    assert "NO-CARRIER" in said["no VM yet: the other end has no carrier"]
    assert "1 received" in said["the VM has come"]
    pulled = said["its link is pulled"]
    assert pulled.index("NO-CARRIER") < pulled.index("LOWER_UP")
    held = "held by uplink on net0: interface eth1 of network namespace vnic-container is lowerlayerdown"
    assert held in said["the other end is set down"]
    assert "NO-CARRIER" in said["the VM is ended"]


@pytest.mark.needs("exec-tmp")
def test_two_hosts() -> None:
    with new_place() as place:
        said = told(run(place, "two-hosts"))
    assert "10.9.0.2:4789 refuses" in said["host a alone: the far end is not there"]
    assert " 0% packet loss" in said["host b has come"]
    assert "the far end at 10.9.0.2:4789 says down (2)" in said["the link is pulled at b"]
    assert "held by far-end on a.eth1-end: " in said["the vnic of host b is killed"]
    assert "nothing heard from 10.9.0.2:4789 for " in said["the network is cut"]
    assert "a:eth1 ── cable:b\tup" in said["the network is cut"]
