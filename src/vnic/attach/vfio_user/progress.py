"""How far the messages of a VM have been carried out, in cells that outlive the process.

`exact.ExactConnection` writes them. A message is carried out in *steps*: one for each write of a REGION_WRITE_MULTI,
one for any other message. One cell has the position, so that it moves at once; most register accesses need nothing else
to be saved.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from vnic.protocol.vfio_user import messages as m
from vnic.record import U32, Record, require

POSITION: Final = 0
"""The number of steps so far, below it the flags, the steps of the present message, and the bytes of the whole messages
of the present piece."""
PIECE: Final = 1
"""The bytes of the present piece; valid once a message of it is done."""
PUT: Final = 2
"""The bytes in the outbox before the reply that the flags tell of."""
NEXT_ID: Final = 3
"""The id of the next request to the VM."""
COUNT: Final = 4

REPLYING: Final = 1 << 30
"""A reply is being put into the outbox: it is there if there is more than PUT says."""
LONG: Final = 1 << 31
"""Part of a message to the VM is in this process's memory only."""

_NUMBER_SHIFT: Final = 32
_NUMBER: Final = (1 << 32) - 1
_STEPS_SHIFT: Final = 21
_STEPS: Final = (1 << 9) - 1
_BYTES: Final = (1 << _STEPS_SHIFT) - 1
assert m.MAX_WRITES <= _STEPS
assert m.MAX_PAYLOAD + m.HEADER.size <= _BYTES


class StepRecord(Record, frozen=True):
    """The last step that changed what records have; it is saved together with them."""

    number: U32
    last: bool
    """It was the last one of its message, or took the beginning of a message from the socket."""
    size: Annotated[int, msgspec.Meta(ge=0, le=_BYTES)]
    """The bytes that it is done with then."""
    reply: Annotated[bytes, msgspec.Meta(max_length=m.MAX_PAYLOAD + m.HEADER.size)]

    def check_fields(self) -> None:
        require(
            self.last or not (self.size or self.reply),
            "last",
            "is not set in a step that completes a message",
        )


NO_STEP: Final = StepRecord(number=0, last=False, size=0, reply=b"")


def plain() -> memoryview:
    """Cells without a keeper."""
    return memoryview(bytearray(8 * COUNT)).cast("Q")


class Progress:
    """The position, with the cells."""

    def __init__(self, cells: memoryview) -> None:
        """Goes on from what the cells say."""
        self.cells = cells
        word = cells[POSITION]
        self.number = word >> _NUMBER_SHIFT
        self.steps = word >> _STEPS_SHIFT & _STEPS
        self.done = word & _BYTES
        self.flags = word & (REPLYING | LONG)

    def use(self, cells: memoryview) -> None:
        """Go on in these cells."""
        cells[:] = self.cells
        self.cells = cells

    @property
    def next(self) -> int:
        """The number of the next step."""
        return self.number + 1 & _NUMBER

    def write(self) -> None:
        """Move the position."""
        word = self.number << _NUMBER_SHIFT | self.flags | self.steps << _STEPS_SHIFT | self.done
        self.cells[POSITION] = word

    def stepped(self, last: bool, size: int) -> None:
        """A step is done: the last one of a message with so many bytes, or another."""
        self.number = self.next
        self.steps = 0 if last else self.steps + 1
        self.done += size
        self.flags &= ~REPLYING
        self.write()
