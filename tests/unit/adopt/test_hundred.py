"""A hundred adopted VMs at once, and thirty seeded faults of all kinds, each explained by `vnic why`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.unit.adopt.hundred import KINDS, NEED_AGENT, VMS, Hundred, inject
from tests.unit.adopt.lab import run, until

FAULTS = 30


@pytest.mark.needs("files")
def test_thirty_faults_at_a_hundred_vms_are_explained(tmp_path: Path) -> None:
    async def main() -> None:
        async with Hundred(tmp_path) as lab:
            await lab.start()
            for vm in lab.agents:
                await until(lambda vm=vm: lab.entry(f"{vm}/net0").guest.seen == "up")  # type: ignore[misc]
            chance = random.Random(12)
            kinds = [*KINDS, *chance.choices(KINDS, k=FAULTS - len(KINDS))]
            chance.shuffle(kinds)
            free = [f"vm{number}" for number in range(VMS)]
            chance.shuffle(free)
            expected: dict[str, list[str]] = {}
            for kind in kinds:
                vm = next(each for each in free if kind not in NEED_AGENT or each in lab.agents)
                free.remove(vm)
                expected[vm] = await inject(lab, kind, vm)
            explained = 0
            for vm, texts in expected.items():
                await until(lambda vm=vm, texts=texts: all(text in lab.why(f"{vm}/net0") for text in texts))  # type: ignore[misc]
                explained += 1
            assert explained == FAULTS
            for vm in free:
                text = lab.why(f"{vm}/net0")
                assert "is up" in text
                assert "nothing holds it down" in text
                assert not lab.qemus[vm].nics["net0"].set_to, "no fault reached another VM"

    run(main())


@pytest.mark.needs("files")
def test_each_of_a_hundred_vms_is_asked_once_for_a_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with Hundred(tmp_path) as lab:
            await lab.start()
            for number in range(VMS):
                lab.set(f"vm{number}/net0", False)
            await until(lambda: not any(qemu.nics["net0"].link for qemu in lab.qemus.values()))
            assert all(qemu.nics["net0"].set_to == [False] for qemu in lab.qemus.values())

    run(main())
