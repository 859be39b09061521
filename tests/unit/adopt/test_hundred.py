"""A hundred adopted VMs at once, and thirty seeded faults of all kinds, each explained by `vnic why`."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from tests.unit.adopt.lab import AdoptLab, PlayedNic, run, until

from vnic.backend.options import CableOptions, EchoOptions
from vnic.cli.show import Now
from vnic.cli.why import describe
from vnic.filter import fault, object_add
from vnic.follow.options import LinkFollowOptions
from vnic.net.fault_info import FaultShape, FaultWords
from vnic.net.flaps import Pattern
from vnic.printable import printable

VMS = 100
FAULTS = 30


class Hundred(AdoptLab):
    """VMs vm0 … vm99, each with a NIC on a stream of its own, and an agent if its number is odd."""

    async def start(self) -> None:
        for number in range(VMS):
            stream = f"st{number}: index=0,type=stream,unix:st.sock"
            nic = PlayedNic("net0", mac=f"52:54:00:aa:00:{number:02x}", netdev=stream)
            await self.qemu(f"vm{number}", nic, agent=bool(number % 2))
        for number in range(VMS):
            self.adopt(f"vm{number}", agent=bool(number % 2))
        await until(lambda: len(list(self.network.nics)) == VMS)

    def why(self, name: str) -> str:
        """What `vnic why` says of a NIC."""
        link = printable(msgspec.to_builtins(self.entry(name)))
        return "\n".join(describe(link, Now()))


async def _inject(lab: Hundred, kind: str, vm: str) -> list[str]:
    """Make a fault of that kind at a VM, which had none; what `why` has to say then."""
    qemu, nic = lab.qemus[vm], f"{vm}/net0"
    match kind:
        case "operator":
            lab.set(nic, False)
            return ["is down", f"held by operator: set_link {nic} off"]
        case "flap":
            pattern = Pattern(down_ms=80_000_000, up_ms=1, count=1, jitter=0, seed=1)
            lab.network.flaps.start(nic, pattern, "test")
            return ["is down", "held by operator: flap-"]
        case "stream":
            qemu.emit("NETDEV_STREAM_DISCONNECTED", netdev_id=f"st{vm.removeprefix('vm')}")
            return ["is down", "held by disconnected: stream netdev st", "of the VM is not connected"]
        case "killed":
            qemu.kill()
            return ["is up", "nothing holds it", "not there: ", "none is attached"]
        case "refused":
            qemu.refusals["set_link"] = "not now"
            lab.set(nic, False)
            return ["is down", "the VM does not show this link: set_link was refused: not now"]
        case "deaf":
            qemu.deaf.add("set_link")
            lab.set(nic, False)
            return ["is down", "the VM does not show this link: no answer to set_link down"]
        case "paused":
            qemu.emit("STOP")
            return ["is up", "nothing holds it", "QEMU 11.1.3, paused"]
        case "cable":
            lab.add(CableOptions(id=f"a-{vm}", cable=vm, nic=nic))
            return ["is down", f"held by far-end on a-{vm}: the other end of cable {vm} does not exist"]
        case "followed":
            lab.wire(EchoOptions(id=f"e-{vm}"))
            object_add(lab.context, LinkFollowOptions(id=f"f-{vm}", nic=nic, netdev=f"e-{vm}"))
            lab.set(f"nic-e-{vm}", False)
            return ["is down", f"held by uplink: the wire of e-{vm} is held at nic-e-{vm}, operator"]
        case "late":
            fault.start(lab.context, nic, FaultShape.SLOW_UP, FaultWords(delay_ms=80_000_000), "test")
            lab.set(nic, False)
            lab.set(nic, True)
            return ["is down", "held by slow-up: it is coming up"]
        case "blind":
            qemu.nics["net0"].reads = False
            lab.set(nic, False)
            return ["is down", "held by operator", "it has not seen this: it last read up"]
        case "agent":
            lab.agents[vm].kill()
            return ["is up", "nothing holds it", "agent: its guest agent's socket: it was closed"]
    raise AssertionError(kind)


KINDS = (
    *("operator", "flap", "stream", "killed", "refused", "deaf"),
    *("paused", "cable", "followed", "late", "blind", "agent"),
)
NEED_AGENT = ("blind", "agent")


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
                expected[vm] = await _inject(lab, kind, vm)
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
