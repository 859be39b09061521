"""Counters of the frames at one end of a wire, by the path that they took. `NetClient` has a Traffic; metrics read it.

Directions are those of vnic: `in` is what comes from the guest of a NIC or the far end of a netdev.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class CountedQueue(Protocol):
    """A queue in which frames come to this end."""

    passed: int
    passed_bytes: int
    overruns: int


@dataclass(slots=True)
class Frames:
    """Frames and their bytes, in both directions."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0

    def add(self, other: Frames) -> None:
        self.frames_in += other.frames_in
        self.bytes_in += other.bytes_in
        self.frames_out += other.frames_out
        self.bytes_out += other.bytes_out


class Traffic:
    """What passed at one end. The queues count what this end took; what it sent is what its peers took from it."""

    def __init__(self, queues: Sequence[CountedQueue]) -> None:
        self._queues = queues
        self._before = Frames()
        """What this end sent to the peers that it had before: the two of `in`."""
        self._peer_before = (0, 0)
        """The frames and bytes that the present peer had taken before it was joined."""
        self.wire = Frames()
        """What vnic-wire moved at ports of this end that it has no longer. What a killed one had counted is missing."""
        self.wire_drops: dict[str, int] = {}
        """The frames that it dropped there, by cause."""
        self.wire_lost = 0
        """Those of them that `NetClient.dropped` has, too."""

    @property
    def _taken(self) -> tuple[int, int]:
        return sum(each.passed for each in self._queues), sum(each.passed_bytes for each in self._queues)

    def plugged(self, old: Traffic | None, new: Traffic | None) -> None:
        """This end gets another peer."""
        if old is not None:
            frames, size = old._taken
            self._before.frames_in += frames - self._peer_before[0]
            self._before.bytes_in += size - self._peer_before[1]
        self._peer_before = (0, 0) if new is None else new._taken

    def python(self, peer: Traffic | None) -> Frames:
        """What passed through Python; `peer` is that of the present peer."""
        frames, size = (0, 0) if peer is None else peer._taken
        return Frames(
            self._before.frames_in + frames - self._peer_before[0],
            self._before.bytes_in + size - self._peer_before[1],
            *self._taken,
        )

    def python_drops(self, dropped: int) -> dict[str, int]:
        """By cause, in the words of vnic-wire, how `NetClient.dropped` came about in Python."""
        no_room = sum(each.overruns for each in self._queues)
        return {"no_peer": max(0, dropped - self.wire_lost - no_room), "no_room": no_room}
