"""Real QEMUs that run already are adopted: links, `-S`, a QEMU that is killed, and a restart of vnic itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.integration.kept_vnic import KeptVnic, kept_vnic
from tests.integration.process import PATIENCE_S, Place, is_listening, wait_for

from vnic.lab.guest.qemu_kit import cached_qemu

pytestmark = pytest.mark.needs("qemu")

NICS = "-netdev user,id=hn0 -device virtio-net-pci,netdev=hn0,id=net0 -nic user,model=e1000"


def commands() -> list[tuple[str, ...]]:
    """This machine's QEMU, and a newer one where it was downloaded."""
    newer = cached_qemu()
    return [("qemu-system-x86_64",)] * 2 + [("qemu-system-x86_64",) if newer is None else newer[0]]


@contextmanager
def qemu(command: tuple[str, ...], path: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that runs, with its monitor at `path`."""
    words = f"-M pc,accel=tcg -m 16 -display none -nodefaults -qmp unix:{path},server=on,wait=off {NICS}"
    process = subprocess.Popen(
        [*command, *words.split(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: os.path.exists(path))
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def link(vnic: KeptVnic, name: str) -> dict[str, Any]:
    found = [each for each in vnic.qmp.run("query-links") if each["name"] == name]
    return found[0] if found else {"vm": {"text": ""}, "guest": {"attached": False}, "last-change": {}}


def is_set(vnic: KeptVnic, name: str) -> bool:
    """Whether QEMU has carried out the last change."""
    entry = link(vnic, name)
    return "notified-us" in entry["last-change"] and "trouble" not in entry["vm"]


def test_three_qemus_are_adopted(place: Place) -> None:
    paths = [place.path(f"vm{number}.qmp") for number in range(3)]
    objects = [word for at, path in enumerate(paths) for word in ("-object", f"qemu,id=vm{at},qmp={path}")]
    first, second, third = commands()
    with (
        qemu(first, paths[0]),
        qemu(third, paths[2], "-S"),
        kept_vnic(
            place,
            *objects,
            "-netdev",
            "cable,id=a,cable=c0,nic=vm0/net0",
            "-netdev",
            "cable,id=b,cable=c0,nic=vm1/net0",
        ) as vnic,
    ):
        wait_for(lambda: link(vnic, "vm0/e1000.0")["guest"]["attached"])
        wait_for(lambda: link(vnic, "vm2/net0")["guest"]["attached"])
        assert link(vnic, "vm2/net0")["vm"]["text"].endswith(", prelaunch")
        vnic.qmp.run("set_link", name="vm2/net0", up=False)
        wait_for(lambda: is_set(vnic, "vm2/net0"))
        assert link(vnic, "vm2/net0")["vm"]["text"].endswith(", prelaunch"), "vnic sends no cont"
        assert link(vnic, "vm0/net0")["link"] == "down", "the cable's other end does not exist yet"
        with qemu(second, paths[1]) as process:
            wait_for(lambda: link(vnic, "vm0/net0")["link"] == "up")
            vnic.qmp.run("set_link", name="vm1/e1000.0", up=False)
            wait_for(lambda: is_set(vnic, "vm1/e1000.0"))
            process.send_signal(signal.SIGKILL)
            wait_for(lambda: link(vnic, "vm0/net0")["link"] == "down")
        with qemu(second, paths[1], "-S"):
            wait_for(lambda: link(vnic, "vm1/e1000.0")["guest"]["attached"])
            wait_for(lambda: link(vnic, "vm0/net0")["link"] == "up")
            before = {each["name"]: each for each in vnic.qmp.run("query-links")}
            vnic.kill()
            wait_for(lambda: link(vnic, "vm1/e1000.0")["guest"]["attached"])
            after = {each["name"]: each for each in vnic.qmp.run("query-links")}
            assert after.keys() == before.keys()
            for name, entry in before.items():
                for member in ("link", "carrier-changes", "mac", "model"):
                    assert after[name].get(member) == entry.get(member), (name, member)
                assert [hold["text"] for hold in after[name]["holds"]] == [
                    hold["text"] for hold in entry["holds"]
                ]
                assert after[name]["last-change"]["id"] == entry["last-change"]["id"]
            vnic.qmp.run("set_link", name="vm1/e1000.0", up=True)
            wait_for(lambda: is_set(vnic, "vm1/e1000.0"))
        assert is_listening(paths[0])
