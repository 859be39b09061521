"""Adopted VMs and the page: what control has learned of a VM, and the socket and token that browsers know."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack

from tests.fakes.monitored_machine import FakeMachine
from tests.fakes.trips import Trip, trip
from tests.fakes.trips.net import network

from vnic.adopt.hypervisor import FoundNic
from vnic.adopt.options import QemuOptions
from vnic.adopt.qemu import QemuVm
from vnic.backend.base import BackendContext
from vnic.keep import NO_KEEP
from vnic.monitor.policy import Policy
from vnic.monitor.server import Monitors
from vnic.record import RecordError
from vnic.sockets.listener import ListeningHandles, ListeningRecord
from vnic.web.choice import WebChoice
from vnic.web.server import Web, WebRecord


@trip("adopted VM")
def adopted_vm(stack: ExitStack) -> Trip:
    """It is away, and its NICs stay: one that vnic has set, one that is assumed, one of which libvirt told."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> QemuVm:
        context = BackendContext(loop, network(stack))
        unit = QemuVm(context, QemuOptions(id="vm1", qmp="vm1.qmp", qga="vm1.qga"))
        stack.callback(unit.part)
        return unit

    unit = make(stack)
    nics = [
        FoundNic("net0", "virtio-net-pci", bytes.fromhex("525400123456"), None, "hn0 (user)"),
        FoundNic("net1", "e1000", bytes.fromhex("525400123457")),
        FoundNic("net2", "virtio", bytes.fromhex("525400123458"), False),
    ]
    unit.vm_there(nics, "running", "QEMU 11.1.3")
    unit.nics["net0"].shown = False
    unit.nics["net0"].known = unit.nics["net0"].touched = True
    unit.vm_gone("it was killed")

    def observe(vm: QemuVm) -> object:
        return (
            [(nic.client.name, nic.client.model, nic.nic.mac, nic.nic.path) for nic in vm.nics.values()],
            [(nic.found.netdev, nic.known, nic.touched) for nic in vm.nics.values()],
            vm.there,
        )

    return Trip(unit, make, lambda unit, record: unit.restore(record), observe)


class KeptWeb:
    """A Web that is not opened: `save` and `restore` are those of any unit, also before it has its socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        monitors = Monitors(FakeMachine(), loop)
        self._loop = loop
        self.web = Web(loop, WebChoice(port=0), monitors, Policy.FULL, NO_KEEP)
        self._restored = False

    def save(self) -> WebRecord:
        if not self._restored:
            return WebRecord(token="-" * 16, listening=ListeningRecord(path=None))
        return self.web.save_kept()[0]

    def restore(self, record: WebRecord, fd: int) -> None:
        """The descriptor is its own then."""
        self.web.restore(record, ListeningHandles(fd, None))
        self._restored = True

    @property
    def fd(self) -> int:
        return self.web.save_kept()[1].socket

    def close(self) -> None:
        self._loop.run_until_complete(self.web.close())


@trip("page")
def page(stack: ExitStack) -> Trip:
    """Browsers have its token, and wait in the backlog of its socket."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> KeptWeb:
        unit = KeptWeb(loop)
        stack.callback(unit.close)
        return unit

    unit = make(stack)
    sock = socket.create_server(("127.0.0.1", 0))
    unit.restore(WebRecord(token="t" * 43, listening=ListeningRecord(path=None)), sock.detach())

    def restore(new: KeptWeb, record: WebRecord) -> None:
        fd = os.dup(unit.fd)
        try:
            new.restore(record, fd)
        except RecordError:
            os.close(fd)
            raise

    return Trip(unit, make, restore, lambda unit: (unit.save(), os.fstat(unit.fd).st_ino))
