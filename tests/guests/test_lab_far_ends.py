"""`vnic lab` whose links lead out of the lab, or are impaired: examples/veth.yml and examples/wan.yml, with guests."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.guests.script import run_script
from tests.integration.process import Place, new_place, wait_for
from tests.needs import need

EXAMPLES = Path(__file__).parents[2] / "examples"
SITE = f"vnic-site-{os.getpid()}"
FAR = f"vs{os.getpid()}"
"""The veth's end outside of the namespace."""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60).stdout


def has_carrier(name: str = FAR) -> bool:
    return "LOWER_UP" in ip("link", "show", name)


@pytest.fixture
def place() -> Iterator[Place]:
    need("uml")
    with new_place() as made:
        yield made
        assert made.files() == []


def verb(place: Place, *words: str) -> str:
    done = place.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def link(place: Place) -> dict[str, Any]:
    """The lab's only one, as `vnic lab show` has it."""
    [found] = json.loads(verb(place, "lab", "show", "--json"))["links"]
    assert isinstance(found, dict)
    return found


def changed(example: str, folder: Path, *changes: tuple[str, str]) -> str:
    text = (EXAMPLES / example).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / example
    path.write_text(text)
    return str(path)


@pytest.fixture
def site() -> Iterator[None]:
    """A container's veth, as the example's comment makes it."""
    need("namespaces", "ip")
    with ExitStack() as stack:
        ip("netns", "add", SITE)
        stack.callback(ip, "netns", "del", SITE)
        ip("link", "add", "eth1", "netns", SITE, "type", "veth", "peer", "name", FAR)
        stack.callback(ip, "link", "del", FAR)  # a namespace takes its interfaces along later
        ip("-n", SITE, "link", "set", "eth1", "up")
        ip("addr", "add", "198.51.100.2/24", "dev", FAR)
        ip("link", "set", FAR, "up")
        yield


def test_guest_at_a_containers_interface(place: Place, site: None, tmp_path: Path) -> None:
    netns = ("netns: site", f"netns: {SITE}")
    file = changed("veth.yml", tmp_path, netns)
    verb(place, "lab", "up", file)
    try:
        assert " 0% packet loss" in verb(place, "lab", "exec", "router", "ping -c 1 -W 10 198.51.100.2")
        verb(place, "link", "set", "router.eth1", "down", "--wait", "10")
        wait_for(lambda: not has_carrier())
        verb(place, "link", "set", "router.eth1", "up", "--wait", "10")
        wait_for(has_carrier)
        ip("link", "set", FAR, "down")
        verb(place, "lab", "exec", "router", "wait_carrier eth1 0 30")
        assert link(place)["state"] == "down"
        text = f"uplink: interface eth1 of network namespace {SITE} is lowerlayerdown"
        assert link(place)["held"] == [text]
        assert f"router.eth1: still down: {text.removeprefix('uplink: ')}" in verb(
            place, "lab", "up", changed("veth.yml", tmp_path, netns, ("propagate: true", "propagate: false"))
        )
        verb(place, "lab", "up", file)
        ip("link", "set", FAR, "up")
        verb(place, "lab", "exec", "router", "wait_carrier eth1 1 30")
        verb(
            place,
            "lab",
            "up",
            changed("veth.yml", tmp_path, netns, ("    ipv4", "    state: down\n    ipv4")),
        )
        wait_for(lambda: not has_carrier())
    finally:
        verb(place, "lab", "down")
    wait_for(has_carrier)


def test_missing_interface_is_named_and_nothing_stays(place: Place, site: None, tmp_path: Path) -> None:
    file = changed("veth.yml", tmp_path, ("netns: site", f"netns: {SITE}"), ("site:eth1", "site:eth7"))
    done = place.command("lab", "up", file)
    assert done.returncode == 1
    assert f"interface eth7 of network namespace {SITE}: no such interface" in done.stderr


def round_trip_ms(place: Place) -> float:
    """The shortest of a few."""
    said = verb(place, "lab", "exec", "paris", "ping -q -c 10 -i 0.05 -W 20 192.0.2.2")
    found = re.search(r"min/avg/max = ([0-9.]+)/", said)
    assert found is not None, said
    return float(found[1])


def test_line_that_delays_and_loses_and_is_changed(place: Place, tmp_path: Path) -> None:
    verb(place, "lab", "up", str(EXAMPLES / "wan.yml"))
    try:
        pid = json.loads(verb(place, "ps", "--json"))[0]["pid"]
        assert link(place)["impaired"] == ["delay 120ms jitter 5ms, loss 0.5%, rate 10mbit"]
        assert round_trip_ms(place) >= 2 * (120 - 5)
        given = "{delay: 120ms, jitter: 5ms, loss: 0.5, rate: 10mbit}"
        verb(place, "lab", "up", changed("wan.yml", tmp_path, (given, "{delay: 40ms}")))
        assert link(place)["impaired"] == ["delay 40ms"]
        assert round_trip_ms(place) >= 2 * 40
        verb(place, "lab", "up", changed("wan.yml", tmp_path, (f"    impairments: {given}\n", "")))
        assert link(place)["impaired"] == []
        assert json.loads(verb(place, "ps", "--json"))[0]["pid"] == pid
    finally:
        verb(place, "lab", "down")


VXLAN = """\
name: vx
topology:
  nodes:
    a: {kind: uml}
  links:
    - {type: vxlan, endpoint: {node: a, interface: eth1, ipv4: 10.0.5.1/24}, remote: 10.9.0.2, vni: 100}
"""
KERNELS_VXLAN = """\
set -eu
ip netns add far
ip link add net type veth peer name net netns far
ip addr add 10.9.0.1/24 dev net
ip link set net up
ip -n far addr add 10.9.0.2/24 dev net
ip -n far link set net up
ip -n far link add vx0 type vxlan id 100 remote 10.9.0.1 dstport 14789
ip -n far addr add 10.0.5.2/24 dev vx0
ip -n far link set vx0 up
vnic lab up "$(dirname "$0")/vx.yml"
trap "vnic lab down" EXIT
vnic lab exec a ping -c 1 -W 20 10.0.5.2
"""


@pytest.mark.needs("namespaces", "ip", "exec-tmp")
def test_containerlabs_vxlan_link_to_the_kernels_vxlan(place: Place, tmp_path: Path) -> None:
    (tmp_path / "vx.yml").write_text(VXLAN)
    script = tmp_path / "script"
    script.write_text(KERNELS_VXLAN)
    assert " 0% packet loss" in run_script(place, script)
