"""Fills and writes the shadow copy of a VM that does not share its memory, by DMA_READ and DMA_WRITE messages.

`function.VfioPciPort` makes one for such a VM; its device model drives it (`vnic.memory.shadow.Shadow`). It never
blocks: answers arrive as the VM sends them, and answers to requests from before a reset or an unmapping are ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final, NamedTuple

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import Part, Plan
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import MAX_DMA_REQUESTS

TRANSFER_BYTES: Final = 16 << 10
"""The data of one message. QEMU sends a reply in one call and never sends the rest (hw/vfio-user/proxy.c,
vfio_user_send_qio): below 32 KiB a socket takes all of it or, to be retried, nothing."""
LEAST_TRANSFER_BYTES: Final = 64
IN_FLIGHT: Final = 32
IN_FLIGHT_BYTES: Final = 64 << 10
"""The most messages, and the most data, that may wait for an answer. With the kernel's overhead they fit into the
socket's buffers (208 KiB) in both directions, so that neither side blocks the other. The replies to register accesses
are sent after them."""
OWED_BYTES: Final = 4 << 20
"""While more than this is to be written, nothing is fetched, so that a device cannot produce more writes."""
MESSAGE_COST_BYTES: Final = 256
"""The least that one write counts."""
SHADOW_BYTES: Final = 16 << 20
"""The most memory of the shadow copy for each ring, and once for everything else; above it all is dropped and fetched
again. It is more than twice what a ring needs at a time, with buffers of one byte a page apart."""
_PAGE: Final = 4096
assert IN_FLIGHT <= MAX_DMA_REQUESTS

Failed = Callable[[GuestMemoryError], None]


class _Fetching:
    """A plan in progress."""

    def __init__(self, plan: Callable[[], Plan], act: Callable[[], None], failed: Failed) -> None:
        self.plan = plan
        self.act = act
        self.failed = failed
        self.steps = plan()
        self.answers: list[bytearray] = []  # to the ranges of this step
        self.missing = 0
        self.again = False
        self.over = False


class _Request(NamedTuple):
    """A message to be sent."""

    address: int
    what: bytes | int
    """The data to write, or the number of bytes to read."""
    answered: Callable[[bytes | None], None]
    reader: _Fetching | None = None
    sent: Callable[[], None] | None = None
    """Nothing is sent: it is called when everything before is."""


class _Batch:
    """Writes that belong together."""

    def __init__(self, done: Callable[[], None], failed: Failed) -> None:
        self.done = done
        self.failed = failed
        self.missing = 0
        self.cost = MESSAGE_COST_BYTES
        self.error: GuestMemoryError | None = None


class MessageShadow:
    """The `vnic.memory.shadow.Shadow` of one VM, from when its memory is known to `close`.

    `forget` has to empty the shadow copy and have the device start over. It is called only from here, when an answer
    arrives.
    """

    def __init__(
        self,
        memory: GuestMemory,
        server: Server,
        send: Callable[[bytes], None],
        forget: Callable[[], None],
    ) -> None:
        self._memory = memory
        self._server = server
        self._send = send
        self._forget = forget
        most = server.capabilities.get("max_data_xfer_size")
        self._transfer = min(TRANSFER_BYTES, most) if isinstance(most, int) else TRANSFER_BYTES
        self._transfer = max(self._transfer, LEAST_TRANSFER_BYTES)
        self._under_way: dict[Hashable, _Fetching] = {}
        self._keys: set[Hashable] = set()  # all rings so far
        self._waiting: dict[Hashable, tuple[Callable[[], Plan], Callable[[], None], Failed]] = {}
        self._batches: deque[_Batch] = deque()
        self._owed = 0  # the sum of the batches
        self._requests: deque[_Request] = deque()
        self._in_flight = self._bytes_in_flight = self._writes_in_flight = 0
        self._quiet: Callable[[], None] | None = None
        self._touched = 0  # bytes of the used pages of the shadow copy, counted each time
        self._closed = False

    def close(self) -> None:
        """The VM has disconnected."""
        self._closed = True
        self._writes_in_flight = 0
        self.drop()

    # --- vnic.memory.shadow.Shadow ---

    def fetch(
        self,
        key: Hashable,
        plan: Callable[[], Plan],
        act: Callable[[], None],
        failed: Failed,
        *,
        anew: bool = False,
    ) -> None:
        before = self._under_way.get(key)
        if before is not None and not anew:
            before.again = True
            return
        if before is not None:
            self._end(key, before)
        if self._owed > OWED_BYTES:
            self._waiting[key] = (plan, act, failed)
        elif not self._closed:
            self._keys.add(key)
            self._under_way[key] = fetching = _Fetching(plan, act, failed)
            self._step(key, fetching)

    def write(self, parts: Sequence[Part], done: Callable[[], None], failed: Failed) -> None:
        if self._closed:
            return
        batch = _Batch(done, failed)
        for address, data in parts:
            self._touch(address, len(data))
            for at in range(0, len(data), self._transfer):
                piece = data[at : at + self._transfer]
                batch.missing += 1
                batch.cost += max(len(piece), MESSAGE_COST_BYTES)
                written = partial(self._written, batch, address + at)
                self._requests.append(_Request(address + at, piece, written))
        self._batches.append(batch)
        self._owed += batch.cost
        self._finish_batches()
        self._pump()

    def when_sent(self, act: Callable[[], None]) -> None:
        self._requests.append(_Request(0, b"", _unanswered, sent=act))
        self._pump()

    def drop(self, quiet: Callable[[], None] | None = None) -> None:
        for key, fetching in list(self._under_way.items()):
            self._end(key, fetching)
        self._waiting.clear()
        self._requests.clear()
        self._batches.clear()
        self._owed = 0
        self._quiet = quiet or self._quiet
        self._tell_quiet()

    # --- Fetching ---

    def _step(self, key: Hashable, fetching: _Fetching) -> None:
        """Continue a plan: the answers to its last ranges have arrived."""
        try:
            answers = [bytes(answer) for answer in fetching.answers]
            ranges = fetching.steps.send(answers) if answers else next(fetching.steps)
            while not self._ask(key, fetching, ranges):
                ranges = fetching.steps.send([b""] * len(ranges))
        except StopIteration:
            self._end(key, fetching)
            fetching.act()
            if fetching.again:
                self.fetch(key, fetching.plan, fetching.act, fetching.failed)
        except GuestMemoryError as error:
            self._end(key, fetching)
            fetching.failed(error)
        else:
            self._pump()

    def _ask(self, key: Hashable, fetching: _Fetching, ranges: list[tuple[int, int]]) -> bool:
        """Request all mapped ranges; False: none is mapped."""
        fetching.answers = []
        for number, (address, length) in enumerate(ranges):
            try:
                self._memory.spans(address, length)
            except GuestMemoryError:
                fetching.answers.append(bytearray())
                continue
            self._touch(address, length)
            fetching.answers.append(bytearray(length))
            for at in range(0, length, self._transfer):
                fetching.missing += 1
                answered = partial(self._read, key, fetching, number, address, at)
                size = min(length - at, self._transfer)
                self._requests.append(_Request(address + at, size, answered, fetching))
        return fetching.missing > 0

    def _read(
        self, key: Hashable, fetching: _Fetching, number: int, address: int, at: int, data: bytes | None
    ) -> None:
        if fetching.over:
            return
        if data is None:
            self._end(key, fetching)
            fetching.failed(GuestMemoryError(f"the VM does not let its memory at {address + at:#x} be read"))
            return
        fetching.answers[number][at : at + len(data)] = data
        fetching.missing -= 1
        if not fetching.missing:
            self._step(key, fetching)

    def _end(self, key: Hashable, fetching: _Fetching) -> None:
        """The plan has succeeded, failed or been cancelled; late answers are ignored."""
        fetching.over = True
        del self._under_way[key]
        if fetching.missing:
            self._requests = deque(request for request in self._requests if request.reader is not fetching)

    # --- Writing ---

    def _written(self, batch: _Batch, address: int, data: bytes | None) -> None:
        batch.missing -= 1
        if data is None:
            batch.error = GuestMemoryError(f"the VM does not let its memory at {address:#x} be written")
        self._finish_batches()

    def _finish_batches(self) -> None:
        batches = self._batches
        while batches and not batches[0].missing:
            batch = batches.popleft()
            self._owed -= batch.cost
            if batch.error is None:
                batch.done()
            else:
                batch.failed(batch.error)

    def _tell_quiet(self) -> None:
        if not self._writes_in_flight and self._quiet is not None:
            quiet, self._quiet = self._quiet, None
            quiet()

    # --- Messages ---

    def _pump(self) -> None:
        """Send as much as the limits allow; the rest when answers arrive."""
        while (
            self._requests
            and not self._closed
            and self._in_flight < IN_FLIGHT
            and self._bytes_in_flight < IN_FLIGHT_BYTES
        ):
            address, what, answered, _, sent = self._requests.popleft()
            if sent is not None:
                sent()
                continue
            if isinstance(what, int):
                done = partial(self._answered, what, False, answered)
                message = self._server.dma_read(address, what, done)
                self._bytes_in_flight += what
            else:
                done = partial(self._answered, len(what), True, answered)
                message = self._server.dma_write(address, what, done)
                self._bytes_in_flight += len(what)
                self._writes_in_flight += 1
            self._in_flight += 1
            self._send(message)

    def _answered(
        self, size: int, writing: bool, answered: Callable[[bytes | None], None], data: bytes | None
    ) -> None:
        if self._closed:
            return
        self._in_flight -= 1
        self._bytes_in_flight -= size
        if writing:
            self._writes_in_flight -= 1
            self._tell_quiet()
        if self._touched > SHADOW_BYTES * (1 + len(self._keys)):
            self._touched = 0
            self._forget()
        answered(data)
        if self._waiting and self._owed <= OWED_BYTES:
            waiting, self._waiting = self._waiting, {}
            for key, (plan, act, failed) in waiting.items():
                self.fetch(key, plan, act, failed)
        self._pump()

    def _touch(self, address: int, length: int) -> None:
        self._touched += ((address + length - 1) // _PAGE - address // _PAGE + 1) * _PAGE


def _unanswered(_data: bytes | None) -> None:
    """Nothing was asked."""
