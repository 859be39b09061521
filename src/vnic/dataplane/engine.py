"""What moves packets between a device's rings and its net client: the interface, and what an engine asks of its host.

A virtio device model owns one engine for each queue pair; `python_pair.PythonPair` is the reference. A faster
one has the same methods.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from vnic.net.queue import Frame
from vnic.record import Record
from vnic.virtio.queue import QueueError, SplitQueue


class Mode(enum.Enum):
    OFF = "off"
    """Touch no ring; what is received is lost, as at a NIC without a driver."""
    DISCARD = "discard"
    """The link is down: what the driver sends is completed unsent, what is received is lost."""
    RUN = "run"


@dataclass(frozen=True, slots=True)
class RingFormat:
    """How packets lie in the rings, as negotiated (virtio 1.2 §5.1.6)."""

    header_bytes: int = 12
    """12, or 10 for a legacy driver without mergeable buffers."""
    mergeable: bool = False
    """A received packet may be spread over several chains."""
    tx_offload: bool = False
    """The driver may leave checksums and segmentation to us."""
    rx_offload: bool = False
    """The driver takes packets with partial checksums,"""
    rx_gso_types: frozenset[int] = frozenset()
    """and unsegmented ones of these types (virtio_net_hdr gso_type, the ECN bit included)."""


class RingHost(Protocol):
    """The device model, as its engines see it."""

    def ring_interrupt(self, index: int) -> None:
        """The driver of ring `index` wants to hear that buffers were used."""
        ...

    def queue_failed(self, queue: SplitQueue, error: QueueError) -> None:
        """The driver broke `queue`; it must be taken out of service."""
        ...

    def accepts(self, frame: Frame) -> bool:
        """The receive filter, asked only where the engine was told that there is one."""
        ...


class PairRecord(Record, frozen=True):
    """The state of a PairEngine that its rings, its mode and a look at them do not bring back."""

    interrupt_due: bool
    """The driver is to be interrupted for what it received in this turn."""


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
        """The queue of the peer that gets what the driver sends; `pair`, until told otherwise."""
        ...

    def kick_tx(self) -> None:
        """The driver has made packets available: send a bounded number now, the rest in later turns."""
        ...

    def kick_rx(self) -> None:
        """The driver has made room available."""
        ...

    def interrupt_rx(self) -> None:
        """Tell the driver now of what it received, if it has not been told yet."""
        ...

    def sent(self) -> None:
        """The peer, which had no room, has some again (Endpoint.sent)."""
        ...

    def receive(self, frame: Frame, offload: bytes) -> bool:
        """A frame for the driver (Endpoint.receive). False: no room now, `client.flush` follows when there is."""
        ...
