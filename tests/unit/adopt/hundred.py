"""A hundred adopted VMs, and faults of all kinds, each with what `vnic why` has to say of it."""

from __future__ import annotations

import msgspec
from tests.unit.adopt.lab import AdoptLab, PlayedNic, until

from vnic.backend.options import CableOptions, EchoOptions
from vnic.cli.show import Now
from vnic.cli.why import describe
from vnic.filter import fault, object_add
from vnic.follow.options import LinkFollowOptions
from vnic.net.fault_info import FaultShape, FaultWords
from vnic.net.flaps import Pattern
from vnic.printable import printable

VMS = 100


class Hundred(AdoptLab):
    """VMs vm0 … vm99, each with a NIC on a stream of its own. A played one has an agent if its number is odd."""

    async def start(self, played: int = VMS) -> None:
        """Adopt them all; the first ones are played, the others run already."""
        for number in range(played):
            stream = f"st{number}: index=0,type=stream,unix:st.sock"
            nic = PlayedNic("net0", mac=f"52:54:00:aa:00:{number:02x}", netdev=stream)
            await self.qemu(f"vm{number}", nic, agent=bool(number % 2))
        for number in range(VMS):
            self.adopt(f"vm{number}", agent=f"vm{number}" in self.agents)
        await until(lambda: len(list(self.network.nics)) == VMS)

    def why(self, name: str) -> str:
        """What `vnic why` says of a NIC."""
        link = printable(msgspec.to_builtins(self.entry(name)))
        return "\n".join(describe(link, Now()))


async def inject(lab: Hundred, kind: str, vm: str) -> list[str]:
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
