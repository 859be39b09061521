"""A network on a real loop with VMs of played QEMUs, which it adopts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.backend.helpers import Lab, run, until

from vnic.adopt.options import QemuOptions
from vnic.adopt.qemu import QemuVm
from vnic.filter import object_add
from vnic.lab.played.qemu import PlayedAgent, PlayedNic, PlayedQemu
from vnic.net.client import Nic
from vnic.net.records import LinkInfo

__all__ = ["AdoptLab", "PlayedNic", "run", "until"]


class AdoptLab(Lab):
    """VMs `vm1` …, each with its QEMU at `vm1.qmp` and its agent at `vm1.qga`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.qemus: dict[str, PlayedQemu] = {}
        self.agents: dict[str, PlayedAgent] = {}

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        for server in (*self.qemus.values(), *self.agents.values()):
            server.kill()

    async def qemu(self, name: str, *nics: PlayedNic, agent: bool = False, **more: Any) -> PlayedQemu:
        """Start one; in the place of an earlier one of that name."""
        qemu = self.qemus[name] = PlayedQemu(str(self.folder / f"{name}.qmp"), *nics, **more)
        await qemu.start()
        if agent:
            self.agents[name] = PlayedAgent(str(self.folder / f"{name}.qga"), qemu)
            await self.agents[name].start()
        return qemu

    def adopt(self, name: str, *, agent: bool = False) -> QemuVm:
        qga = str(self.folder / f"{name}.qga") if agent else None
        object_add(self.context, QemuOptions(id=name, qmp=str(self.folder / f"{name}.qmp"), qga=qga))
        vm = self.network.objects.find(name)
        assert isinstance(vm, QemuVm)
        return vm

    async def adopted(self, name: str, *nics: PlayedNic, agent: bool = False, **more: Any) -> PlayedQemu:
        """Start a QEMU, and adopt its VM."""
        qemu = await self.qemu(name, *nics, agent=agent, **more)
        vm = self.adopt(name, agent=agent)
        await until(lambda: vm.there)
        return qemu

    def client(self, name: str) -> Nic:
        nic = self.network.find_nic(name)
        assert nic is not None
        return nic

    def entry(self, name: str) -> LinkInfo:
        [entry] = self.network.query_links(name)
        return entry

    def trouble(self, name: str) -> str | None:
        vm = self.entry(name).vm
        assert vm is not None
        return vm.trouble

    def set(self, name: str, up: bool) -> None:
        self.network.set_link(name, up, "test")
