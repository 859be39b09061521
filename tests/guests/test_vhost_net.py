"""vhost-net, in a guest whose kernel has it: a vnic, a tap and User-Mode Linux run inside a Debian under QEMU.

`vhost_net_inside` is what runs there, on this machine's files. A minute and more, most of it Python under TCG.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.guests import vhost_net_inside
from tests.needs import need

from vnic.lab.guest import qemu_kit
from vnic.lab.guest.qemu import QemuGuest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 800
HOST_FILES = (
    *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
    *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
)
MOUNT = """\
mkdir -p /host /dev/shm
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
for folder in proc sys dev; do mount --bind /$folder /host/$folder; done
for folder in tmp run dev/shm; do mount -t tmpfs none /host/$folder; done
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Steps = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def steps() -> Steps:
    """What was told of each step, by its name."""
    need("uml")
    need("qemu-guest")
    modules = ("9pnet_virtio", "9p", "tun", "vhost_net")
    kit = qemu_kit.find_qemu()
    with QemuGuest([], 1536, kit=kit, modules=modules, options=HOST_FILES, boot_timeout=300) as guest:
        guest.run(MOUNT)
        kept = {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME") if name in os.environ}
        environment = {
            **kept,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        words = " ".join(f"{name}={value}" for name, value in environment.items())
        program = f"{sys.executable} -m {vhost_net_inside.__name__}"
        done = guest.try_run(f"chroot /host /usr/bin/env {words} {program} 2>&1", TIMEOUT_S)
    assert done.status == 0, done.output
    found: Steps = {}
    for line in done.output.splitlines():
        told = json.loads(line)
        found.setdefault(told.pop("step"), []).append(told)
    return found


def test_the_kernel_takes_the_rings_and_moves_the_packets(steps: Steps) -> None:
    (taken,) = steps["taken"]
    assert taken == {"path": "vhost", "taken": True, "ping": True}
    (transfer,) = steps["transfer"]
    assert transfer["to_guest"]
    assert transfer["from_guest"]


def test_link_down_stops_the_rings_and_up_starts_them(steps: Steps) -> None:
    for name in ("nic0", "net0"):
        (down,) = [each for each in steps["down"] if each["name"] == name]
        assert down == {"name": name, "down": True, "ping": None, "frames": 0, "path": "none"}
        (up,) = [each for each in steps["up"] if each["name"] == name]
        assert up == {"name": name, "up": True, "back": True, "ping": True}


def test_each_queue_pair_has_a_descriptor_of_its_own(steps: Steps) -> None:
    (queues,) = steps["queues"]
    assert queues == {"taken": True, "answers": {"0": True, "1": True}, "workers": True}


def test_hostile_ring_comes_back_and_is_broken_here(steps: Steps) -> None:
    (hostile,) = steps["hostile"]
    assert hostile == {"refused": True, "returned": True}
    (detached,) = steps["detached"]
    log = detached["log"]
    assert log.count("netdev net1: vhost-net: it found invalid data in a ring") == 1
    assert log.count("nic1: queue 1 is broken until the guest resets it") == 1
    assert "Traceback" not in log


def test_a_killed_control_hands_the_rings_over_anew(steps: Steps) -> None:
    (restart,) = steps["restart"]
    assert restart == {"back": True, "ping": True, "unchanged": True, "workers": True}


def test_nothing_is_left(steps: Steps) -> None:
    assert steps["ended"] == [{"workers": 0}]
