"""A hundred adopted VMs, three of them under real QEMUs: each has its fault, `vnic why` explains it, and each device
shows the link that it is to show."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.process import PATIENCE_S, is_listening
from tests.integration.qmp import Qmp
from tests.unit.adopt.hundred import KINDS, NEED_AGENT, VMS, Hundred, inject
from tests.unit.adopt.lab import run, until

from vnic.lab.guest.qemu_kit import find_qemu

pytestmark = pytest.mark.needs("qemu-guest", "files")

REAL = 3
UNSHOWN = ("killed", "refused", "deaf")
"""Faults after which a VM cannot show its link."""
STATUS, LU = 8, 2
"""The 82540EM's register, and its bit "link up" (manual §13.4.2)."""
BAR0 = re.compile(r"BAR0: 32 bit memory at (0x[0-9a-f]+)")


class RealQemu:
    """A VM without a guest but its firmware. Its e1000 is on a stream whose peer is the test, and is read at a monitor
    of its own."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        kit = find_qemu()
        assert kit is not None
        self.stream = folder / f"{name}.sock"
        self._monitor = folder / f"{name}.test"
        words = (
            f"-M pc,accel=tcg -m 16 -display none -nodefaults"
            f" -qmp unix:{folder / name}.qmp,server=on,wait=off -qmp unix:{self._monitor},server=on,wait=off"
            f" -netdev stream,id=st{number},server=on,addr.type=unix,addr.path={self.stream}"
            f" -device e1000,id=net0,netdev=st{number},mac=52:54:00:aa:00:{number:02x}"
        )
        self.process = subprocess.Popen([*kit.command, *words.split()], stdout=subprocess.DEVNULL)
        self.peer: socket.socket | None = None
        self._qmp: Qmp | None = None

    async def start(self) -> None:
        """Until the firmware has given the NIC its registers, and its stream has a peer."""
        await until(lambda: is_listening(str(self._monitor)) and is_listening(str(self.stream)))
        self.peer = socket.socket(socket.AF_UNIX)
        self.peer.connect(str(self.stream))
        self._qmp = Qmp(str(self._monitor))
        await until(lambda: BAR0.search(self.hmp("info pci")))
        await until(lambda: str(self.stream) in self.hmp("info network"))

    def hmp(self, line: str) -> str:
        assert self._qmp is not None
        return self._qmp.hmp(line)

    def link(self) -> bool:
        """What the guest's driver reads."""
        found = BAR0.search(self.hmp("info pci"))
        assert found is not None
        value = self.hmp(f"xp /1xw {int(found[1], 16) + STATUS}")
        return bool(int(value.partition(":")[2], 16) & LU)

    def close(self) -> None:
        for each in (self.peer, self._qmp):
            if each is not None:
                each.close()
        self.process.kill()
        self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def real_qemus(folder: Path) -> Iterator[dict[str, RealQemu]]:
    """vm97, vm98 and vm99."""
    with contextlib.ExitStack() as stack:
        made = {}
        for number in range(VMS - REAL, VMS):
            name = f"vm{number}"
            made[name] = RealQemu(folder, name, number)
            stack.callback(made[name].close)
        yield made


async def inject_at_real(lab: Hundred, kind: str, vm: str, qemu: RealQemu) -> list[str]:
    nic = f"{vm}/net0"
    match kind:
        case "operator":
            lab.set(nic, False)
            return ["is down", f"held by operator: set_link {nic} off"]
        case "stream":
            assert qemu.peer is not None
            qemu.peer.close()
            return ["is down", f"held by disconnected: stream netdev st{vm.removeprefix('vm')} of the VM"]
    qemu.process.kill()
    return ["is up", "nothing holds it", "not there: ", "none is attached"]


def test_a_hundred_vms_each_with_its_fault(tmp_path: Path) -> None:
    async def main(reals: dict[str, RealQemu]) -> None:
        for qemu in reals.values():
            await qemu.start()
        async with Hundred(tmp_path) as lab:

            def shown(vm: str) -> bool:
                return reals[vm].link() if vm in reals else lab.qemus[vm].nics["net0"].link

            await lab.start(VMS - REAL)
            for number in range(VMS):
                entry = lab.entry(f"vm{number}/net0")
                assert (entry.link, entry.mac) == ("up", f"52:54:00:aa:00:{number:02x}")
            for vm in lab.agents:
                await until(lambda vm=vm: lab.entry(f"{vm}/net0").guest.seen == "up")  # type: ignore[misc]
            assert all(qemu.link() for qemu in reals.values())
            chance = random.Random(100)
            faults: dict[str, str] = {}
            expected: dict[str, list[str]] = {}
            for vm in lab.qemus:
                kinds = [kind for kind in KINDS if kind not in NEED_AGENT or vm in lab.agents]
                faults[vm] = chance.choice(kinds)
                expected[vm] = await inject(lab, faults[vm], vm)
            for kind, (vm, qemu) in zip(("operator", "stream", "killed"), reals.items(), strict=True):
                faults[vm] = kind
                expected[vm] = await inject_at_real(lab, kind, vm, qemu)
            assert len(expected) == VMS
            assert set(faults.values()) == set(KINDS)
            for vm, texts in expected.items():
                await until(lambda vm=vm, texts=texts: all(text in lab.why(f"{vm}/net0") for text in texts))  # type: ignore[misc]
            for vm in expected:
                if faults[vm] not in UNSHOWN:
                    await until(lambda vm=vm: shown(vm) is (lab.entry(f"{vm}/net0").link == "up"))  # type: ignore[misc]

            operated = f"vm{VMS - REAL}"
            lab.set(f"{operated}/net0", True)
            await until(lambda: shown(operated))

    with real_qemus(tmp_path) as reals:
        run(main(reals))
