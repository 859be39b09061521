"""The device engine's rings: their starts, stops and descriptors.

`ring_messages` unpacks a message and calls one method here; only this module starts and stops the device's queues.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.protocol.vhost_user.messages import VRING_STATE, ProtocolError
from vnic.protocol.vhost_user.ring import Ring, RingAddresses, RingFds, RingRecord, RingState
from vnic.record import Record, RecordError, require, within
from vnic.virtio.queue import SplitQueue


class RingDevice(Protocol):
    """The device model (vnic.virtio.device.VirtioDevice), as the rings see it."""

    queues: list[SplitQueue]

    def queue_ready(self, index: int, base: int | None = None) -> bool: ...
    def queue_stopped(self, index: int, done: Callable[[int], None] | None = None) -> None: ...
    def queue_enabled(self, index: int, enabled: bool) -> None: ...
    def queue_fds_changed(self, index: int) -> None: ...


class Later:
    """The reply of a message that waits until a back-end has returned a ring (VirtioDevice.queue_stopped)."""

    __slots__ = ("done", "payload", "then")

    def __init__(self) -> None:
        self.done = False
        self.payload: bytes | None = None
        self.then: Callable[[], None] | None = None

    def resolve(self, payload: bytes | None = None) -> None:
        """The message is complete; `payload` is the reply's, None for a message without reply."""
        self.done = True
        self.payload = payload
        if self.then is not None:
            self.then()


class DeviceRingsRecord(Record, frozen=True):
    """The state of DeviceRings."""

    rings: list[RingRecord]


class DeviceRings:
    """All rings of one connection.

    `watch_kick(index, fd)` makes the shell serve a ring's kicks (None: stop that); `changed()` runs after a ring
    was started, stopped, enabled or disabled.
    """

    def __init__(
        self,
        device: RingDevice,
        memory: GuestMemory,
        watch_kick: Callable[[int, int | None], None],
        changed: Callable[[], None],
    ) -> None:
        self._device = device
        self.memory = memory
        self._watch_kick = watch_kick
        self._changed = changed
        self._rings = [Ring(index) for index in range(len(device.queues))]

    def __len__(self) -> int:
        return len(self._rings)

    def __iter__(self) -> Iterator[Ring]:
        return iter(self._rings)

    def __getitem__(self, index: int) -> Ring:
        return self._rings[index]

    def find(self, index: int, name: str) -> Ring:
        """The ring a message names; ProtocolError if the device has no such ring."""
        if index >= len(self._rings):
            raise ProtocolError(f"{name} for ring {index}, of {len(self._rings)}")
        return self._rings[index]

    @property
    def descriptors(self) -> int:
        """The number of the client's descriptors that the rings hold."""
        return sum(ring.descriptors for ring in self._rings)

    @property
    def running(self) -> bool:
        """Whether any ring is started and enabled."""
        return any(ring.running for ring in self._rings)

    # --- State apart from descriptors ------------------------------------------------------------------------

    def save(self) -> DeviceRingsRecord:
        return DeviceRingsRecord(rings=[ring.save() for ring in self._rings])

    @property
    def fds(self) -> list[RingFds]:
        """The descriptors of all rings, still theirs: `restore` wants as many."""
        return [ring.fds for ring in self._rings]

    def restore(self, record: DeviceRingsRecord, fds: Sequence[RingFds]) -> None:
        """Take the place of the rings that were saved, and serve their kicks. The memory is there; the device has a
        record of its own. Raises RecordError, and leaves the descriptors to the caller then."""
        count = len(record.rings)
        require(count == len(self._rings), "rings", f"are {count}, not {len(self._rings)}")
        require(count == len(fds), "rings", f"are {count}, with the descriptors of {len(fds)}")
        for index, (each, passed) in enumerate(zip(record.rings, fds, strict=True)):
            with within(f"rings[{index}]"):
                self._check(index, each, passed)
        for ring, each, passed in zip(self._rings, record.rings, fds, strict=True):
            ring.restore(each, passed)
            if each.started:
                self._watch_kick(ring.index, ring.kick_fd)

    def _check(self, index: int, record: RingRecord, fds: RingFds) -> None:
        most, size = self._device.queues[index].max_size, record.size
        require(size <= most and not size & (size - 1), "size", f"is {size}, not a power of two up to {most}")
        for name, fd in fds._asdict().items():
            told = getattr(record, name)
            require(
                told is (fd is not None),
                name,
                f"is {told}, and {'no' if told else 'a'} descriptor was passed",
            )
        if record.started and record.addresses is not None:
            told = record.addresses
            for name, (address, length) in zip(
                ("desc", "avail", "used"),
                RingAddresses(told.desc, told.used, told.avail).spans(size),
                strict=True,
            ):
                try:
                    self.memory.user_to_guest(address, length)
                except GuestMemoryError as error:
                    raise RecordError(f"addresses.{name}", str(error)) from None

    # --- Set-up ---------------------------------------------------------------------------------------------

    def set_size(self, ring: Ring, size: int) -> Later | None:
        """SET_VRING_NUM."""
        if not 0 < size <= self._device.queues[ring.index].max_size or size & (size - 1):
            raise ProtocolError(f"SET_VRING_NUM {size} for ring {ring.index}")
        if ring.running and ring.size == size:
            return None
        return self._set_up(ring, size, ring.addresses)

    def set_addresses(self, ring: Ring, addresses: RingAddresses) -> Later | None:
        """SET_VRING_ADDR."""
        if ring.running and ring.addresses == addresses:
            return None
        return self._set_up(ring, ring.size, addresses)

    def _set_up(self, ring: Ring, size: int, addresses: RingAddresses | None) -> Later | None:
        """Set a ring up, from the beginning if it was started.

        UML lets its driver go with ENABLE 0 alone, frees the rings, and later sets them up again, perhaps at the
        same place: so what is told of a started ring that is not in use makes it wait for its kick descriptor.
        """
        if ring.state is RingState.STOPPED:
            ring.size, ring.addresses = size, addresses
            self.start_if_complete(ring)
            return None
        later = Later()

        def stopped(_base: int) -> None:
            ring.replace_fd("kick_fd", None)
            ring.size, ring.addresses = size, addresses
            later.resolve()

        self.stop(ring, stopped)
        return later

    def set_kick(self, ring: Ring, fd: int) -> None:
        """SET_VRING_KICK: the ring owns `fd` now, and starts if it was stopped."""
        if ring.state is RingState.STOPPED:
            ring.replace_fd("kick_fd", fd)
            self.start_if_complete(ring)
            return
        self._watch_kick(ring.index, None)  # before it is closed: the watcher may not outlive the descriptor
        ring.replace_fd("kick_fd", fd)
        self._watch_kick(ring.index, fd)
        self._device.queue_fds_changed(ring.index)

    def set_call(self, ring: Ring, fd: int | None) -> None:
        """SET_VRING_CALL: the ring owns `fd` now. QEMU replaces it several times while the ring runs."""
        ring.replace_fd("call_fd", fd)
        if ring.state is RingState.STARTED:
            self._device.queue_fds_changed(ring.index)

    def enable(self, ring: Ring, enabled: bool) -> None:
        """SET_VRING_ENABLE, at any time."""
        if ring.enabled == enabled:
            return
        ring.enabled = enabled
        if ring.state is RingState.STARTED:
            self._device.queue_enabled(ring.index, enabled)
            self._changed()

    # --- Start and stop -------------------------------------------------------------------------------------

    def start_if_complete(self, ring: Ring) -> None:
        """Start a stopped ring once size, addresses, kick and memory are here, in whatever order they came.

        The ring continues at used.idx: every chain taken is returned in order before a ring stops, so that is the
        truth, while the base that a front-end remembers lags behind when a connection was cut (seen with QEMU).
        """
        if ring.state is RingState.STARTED or ring.kick_fd is None or ring.addresses is None or not ring.size:
            return
        if not self.memory.regions:
            return
        queue = self._device.queues[ring.index]
        desc, avail, used = self._locate(ring)
        queue.size, queue.desc, queue.avail, queue.used = ring.size, desc, avail, used
        ring.state = RingState.STARTED
        self._device.queue_enabled(ring.index, ring.enabled)
        if not self._device.queue_ready(ring.index):
            raise ProtocolError(f"ring {ring.index} cannot be used where it was placed")
        self._watch_kick(ring.index, ring.kick_fd)
        self._changed()

    def _locate(self, ring: Ring) -> tuple[int, int, int]:
        """The guest addresses of descriptor table, available and used ring. Raises GuestMemoryError."""
        assert ring.addresses is not None
        spans = ring.addresses.spans(ring.size)
        desc, avail, used = (self.memory.user_to_guest(address, length) for address, length in spans)
        return desc, avail, used

    def stop(self, ring: Ring, done: Callable[[int], None]) -> None:
        """Stop a ring; `done(base)` runs when it is no longer accessed, at once if it was stopped."""
        if ring.state is RingState.STOPPED:
            done(ring.base)
            return
        ring.state = RingState.STOPPING
        self._watch_kick(ring.index, None)
        if not ring.enabled:
            # Its memory may have been freed since (see _set_up): not even the flags are written back.
            self._device.queues[ring.index].invalidate()

        def stopped(base: int) -> None:
            ring.state = RingState.STOPPED
            done(base)

        self._device.queue_stopped(ring.index, stopped)
        self._changed()

    def get_base(self, ring: Ring) -> Later:
        """GET_VRING_BASE: stop the ring and resolve with its avail index (u16), and forget its descriptors, as
        libvhost-user and DPDK do: a restart brings new ones."""
        later = Later()

        def stopped(base: int) -> None:
            ring.base = base
            ring.replace_fd("kick_fd", None)
            ring.replace_fd("call_fd", None)
            later.resolve(VRING_STATE.pack(ring.index, base))

        self.stop(ring, stopped)
        return later

    def stop_all(self, done: Callable[[], None]) -> None:
        """Stop every ring, to start again with a new kick descriptor; `done` runs when the last one is free.

        The bases are kept: QEMU sends SET_STATUS 0 first and asks for them then, and would replay what the guest
        sent long ago if it were told zeros.
        """
        started = [ring for ring in self._rings if ring.state is RingState.STARTED]
        left = len(started)

        def stopped(ring: Ring, base: int) -> None:
            nonlocal left
            left -= 1
            ring.base = base
            ring.replace_fd("kick_fd", None)
            if not left:
                done()

        for ring in started:
            self.stop(ring, functools.partial(stopped, ring))
        if not started:
            done()

    def memory_replaced(self) -> None:
        """The memory table is another one: started rings must still lie in it, and where they were."""
        for ring in self._rings:
            if ring.state is not RingState.STARTED:
                self.start_if_complete(ring)
                continue
            queue = self._device.queues[ring.index]
            if self._locate(ring) != (queue.desc, queue.avail, queue.used):
                raise ProtocolError(f"a memory table that moves ring {ring.index} while it runs")

    def forget(self) -> None:
        """After a reset or the end of the connection: everything stopped, disabled and closed; bases are kept."""
        for ring in self._rings:
            self._watch_kick(ring.index, None)
            ring.close()
            ring.state = RingState.STOPPED
            ring.enabled = False
            ring.size = 0
            ring.addresses = None

    def unwatch(self) -> None:
        """Serve no kicks any more, while the descriptors stay open for a back-end that still has the rings."""
        for ring in self._rings:
            self._watch_kick(ring.index, None)
