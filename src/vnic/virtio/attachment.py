"""Attachment: how a virtio device model calls the transport that serves it to a VM.

vhost-user's session and virtio-pci implement it; `VirtioDevice` has NO_ATTACHMENT while no VM is attached.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from vnic.memory.guest import NO_MEMORY, GuestMemory
from vnic.pci.irq import MessageSocket


class QueueFds(NamedTuple):
    """The eventfds of one ring, owned by the attachment and valid until they are reclaimed.

    `kick` None: the ring is polled. `call` None: the driver wants no interrupt.
    """

    kick: int | None
    call: int | None


class Doorbell(NamedTuple):
    """How a VM's kicks come where they are messages: writes to `size` bytes from `first` on in a region, `stride` bytes
    for each ring."""

    messages: MessageSocket
    region: int
    first: int
    size: int
    stride: int


class Attachment(Protocol):
    """The transport that serves a device model to a VM. No method blocks or raises."""

    def config_interrupt(self) -> bool:
        """Notify the guest that status or config changed. False: not possible now. True: sent, or it will be."""
        ...

    def queue_interrupt(self, index: int) -> None:
        """Interrupt the guest for used buffers of the ring; the caller has checked the driver's suppression flag."""
        ...

    def link_changed(self, up: bool) -> None:
        """The link changed; for transports that show it by their socket. Called before config_interrupt."""
        ...

    def needs_reset(self) -> None:
        """A ring is broken and the status has NEEDS_RESET now: notify the guest if the transport can."""
        ...

    def hand_over_queue(self, index: int) -> QueueFds | None:
        """Stop serving the ring's kicks and return its eventfds, for a back-end.

        A transport whose kicks or interrupts are messages makes eventfds and translates. None: not possible, and
        the ring stays in this process.
        """
        ...

    def reclaim_queue(self, index: int) -> None:
        """The ring is back in this process: serve its kicks. The caller checks the ring itself."""
        ...

    def doorbell(self) -> Doorbell | None:
        """For a back-end that can take kicks from the VM's messages, beside `hand_over_queue`. None: kicks are no
        messages, or there are others for each packet."""
        ...


class NoAttachment:
    """No VM is attached: nothing is interrupted, and there are no eventfds."""

    def config_interrupt(self) -> bool:
        return False

    def queue_interrupt(self, index: int) -> None:
        pass

    def link_changed(self, up: bool) -> None:
        pass

    def needs_reset(self) -> None:
        pass

    def hand_over_queue(self, index: int) -> QueueFds | None:
        return None

    def reclaim_queue(self, index: int) -> None:
        pass

    def doorbell(self) -> Doorbell | None:
        return None


NO_ATTACHMENT: Final = NoAttachment()


class VirtioHandles(NamedTuple):
    """The handles of a restored device: those of its VM, if one is attached."""

    attachment: Attachment = NO_ATTACHMENT
    memory: GuestMemory = NO_MEMORY

    @property
    def attached(self) -> bool:
        return self.attachment is not NO_ATTACHMENT
