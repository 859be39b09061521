"""What an end of a wire lends to the program that moves its packets (vnic-wire), and what the program gives back.

Back-ends and device models implement it; `wire` chooses who lends, and `dataplane/wire` passes it on.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

from vnic.net.queue import Frame


class LentKind(enum.Enum):
    """What a lent descriptor is."""

    TAP = "tap"
    STREAM = "stream"
    """Frames behind their length, as QEMU's netdev stream sends them."""
    DGRAM = "dgram"
    """One frame for each datagram."""
    PACKET = "packet"


class Lent(NamedTuple):
    """The descriptors of a netdev, which keeps them open, and the state of what they carry."""

    fds: tuple[int, ...]
    """One for each queue."""
    vnet_hdr: bool = False
    """Each frame comes behind a virtio_net_hdr of 10 bytes, and may have a pending checksum or segmentation."""
    dest: bytes = b""
    """The sockaddr that datagrams are sent to; empty: the socket is connected."""
    input: bytes = b""
    """Read and not yet a whole frame (STREAM)."""
    output: bytes = b""
    """Not yet written (STREAM)."""


Inject: TypeAlias = Callable[[int, Frame, bytes], None]
"""Sends a frame of this process out at the lent end: its queue, the frame, and its offload header or nothing."""

MAX_LENT_BYTES = 64 * 1024
"""The most bytes of `input` and `output`, together."""


class Lender(ABC):
    """A netdev's descriptors, as long as they are the same; a new connection is a new Lender."""

    kind: ClassVar[LentKind]

    @abstractmethod
    def can_lend(self, ready: Callable[[], None]) -> bool:
        """Whether `lend` may be called now. False: `ready` is called when it may."""

    @abstractmethod
    def lend(self, inject: Inject) -> Lent:
        """Stop to read and write. Until `take_back`, frames for this end go to `inject`."""

    @abstractmethod
    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        """Read and write again, from that state on. `lost`: the program ended and left no state. It may be called after
        this end was closed."""

    def recalled(self, input: bytes, output: bytes, *, lost: bool = False) -> None:  # noqa: B027  # most need none
        """As `take_back`, of an end that was restored just now: the record was saved while the end was lent. The
        default is for ends whose descriptors carry no state."""


class ResidentEnd:
    """Marks an end that is at the program whenever that runs, in a wire or not: a tunnel, whose continuity checks go
    on while its link is down."""


class GuestRings:
    """Marks an endpoint whose guest's rings can be handed over (virtio-net)."""


LentEnd: TypeAlias = Lender | ResidentEnd | GuestRings
