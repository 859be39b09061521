"""Splits the byte stream of a socket into messages, each with its descriptors.

The socket shells of vhost-user and vfio-user feed every piece that `vnic.sockets.connection` reads. Both protocols
have a fixed header with the payload's size, and pass descriptors beside the bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from vnic.descriptors import close_fds
from vnic.record import Record, RecordError, require, within


class FrameError(Exception):
    """The byte stream is invalid: the connection must be closed."""


@dataclass(slots=True)
class Message:
    """One whole message. Its receiver owns the descriptors: it takes some, then calls `close()` for the rest.

    `take(n)` and `close()` are the only two ways out for a descriptor, so a handler that refuses a message
    half-way leaks nothing as long as its caller closes the message in a `finally`.
    """

    header: bytes
    payload: bytes
    fds: list[int] = field(default_factory=list)

    def take(self, count: int = 1) -> list[int]:
        """Return the first `count` descriptors; the caller owns them now."""
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken

    def close(self) -> None:
        """Close the descriptors that were not taken."""
        fds, self.fds = self.fds, []
        close_fds(fds)


class FrameAssemblerRecord(Record, frozen=True):
    """The message that a FrameAssembler has begun."""

    data: bytes
    descriptors: Annotated[int, msgspec.Meta(ge=0, le=253)]
    """How many came with it; 253 is SCM_MAX_FD."""


class MessageRecord(Record, frozen=True):
    """A whole message that waits."""

    header: bytes
    payload: bytes
    descriptors: Annotated[int, msgspec.Meta(ge=0, le=253)]

    @staticmethod
    def of(message: Message) -> MessageRecord:
        return MessageRecord(header=message.header, payload=message.payload, descriptors=len(message.fds))


class MessageQueueRecord(Record, frozen=True):
    """What a MessageQueue was fed and has not given out."""

    waiting: list[MessageRecord]
    begun: FrameAssemblerRecord


class FrameAssembler:
    """(bytes, fds) pieces in, whole `Message`s out.

    `header_size` bytes announce the payload: `payload_size(header)` returns its length in bytes, or raises
    the protocol's own error for a header that makes no sense. A payload above `max_payload` bytes or more
    than `max_fds` descriptors on one message raise FrameError.

    To which message does a descriptor belong? On an AF_UNIX stream one read never goes beyond the bytes that
    the descriptors were sent with (Linux unix_stream_read_generic stops there), and it returns those of one
    sendmsg() only. So they belong to one of the messages that this sendmsg() had, the last ones of the piece:

    - to the first message of the piece that `needs_fds`: what came in earlier calls cannot need any, as the read
      would have stopped there (vhost-user, where the number or the payload tells);
    - else to the message which holds the *last* byte of the piece. That is exact as long as the peer sends no
      second message in the same sendmsg() as one with descriptors (vfio-user clients do not).

    A peer that breaks this gets its descriptors refused as surplus, and harms no other peer.
    """

    def __init__(
        self,
        header_size: int,
        payload_size: Callable[[bytes], int],
        *,
        max_payload: int,
        max_fds: int,
        needs_fds: Callable[[Message], bool] | None = None,
    ) -> None:
        self._needs_fds = needs_fds
        self._header_size = header_size
        self._payload_size = payload_size
        self._max_payload = max_payload
        self._max_fds = max_fds
        self._buffer = bytearray()
        self._total: int | None = None  # size of the message being collected, once its header is here
        self._fds: list[int] = []

    @property
    def wanted(self) -> int:
        """How many bytes (at least 1) may be read without crossing the next header or message boundary."""
        total = self._header_size if self._total is None else self._total
        return total - len(self._buffer)

    @property
    def pending(self) -> bool:
        """Whether a message is incomplete."""
        return bool(self._buffer or self._fds)

    @property
    def descriptors(self) -> int:
        """The number of descriptors of the incomplete message."""
        return len(self._fds)

    def feed(self, data: bytes | bytearray | memoryview, fds: Iterable[int] = ()) -> list[Message]:
        """Take one piece; return the messages it completed, in order.

        The descriptors are owned by the assembler from the call on, also when it raises: after an error the
        stream is lost, everything collected is closed and the assembler is of no further use.
        """
        messages: list[Message] = []
        arrived = list(fds)
        try:
            self._cut(data, messages)
            if arrived:
                self._bind(messages, arrived)
        except BaseException:
            for message in messages:
                message.close()
            close_fds(arrived)  # _bind raises before it gives any of them away
            self.close()
            raise
        return messages

    def save(self) -> FrameAssemblerRecord:
        return FrameAssemblerRecord(data=bytes(self._buffer), descriptors=len(self._fds))

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that `save` counts, still the assembler's."""
        return tuple(self._fds)

    def restore(self, record: FrameAssemblerRecord, fds: Sequence[int]) -> None:
        """Go on with a message that was begun; the descriptors are the assembler's then. RecordError leaves them the
        caller's."""
        self._total = self.check(record, len(fds))
        self._buffer, self._fds = bytearray(record.data), list(fds)

    def check(self, record: FrameAssemblerRecord, passed: int) -> int | None:
        """Raise RecordError unless `record`, with so many descriptors, is the beginning of a message; returns the
        message's size, if its header is there."""
        self._check_descriptors(record.descriptors, passed)
        if len(record.data) < self._header_size:
            return None
        total = self._header_size + self._announced("data", record.data[: self._header_size])
        require(len(record.data) < total, "data", "is a whole message")
        return total

    def check_whole(self, record: MessageRecord, passed: int) -> None:
        """Raise RecordError unless `record`, with so many descriptors, is a whole message."""
        self._check_descriptors(record.descriptors, passed)
        size = len(record.header)
        require(size == self._header_size, "header", f"has {size} bytes, not {self._header_size}")
        size, told = len(record.payload), self._announced("header", record.header)
        require(size == told, "payload", f"has {size} bytes, not {told}")

    def _check_descriptors(self, told: int, passed: int) -> None:
        require(told == passed, "descriptors", f"are {told}, and {passed} were passed")
        require(told <= self._max_fds, "descriptors", f"are {told}, at most {self._max_fds} may be")

    def _announced(self, field: str, header: bytes) -> int:
        try:
            size = self._payload_size(header)
        except Exception as error:  # the protocol's own, for a header that makes no sense
            raise RecordError(field, str(error)) from None
        require(0 <= size <= self._max_payload, field, f"announces a payload of {size} bytes")
        return size

    def close(self) -> None:
        """Drop an incomplete message and its descriptors."""
        self._buffer.clear()
        self._total = None
        fds, self._fds = self._fds, []
        close_fds(fds)

    def take_begun(self) -> tuple[bytes, list[int]]:
        """Give out what is begun; its caller owns the descriptors."""
        data, fds = bytes(self._buffer), self._fds
        self._buffer.clear()
        self._total, self._fds = None, []
        return data, fds

    def _cut(self, data: bytes | bytearray | memoryview, messages: list[Message]) -> None:
        """Add the messages that `data` completes to `messages`, and keep the rest; earlier pieces' fds go to the
        first."""
        header_size = self._header_size
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < (self._total or header_size):
                return
            piece = bytes(self._buffer)
            self._buffer.clear()
        else:
            piece = bytes(data)
        start, size, total = 0, len(piece), self._total
        while size - start >= header_size:
            header = piece[start : start + header_size]
            if total is None:
                payload = self._payload_size(header)
                if not 0 <= payload <= self._max_payload:
                    raise FrameError(
                        f"message payload of {payload} bytes, at most {self._max_payload} allowed"
                    )
                total = header_size + payload
            if size - start < total:
                break
            fds, self._fds = self._fds, []
            messages.append(Message(header, piece[start + header_size : start + total], fds))
            start += total
            total = None
        self._total = total
        if start < size:
            self._buffer += piece[start:]

    def _bind(self, messages: list[Message], fds: list[int]) -> None:
        """Give the piece's descriptors to the message that they were sent with."""
        owner = self._fds if self._buffer or not messages else messages[-1].fds
        if self._needs_fds is not None:
            owner = next((each.fds for each in messages if self._needs_fds(each) and not each.fds), owner)
        if len(owner) + len(fds) > self._max_fds:
            raise FrameError(f"more than {self._max_fds} descriptors with one message")
        owner.extend(fds)


class MessageQueue:
    """The messages that one connection brought and nobody has taken yet, and the one that is being read."""

    def __init__(self, assembler: FrameAssembler) -> None:
        self._assembler = assembler
        self._waiting: deque[Message] = deque()

    def __len__(self) -> int:
        """The number of whole messages."""
        return len(self._waiting)

    @property
    def wanted(self) -> int:
        """As `FrameAssembler.wanted`."""
        return self._assembler.wanted

    @property
    def pending(self) -> bool:
        """Whether a message is incomplete."""
        return self._assembler.pending

    @property
    def descriptors(self) -> int:
        """The number of descriptors of all messages."""
        return self._assembler.descriptors + sum(len(message.fds) for message in self._waiting)

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> None:
        """Take one piece, as `FrameAssembler.feed`."""
        self._waiting += self._assembler.feed(data, fds)

    def take(self) -> Message | None:
        """The oldest message; None if none is whole. The caller closes it."""
        return self._waiting.popleft() if self._waiting else None

    def save(self) -> MessageQueueRecord:
        return MessageQueueRecord(
            waiting=[MessageRecord.of(message) for message in self._waiting], begun=self._assembler.save()
        )

    @property
    def fds(self) -> list[Sequence[int]]:
        """The descriptors of each message that `save` has, still the queue's; last those of the half-read one."""
        return [*(message.fds for message in self._waiting), self._assembler.fds]

    def restore(self, record: MessageQueueRecord, fds: Sequence[Sequence[int]]) -> None:
        """Go on in the place of the queue that was saved; the descriptors are this one's then. RecordError leaves them
        the caller's."""
        self.check(record, fds)
        self._waiting = deque(
            Message(each.header, each.payload, list(passed))
            for each, passed in zip(record.waiting, fds[:-1], strict=True)
        )
        self._assembler.restore(record.begun, fds[-1])

    def check(self, record: MessageQueueRecord, fds: Sequence[Sequence[int]]) -> None:
        """Raise RecordError if `restore` would."""
        count = len(record.waiting)
        fit = count + 1 == len(fds)
        require(fit, "waiting", f"are {count} and a half-read one, with the descriptors of {len(fds)}")
        for at, each in enumerate(record.waiting):
            with within(f"waiting[{at}]"):
                self._assembler.check_whole(each, len(fds[at]))
        with within("begun"):
            self._assembler.check(record.begun, len(fds[-1]))

    def take_begun(self) -> tuple[bytes, list[int]]:
        """The message that is begun, which its caller feeds again, with the rest."""
        return self._assembler.take_begun()

    def check_whole(self, record: MessageRecord) -> None:
        """Raise RecordError unless it is a message without descriptors that this connection may have brought."""
        self._assembler.check_whole(record, 0)

    def drop(self) -> None:
        """Drop the whole messages and their descriptors."""
        while self._waiting:
            self._waiting.popleft().close()

    def close(self) -> None:
        """Drop everything: the connection has ended."""
        self.drop()
        self._assembler.close()
