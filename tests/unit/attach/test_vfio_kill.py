"""vnic is killed at any step while a VM uses its card over vfio-user: the VM sees every message answered once."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.fakes.loops import open_fds
from tests.fakes.mortal_vfio import MortalVfio, PatientClient

from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.nic.intel import regs
from vnic.pci import config
from vnic.protocol.vfio_user import messages as m

MMIO = 0


@pytest.fixture
def vnic() -> Iterator[MortalVfio]:
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        made = MortalVfio(Path(folder) / "s")
        made.start()
        yield made
        made.close()


@pytest.fixture
def vm(vnic: MortalVfio) -> Iterator[Vm]:
    """It is attached."""
    with ExitStack() as stack:
        made = Vm(vnic, stack)
        made.attach()
        yield made


class Vm:
    """A VM with an e1000, and what it has seen."""

    def __init__(self, vnic: MortalVfio, stack: ExitStack) -> None:
        self.vnic = vnic
        self.ram = stack.enter_context(FakeGuestMemory(1 << 20))
        self.client: PatientClient = stack.enter_context(vnic.client())
        self.seen: list[object] = []

    def read(self, offset: int) -> int:
        value = int.from_bytes(self.client.window_read(MMIO, offset, 4), "little")
        self.seen.append((offset, value))
        return value

    def write(self, offset: int, value: int) -> None:
        self.client.window_write(MMIO, offset, value.to_bytes(4, "little"))

    def many(self, *writes: tuple[int, int]) -> None:
        self.client.write_multi(*((MMIO, at, value.to_bytes(4, "little")) for at, value in writes))

    def attach(self) -> None:
        self.client.attach(self.ram)
        self.client.set_eventfds(m.IRQ_INTX, 0, 1)
        self.client.set_eventfds(m.IRQ_INTX, 0, 1, action=m.IRQ_ACTION_UNMASK)
        self.client.config_write(config.COMMAND, b"\x07\x00")


def pause(vnic: MortalVfio) -> None:
    """Let the process do what is to be done."""
    for _ in range(50):
        vnic.look()
        time.sleep(0.001)


def runs(vnic: MortalVfio, steps: range, use: Callable[[Vm], None], vm: Vm | None = None) -> None:
    """Run `use` without a kill, then with one at each of these steps; each time with a new VM, or with `vm`."""
    expected: list[object] = []
    for kill_at in (0, *steps):
        with ExitStack() as stack:
            each = vm or Vm(vnic, stack)
            pause(vnic)
            each.seen.clear()
            vnic.kill_at(kill_at)
            use(each)
            vnic.kill_at(0)
            expected = expected or list(each.seen)
            assert each.seen == expected, f"killed at {kill_at}"
        vnic.look()


def test_a_vm_attaches_while_vnic_is_killed(vnic: MortalVfio) -> None:
    def attach(vm: Vm) -> None:
        vm.attach()
        vm.seen.append(vm.client.regions)
        vm.seen.append(vm.client.irqs)
        vm.client.unmap(vm.ram)
        vm.seen.append(vm.client.config_read(0, 64))

    runs(vnic, range(1, 400, 17), attach)
    assert vnic.kills > 20


def test_each_access_is_carried_out_once(vnic: MortalVfio, vm: Vm) -> None:
    def access(vm: Vm) -> None:
        vm.client.interrupts(m.IRQ_INTX)
        vm.write(regs.IMS, 0x4)
        vm.many((regs.CTRL_EXT, 0x1000), (regs.IMS, 0x80), (regs.IMC, 0x4), (regs.CTRL_EXT, 0x2000))
        vm.read(regs.IMS)
        vm.read(regs.CTRL_EXT)
        vm.write(regs.ICS, 0x80)
        vm.read(regs.IMS)
        assert vm.client.interrupts(m.IRQ_INTX)
        cause = vm.read(regs.ICR)
        assert cause & 0x80
        vm.seen.pop()  # a cause may come again
        os.eventfd_write(vm.client.eventfds[-1, 0], 1)  # the guest's end of interrupt
        vm.write(regs.RA + 0x20, 0x12345678)
        vm.read(regs.RA + 0x20)
        vm.seen.append(vm.client.ask(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, 0, 0, 4096)))
        vm.seen.append(vm.client.ask(m.REGION_READ, m.REGION_ACCESS.pack(0, 20, 4)))

    runs(vnic, range(1, 150, 4), access, vm)
    assert vnic.kills > 30


def test_a_message_in_parts_survives_a_kill(vnic: MortalVfio, vm: Vm) -> None:
    """The beginning of one comes with half of its descriptors' message; the rest after the kill."""

    def in_parts(vm: Vm) -> None:
        fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(1)]
        payload = m.SET_IRQS.pack(20, m.IRQ_DATA_EVENTFD | m.IRQ_ACTION_TRIGGER, m.IRQ_INTX, 0, 1)
        message = m.encode(7, m.DEVICE_SET_IRQS, payload)
        socket.send_fds(vm.client.sock, [message[:20]], fds)
        pause(vm.vnic)
        vm.client.sock.sendall(message[20:])
        vm.seen.append(vm.client.reply(7, m.DEVICE_SET_IRQS))
        vm.client.irq_action(m.IRQ_ACTION_TRIGGER, m.IRQ_INTX)
        assert os.eventfd_read(fds[0])
        os.close(fds[0])
        large = struct.pack("<QII", 0x5200, MMIO, 100_000) + bytes(100_000)
        vm.seen.append(vm.client.ask(m.REGION_WRITE, large).errno)

    runs(vnic, range(1, 60, 4), in_parts, vm)
    assert vnic.kills > 10


def test_no_descriptor_is_left_over_after_many_kills(vnic: MortalVfio, vm: Vm) -> None:
    def die_and_count() -> int:
        vnic.kill()
        vnic.start()
        vm.client.set_eventfds(m.IRQ_INTX, 0, 1)
        vm.read(regs.STATUS)
        pause(vnic)
        return open_fds(vnic.pid)

    first = [die_and_count() for _ in range(2)]
    assert [die_and_count() for _ in range(4)] == [first[-1]] * 4
    kept = len(vnic.keeper.files)
    die_and_count()
    assert len(vnic.keeper.files) == kept
