"""A VM's driver does anything with an e1000 over vfio-user, and vnic is killed between any two steps or within one.

Beside it, the same happens to a chip that lives on: the VM reads the same registers, and each request is answered once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.fakes.irq import FakeIrq
from tests.fakes.mortal_vfio import MAC, MortalVfio
from tests.fakes.scheduler import FakeScheduler

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import E1000
from vnic.pci import config
from vnic.protocol.vfio_user import messages as m

MMIO = 0
STORED = (regs.CTRL_EXT, regs.RA + 8, regs.RA + 12, regs.WUFC, regs.TDBAL, regs.TDLEN, regs.RDBAL, regs.EECD)
MASKS = (regs.IMS, regs.IMC)
READABLE = (*STORED, regs.IMS, regs.STATUS, regs.CTRL, regs.TDT, regs.RCTL)
LOOPED = regs.ICR_MDAC
SECOND = GUEST_ADDR + (16 << 20)

values = st.integers(0, 0xFFFFFFFF)
writes = st.tuples(st.sampled_from((*STORED, *MASKS)), values)


def four(value: int) -> bytes:
    return value.to_bytes(4, "little")


class AnyTime(RuleBasedStateMachine):
    """`model` lives on."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="v")
        self.vnic = MortalVfio(Path(self._folder.name) / "s")
        self.vnic.start()
        self.ram, self.second = FakeGuestMemory(1 << 20), FakeGuestMemory(1 << 16, guest_addr=SECOND)
        self.mapped = False
        self.client = self.vnic.client()
        self.client.attach(self.ram)
        self.client.set_eventfds(m.IRQ_INTX, 0, 1)
        self._network = Network(FakeScheduler())
        self.model = E1000(autonegotiation=False)
        self._network.add_netdev("net0", "stream", Endpoint())
        self._network.add_nic("nic0", self.model.model.name, self.model, mac=MAC, netdev_id="net0")
        self.model.plug(FakeIrq(), self.ram.served())

    def teardown(self) -> None:
        self.vnic.kill_at(0)
        self.vnic.look()
        self.client.close()
        self.vnic.close()
        self._network.close()
        self.model.unplug(lambda: None)
        self.ram.close()
        self.second.close()
        self._folder.cleanup()

    # -- death --------------------------------------------------------------------------------------------------

    @rule()
    def die(self) -> None:
        self.vnic.kill_at(0)
        self.vnic.look()
        self.vnic.kill()
        self.vnic.start()

    @rule(step=st.integers(1, 40))
    def die_soon(self, step: int) -> None:
        self.vnic.kill_at(step)

    # -- the driver ---------------------------------------------------------------------------------------------

    @rule(offset=st.sampled_from(READABLE))
    def read(self, offset: int) -> None:
        assert self.client.window_read(MMIO, offset, 4) == self.model.window_read(MMIO, offset, 4)

    @rule(write=writes)
    def write(self, write: tuple[int, int]) -> None:
        offset, value = write
        self.client.window_write(MMIO, offset, four(value))
        self.model.window_write(MMIO, offset, four(value))

    @rule(many=st.lists(writes, min_size=1, max_size=6))
    def write_many(self, many: list[tuple[int, int]]) -> None:
        self.client.write_multi(*((MMIO, offset, four(value)) for offset, value in many))
        for offset, value in many:
            self.model.window_write(MMIO, offset, four(value))

    @rule()
    def cause_and_read(self) -> None:
        """A cause may come once more after a death, and is never lost."""
        self.client.window_write(MMIO, regs.ICS, four(LOOPED))
        assert int.from_bytes(self.client.window_read(MMIO, regs.ICR, 4), "little") & LOOPED

    @rule(bits=st.sampled_from([0x0, 0x2, 0x6, 0x406]))
    def command(self, bits: int) -> None:
        self.client.config_write(config.COMMAND, bits.to_bytes(2, "little"))
        self.model.config_write(config.COMMAND, bits.to_bytes(2, "little"))
        assert self.client.config_read(config.COMMAND, 2) == self.model.config_read(config.COMMAND, 2)

    @rule()
    def map(self) -> None:
        request = m.DMA_MAP_LAYOUT.pack(32, 3, 0, SECOND, self.second.size)
        reply = self.client.ask(m.DMA_MAP, request, [self.second.fd])
        assert bool(reply.errno) is self.mapped
        self.mapped = True

    @rule()
    def unmap(self) -> None:
        request = m.DMA_UNMAP_LAYOUT.pack(24, 0, SECOND, self.second.size)
        assert bool(self.client.ask(m.DMA_UNMAP, request).errno) is not self.mapped
        self.mapped = False

    @rule()
    def interrupt(self) -> None:
        """The loop-back test of a new eventfd."""
        self.client.set_eventfds(m.IRQ_INTX, 0, 1)
        self.client.irq_action(m.IRQ_ACTION_TRIGGER, m.IRQ_INTX)
        assert self.client.interrupts(m.IRQ_INTX)

    @rule()
    def reset(self) -> None:
        self.client.demand(m.DEVICE_RESET)
        self.model.reset()


TestAnyTime = AnyTime.TestCase
TestAnyTime.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
