"""Counters of the frames at one end of a wire, by the path that they took. `NetClient` has one; metrics read it.

Directions are those of vnic: `in` is what comes from the guest of a NIC or the far end of a netdev.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Frames:
    """Frames and their bytes, in both directions."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class Traffic:
    """The counters that are kept outside of the queues."""

    before: Frames = field(default_factory=Frames)
    """What this end sent through Python to the peers that it had before (only the two of `in` are used)."""
    peer_frames: int = 0
    peer_bytes: int = 0
    """What the present peer had taken when the two were joined."""
    wire: Frames = field(default_factory=Frames)
    """What vnic-wire moved at ports of this end that it has no longer. What a killed one had counted is missing."""
    wire_drops: dict[str, int] = field(default_factory=dict)
    """The frames that it dropped there, by cause."""
    wire_lost: int = 0
    """Those of them that `NetClient.dropped` has, too."""
