"""One descriptor chain of a virtqueue. `SplitQueue.pop` returns it to a data plane or a control queue."""

from __future__ import annotations

from vnic.memory.guest import Span


class Chain:
    """One descriptor chain: the driver's buffers, after their check, as bytes of its memory."""

    __slots__ = ("head", "readable", "readable_bytes", "writable", "writable_bytes")

    def __init__(
        self, head: int, readable: list[Span], readable_bytes: int, writable: list[Span], writable_bytes: int
    ) -> None:
        self.head = head
        self.readable = readable
        self.readable_bytes = readable_bytes
        self.writable = writable
        self.writable_bytes = writable_bytes

    def read(self) -> bytes:
        """A copy of all readable bytes. Check `readable_bytes` first: buffers may overlap, so it is not bounded."""
        return b"".join([mapping[start:stop] for mapping, start, stop in self.readable])

    def write(self, data: bytes) -> int:
        """Copy `data` to the writable bytes, up to their end; returns the number of bytes written."""
        at, size = 0, len(data)
        for mapping, start, stop in self.writable:
            part = data[at : at + stop - start]
            mapping[start : start + len(part)] = part
            at += len(part)
            if at == size:
                break
        return at
