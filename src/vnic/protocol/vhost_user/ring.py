"""The parameters of one ring that a front-end has set so far, and its descriptors.

`BackendEngine` keeps one of these per queue; the ring itself lives in `vnic.virtio.queue.SplitQueue`.
"""

from __future__ import annotations

import enum
import os
from typing import Final, NamedTuple

from vnic.descriptors import NOTIFIERS, Kind, close_fds, kind_of
from vnic.lifecycle import Lifecycle, Moves
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.record import U16, U64, Record, require

DESC_BYTES: Final = 16
"""Bytes of one descriptor (virtio 1.2 §2.7.5); the other two parts are sized by the same chapter."""


class RingState(enum.Enum):
    """The specification's states of a ring, without enabled/disabled, which is independent."""

    STOPPED = enum.auto()
    STARTED = enum.auto()
    STOPPING = enum.auto()
    """Stopped for the front-end, and a back-end has not returned it yet."""


MOVES: Final[Moves[RingState]] = {
    RingState.STOPPED: frozenset({RingState.STARTED}),
    RingState.STARTED: frozenset({RingState.STOPPING, RingState.STOPPED}),
    RingState.STOPPING: frozenset({RingState.STOPPED}),
}


class RingAddresses(NamedTuple):
    """Where the ring's three parts are, in addresses of the front-end's own process."""

    desc: int
    used: int
    avail: int

    def spans(self, size: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(address, bytes) of the descriptor table, the available and the used ring for `size` entries."""
        return (
            (self.desc, DESC_BYTES * size),
            (self.avail, 6 + 2 * size),
            (self.used, 6 + 8 * size),
        )


class AddressesRecord(Record, frozen=True):
    """RingAddresses."""

    desc: U64
    used: U64
    avail: U64


class RingRecord(Record, frozen=True):
    """The state of a Ring apart from its descriptors."""

    started: bool
    enabled: bool
    size: U16
    base: U16
    addresses: AddressesRecord | None
    kick: bool
    """It has this descriptor; so for `call` and `err`."""
    call: bool
    err: bool

    def check_fields(self) -> None:
        require(not self.started or self.size, "size", "of a ring that is started is 0")
        require(not self.started or self.addresses, "addresses", "of a ring that is started are missing")
        require(not self.started or self.kick, "kick", "of a ring that is started is missing")


class RingFds(NamedTuple):
    """The descriptors of one ring."""

    kick: int | None
    call: int | None
    err: int | None


class Ring:
    """One ring: STOPPED until it has a size, addresses and a kick descriptor, then STARTED until GET_VRING_BASE."""

    state = Lifecycle(RingState.STOPPED, MOVES)

    def __init__(self, index: int) -> None:
        self.index = index
        self.enabled = False
        self.size = 0
        self.base = 0
        """The reply to GET_VRING_BASE for a stopped ring."""
        self.addresses: RingAddresses | None = None
        self.kick_fd: int | None = None
        self.call_fd: int | None = None
        self.err_fd: int | None = None

    @property
    def running(self) -> bool:
        """Whether the ring is started and enabled: the guest's driver uses it."""
        return self.state is RingState.STARTED and self.enabled

    @property
    def descriptors(self) -> int:
        """The number of its three descriptors that it has."""
        return (self.kick_fd is not None) + (self.call_fd is not None) + (self.err_fd is not None)

    @property
    def fds(self) -> RingFds:
        return RingFds(self.kick_fd, self.call_fd, self.err_fd)

    def save(self) -> RingRecord:
        """One that is on its way back is still started: the message that stops it is taken again."""
        return RingRecord(
            started=self.state is not RingState.STOPPED,
            enabled=self.enabled,
            size=self.size,
            base=self.base,
            addresses=None if self.addresses is None else AddressesRecord(**self.addresses._asdict()),
            kick=self.kick_fd is not None,
            call=self.call_fd is not None,
            err=self.err_fd is not None,
        )

    def restore(self, record: RingRecord, fds: RingFds) -> None:
        """Take a record over that was checked (`DeviceRings.restore`), and the descriptors."""
        Ring.state.restore(self, RingState.STARTED if record.started else RingState.STOPPED)
        self.enabled, self.size, self.base = record.enabled, record.size, record.base
        told = record.addresses
        self.addresses = None if told is None else RingAddresses(told.desc, told.used, told.avail)
        self.kick_fd, self.call_fd, self.err_fd = fds

    def replace_fd(self, name: str, fd: int | None) -> None:
        """Put `fd` in the place of the descriptor `name`, which is closed."""
        old: int | None = getattr(self, name)
        setattr(self, name, fd)
        if old is not None:
            close_fds((old,))

    def close(self) -> None:
        """Close the three descriptors."""
        for name in ("kick_fd", "call_fd", "err_fd"):
            self.replace_fd(name, None)


def check_notifier(fd: int, what: str) -> None:
    """Refuse a descriptor that cannot serve as an eventfd, and make it non-blocking.

    Clients pass eventfds, UML also socketpairs; epoll knows nothing of regular files and directories, and a
    device node could do anything. O_NONBLOCK belongs to the open file that we share with the client: it is what
    keeps a full counter or an empty pipe from stopping the loop.
    """
    if kind_of(fd) not in NOTIFIERS:
        raise ProtocolError(f"{what} with a descriptor that is no eventfd, pipe or socket")
    os.set_blocking(fd, False)


def check_channel(fd: int, what: str) -> None:
    """Refuse a descriptor that is no socket as the channel for back-end requests; make it non-blocking."""
    if kind_of(fd) is not Kind.SOCKET:
        raise ProtocolError(f"{what} with a descriptor that is no socket")
    os.set_blocking(fd, False)
