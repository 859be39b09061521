"""PairEngine, which moves packets between a device's rings and its net client, and RingHost, its device model; and
RingCarrier, which takes the rings of a virtio device to vnic-wire.

A virtio device model owns one engine for each queue pair; `python_pair.PythonPair` is the reference implementation.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

from vnic.net.queue import Frame
from vnic.record import Record
from vnic.virtio.device import RingBackend
from vnic.virtio.queue import QueueError, SplitQueue


class Mode(enum.Enum):
    OFF = "off"
    """Touch no ring; received frames are dropped, as by a NIC without a driver."""
    DISCARD = "discard"
    """The link is down: complete the driver's packets unsent, and drop received frames."""
    RUN = "run"


@dataclass(frozen=True, slots=True)
class RingFormat:
    """How packets lie in the rings, as negotiated (virtio 1.2 §5.1.6)."""

    header_bytes: int = 12
    """12, or 10 for a legacy driver without mergeable buffers."""
    mergeable: bool = False
    """A received packet may be spread over several chains."""
    tx_offload: bool = False
    """The driver may leave checksums and segmentation to the device."""
    rx_offload: bool = False
    """The driver takes packets with partial checksums."""
    rx_gso_types: frozenset[int] = frozenset()
    """The driver takes unsegmented packets of these types (virtio_net_hdr gso_type, the ECN bit included)."""


class RingHost(Protocol):
    """The device model, as its engines see it. Its methods do not raise."""

    def ring_interrupt(self, index: int) -> None:
        """Interrupt the driver for used buffers in ring `index`."""
        ...

    def queue_failed(self, queue: SplitQueue, error: QueueError) -> None:
        """The driver put invalid data into `queue`; the device must stop using it."""
        ...

    def accepts(self, frame: Frame) -> bool:
        """The receive filter; the engine calls it only after `set_filtering(True)`."""
        ...


class PairRecord(Record, frozen=True):
    """The state of a PairEngine that does not follow from its rings and its mode."""

    interrupt_due: bool
    """An interrupt for the packets received in this turn is pending."""
    peer_is_full: bool
    """The peer has no room, and sending goes on when it says that it has (`sent`)."""


class PairEngine(Protocol):
    """One RX ring and one TX ring of a device, and queue `pair` of its client. Nothing raises or blocks."""

    def save(self) -> PairRecord: ...

    def restore(self, record: PairRecord) -> None: ...

    def set_mode(self, mode: Mode) -> None:
        """Idempotent. After OFF no ring is touched until another mode is set."""
        ...

    def set_format(self, ring_format: RingFormat) -> None: ...

    def set_filtering(self, filtering: bool) -> None:
        """Whether received frames have to pass RingHost.accepts."""
        ...

    def set_peer_queue(self, queue: int) -> None:
        """Set the peer's queue for the driver's packets; the default is `pair`."""
        ...

    def kick_tx(self) -> None:
        """The driver has made packets available: send a bounded number now, the rest in later turns."""
        ...

    def kick_rx(self) -> None:
        """The driver has made room available."""
        ...

    def interrupt_rx(self) -> None:
        """Send the pending interrupt for received packets now, if there is one."""
        ...

    def sent(self) -> None:
        """The peer has room again (Endpoint.sent)."""
        ...

    def receive(self, frame: Frame, offload: bytes) -> bool:
        """A frame for the driver (Endpoint.receive). False: no room now; the engine calls `client.flush` later."""
        ...


class RingCarrier(RingBackend):
    """A RingBackend that is not the device's peer: it moves packets between the rings and whatever the peer is."""

    @abstractmethod
    def filter_changed(self) -> None:
        """The driver's receive filter or MAC changed."""

    @abstractmethod
    def inject(self, queue: int, frame: Frame) -> None:
        """Put a frame of this process into the RX ring of a queue pair. It is dropped where there is no room."""
