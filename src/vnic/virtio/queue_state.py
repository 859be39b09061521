"""The states of a split virtqueue. `SplitQueue` keeps its own in a plain attribute, which is read for each packet."""

from __future__ import annotations

import enum
from typing import Final

from vnic.lifecycle import Moves


class QueueState(enum.Enum):
    """The state of a ring."""

    STOPPED = "stopped"
    RUNNING = "running"
    BROKEN = "broken"
    """The driver broke the rules: nothing is popped or pushed until the ring is set up again."""


MOVES: Final[Moves[QueueState]] = {
    QueueState.STOPPED: frozenset({QueueState.RUNNING, QueueState.BROKEN}),
    QueueState.RUNNING: frozenset({QueueState.STOPPED}),
    QueueState.BROKEN: frozenset({QueueState.STOPPED}),
}
