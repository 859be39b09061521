"""A guest with one NIC of each model of the table, each cabled to a virtio NIC in a namespace of the same guest.

`test_qemu_models.py` has one for all its tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.guests.lab import Qmp, Vnic, vnic_run
from tests.guests.models import MODELS, GuestModel
from tests.guests.qemu_lab import Namespace, interface, interfaces, pci_nic, qemu

from vnic.lab.guest.linux import CARRIER_TIMEOUT
from vnic.lab.guest.qemu import QemuGuest

VLAN = 7


def modules(models: Sequence[GuestModel]) -> list[str]:
    """What the guest loads for them, each once."""
    return list(dict.fromkeys(module for model in models for module in model.modules))


def model_nics(models: Sequence[GuestModel] = MODELS) -> list[str]:
    """vnic's options: each model's NIC, named as the model is, cabled to a virtio NIC."""
    options = []
    for index, model in enumerate(models):
        near, far = f"near-{model.name}", f"far-{model.name}"
        options += ["-netdev", f"hubport,id={near},hubid={index + 1}"]
        options += ["-netdev", f"hubport,id={far},hubid={index + 1}"]
        options += pci_nic(model.name, model.device, near)
        options += pci_nic(mate(model), "virtio-net-pci", far, msix="off")
    return options


def mate(model: GuestModel) -> str:
    """The NIC at the other end of the cable."""
    return f"mate-{model.name}"


class Port:
    """A model's NIC in the guest. It keeps its name there, also when its driver lets it go and takes it again."""

    def __init__(self, lab: ModelLab, model: GuestModel, network: int) -> None:
        self.lab = lab
        self.model = model
        self.network = network

    @property
    def nic(self) -> str:
        return self.model.name

    @property
    def guest(self) -> QemuGuest:
        return self.lab.guest

    @property
    def qmp(self) -> Qmp:
        return self.lab.running.qmp

    @property
    def far(self) -> Namespace:
        """Where the other end is."""
        return self.lab.far

    @property
    def far_interface(self) -> str:
        return self.lab.far_interfaces[mate(self.model)]

    def restore(self) -> None:
        """The link and the interface are up, with an address; the other end's as well."""
        self.qmp.set_link(self.nic, True)
        self.interface = interface(self.lab.running, self.guest, self.nic)
        self.guest.run(
            f"ip link set {self.interface} mtu 1500 promisc off up; ip addr flush dev {self.interface};"
            f" ip addr add {self.address()}/24 dev {self.interface}"
        )
        self.wait(True)

    def address(self, far: bool = False, vlan: bool = False) -> str:
        """Of this end or the other, in the network of the cable or of its VLAN."""
        return f"10.{9 + vlan}.{self.network}.{1 + far}"

    def wait(self, up: bool) -> None:
        """Until the guest's carrier is so; the driver may look only at times."""
        if self.model.link is not None:
            assert self.guest.wait_carrier(up, self.interface, timeout=CARRIER_TIMEOUT)

    def pings(self, vlan: bool = False) -> bool:
        """The kernel may drop the first one: it sends nothing before it has looked at a carrier that came up."""
        return any(self.guest.ping(self.address(far=True, vlan=vlan)) is not None for _ in range(3))


class ModelLab:
    """The guest, its ports by model, and the namespace with the other ends."""

    def __init__(self, running: Vnic, guest: QemuGuest) -> None:
        self.running = running
        self.guest = guest
        self.ports = {model.name: Port(self, model, index) for index, model in enumerate(MODELS)}
        self.booted()

    def booted(self) -> None:
        """All ends get their addresses."""
        self.far_interfaces = interfaces(self.running, self.guest, [mate(model) for model in MODELS])
        self.far = Namespace(self.guest)
        for port in self.ports.values():
            self.far.take(port.far_interface, f"{port.address(far=True)}/24")
            port.restore()


@contextmanager
def model_lab() -> Iterator[ModelLab]:
    """On QEMU's q35, where what PCI Express has is seen."""
    nics = [name for model in MODELS for name in (model.name, mate(model))]
    with (
        vnic_run("-name", "models", *model_nics()) as running,
        qemu(running, *nics, machine="q35", tools=True, modules=[*modules(MODELS), "8021q"]) as guest,
    ):
        yield ModelLab(running, guest)
