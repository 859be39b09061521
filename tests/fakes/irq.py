"""Interrupt lines that record what a PCI device model does with them."""

from __future__ import annotations

from collections.abc import Callable

from vnic.attach.vfio_user.notifiers import QueueNotifiers
from vnic.net.clock import Timer
from vnic.pci.irq import MessageSocket


class FakeIrq:
    """Satisfies `vnic.pci.irq.IrqLines`. `deliver` False: the VM has its message interrupts off."""

    def __init__(self) -> None:
        self.level = False
        self.edges: list[bool] = []
        self.sent: list[tuple[str, int]] = []
        self.deliver = True
        self.pending = 0
        self.fds: dict[int, int] = {}
        self.watched: dict[int, Callable[[], object]] = {}

    def set_intx(self, level: bool) -> None:
        if level != self.level:
            self.edges.append(level)
        self.level = level

    def msi_notify(self, vector: int) -> bool:
        self.sent.append(("msi", vector))
        return self.deliver

    def msix_notify(self, vector: int) -> bool:
        self.sent.append(("msix", vector))
        return self.deliver

    def msix_pending(self) -> int:
        return self.pending

    def msix_on(self) -> bool:
        return bool(self.fds)

    def msix_fd(self, vector: int) -> int | None:
        return self.fds.get(vector)

    def messages(self) -> MessageSocket | None:
        return None

    def notifiers(self, called: Callable[[], None]) -> QueueNotifiers:
        return QueueNotifiers(self, called)

    # -- vnic.attach.vfio_user.notifiers.Watcher ---------------------------------------------------------------

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.watched[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.watched[fd]

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        raise NotImplementedError("an interrupt line's pause is not played here")
