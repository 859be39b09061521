"""The scripts of examples/, each in network and mount namespaces of its own, and its tests of failing over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.guests.script import run_script
from tests.integration.process import new_place

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = pytest.mark.needs("namespaces", "ip", "uml", "exec-tmp")


def run(name: str) -> dict[str, str]:
    """What the script tells, by the headings that it prints."""
    with new_place() as place:
        output = run_script(place, EXAMPLES / name)
        assert place.files() == []
    parts = output.split("\n# ")[1:]
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


@SCRIPTS
def test_containers_veth() -> None:
    said = run("container-veth")
    assert "NO-CARRIER" in said["no VM yet: the other end has no carrier"]
    assert "1 received" in said["the VM has come"]
    pulled = said["its link is pulled"]
    assert pulled.index("NO-CARRIER") < pulled.index("LOWER_UP")
    held = "held by uplink on net0: interface eth1 of network namespace vnic-container is lowerlayerdown"
    assert held in said["the other end is set down"]
    assert "NO-CARRIER" in said["the VM is ended"]


@SCRIPTS
def test_two_hosts() -> None:
    said = run("two-hosts")
    assert "10.9.0.2:4789 refuses" in said["host a alone: the far end is not there"]
    assert " 0% packet loss" in said["host b has come"]
    assert "the far end at 10.9.0.2:4789 says down (2)" in said["the link is pulled at b"]
    assert "held by far-end on a.eth1-end: " in said["the vnic of host b is killed"]
    assert "nothing heard from 10.9.0.2:4789 for " in said["the network is cut"]
    assert "a:eth1 ── cable:b\tup" in said["the network is cut"]


@pytest.mark.needs("uml", "ip")
@pytest.mark.parametrize(
    "name",
    [
        "bonding",
        pytest.param("frr_bfd", marks=pytest.mark.needs("frr")),
        pytest.param("keepalived", marks=pytest.mark.needs("keepalived")),
        pytest.param("networkd", marks=pytest.mark.needs("networkd")),
    ],
)
def test_failover(name: str) -> None:
    with new_place() as place:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"{EXAMPLES}/failover/test_{name}.py",
            ],
            cwd=place.folder,
            env=place.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert place.files() == []
