"""A guest's virtio-net driver for tests: real memory, real split rings, real eventfds.

`DriverRing` is the driver's side of one ring (virtio 1.2 §2.7), honest or hostile, and knows no transport.
`NetDriver` is a whole driver: `plug` connects it to a device model in this process; a test of a socket transport
sends its rings' addresses and fds itself.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence

from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.virtio.attachment import Doorbell, QueueFds
from vnic.virtio.device import VirtioDevice
from vnic.virtio.features import EVENT_IDX

NEXT, WRITE, INDIRECT = 1, 2, 4
_DESC = struct.Struct("<QIHH")

Buffer = tuple[int, int]
"""Guest address and length."""


class DriverRing:
    """The driver's side of a split ring. Descriptors are allocated here; buffers are the caller's."""

    def __init__(self, memory: FakeGuestMemory, index: int = 0, size: int = 256) -> None:
        self.memory = memory
        self.index = index
        self.size = size
        self.desc = memory.alloc(16 * size, 16)
        self.avail = memory.alloc(6 + 2 * size, 2)
        self.used = memory.alloc(6 + 8 * size, 4)
        self._avail = memory.view(self.avail, 6 + 2 * size).cast("H")
        self._used_idx = memory.view(self.used, 4).cast("H")
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.avail_idx = 0
        self.last_used = 0
        self.event_idx = False
        """EVENT_IDX was negotiated: kicks and interrupts are asked for by index (§2.7.7.1, §2.7.10)."""
        self.shown_idx = 0
        self._no_interrupt = False
        self._free = list(range(size - 1, -1, -1))
        self._chains: dict[int, list[int]] = {}

    def close(self) -> None:
        self._avail.release()
        self._used_idx.release()
        os.close(self.kick_fd)
        os.close(self.call_fd)

    def restart(self) -> None:
        """Forget everything in flight, as a driver does after a device reset."""
        self.memory.write(self.avail, bytes(6 + 2 * self.size))
        self.memory.write(self.used, bytes(6 + 8 * self.size))
        self.avail_idx = self.last_used = self.shown_idx = 0
        self._free = list(range(self.size - 1, -1, -1))
        self._chains.clear()

    # -- adding -------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Descriptors left."""
        return len(self._free)

    def set_desc(self, index: int, addr: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor, whatever it is."""
        self.memory.write(self.desc + 16 * index, _DESC.pack(addr, length, flags, following))

    def add(
        self, readable: Sequence[Buffer], writable: Sequence[Buffer] = (), *, indirect: bool = False
    ) -> int:
        """Add a chain to the available ring and return its head. The device sees it after `publish`."""
        parts = [(addr, length, 0) for addr, length in readable]
        parts += [(addr, length, WRITE) for addr, length in writable]
        if indirect:
            table = self.memory.alloc(16 * len(parts))
            for at, (addr, length, flags) in enumerate(parts):
                more = NEXT if at + 1 < len(parts) else 0
                self.memory.write(
                    table + 16 * at, _DESC.pack(addr, length, flags | more, at + 1 if more else 0)
                )
            parts = [(table, 16 * len(parts), INDIRECT)]
        chain = [self._free.pop() for _ in parts]
        for at, (addr, length, flags) in enumerate(parts):
            more = NEXT if at + 1 < len(parts) else 0
            self.set_desc(chain[at], addr, length, flags | more, chain[at + 1] if more else 0)
        self._chains[chain[0]] = chain
        self.offer(chain[0])
        return chain[0]

    def offer(self, head: int) -> None:
        """Put any number as a head into the available ring."""
        self._avail[2 + self.avail_idx % self.size] = head
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF

    def publish(self, kick: bool = True) -> None:
        """Show the device the added chains, and kick unless it suppresses kicks."""
        self._avail[1] = self.avail_idx
        fence()
        shown, self.shown_idx = self.shown_idx, self.avail_idx
        if kick and self._kick_is_wanted(shown):
            os.eventfd_write(self.kick_fd, 1)

    def _kick_is_wanted(self, shown: int) -> bool:
        if not self.event_idx:
            return not self._used_idx[0] & 1
        event = int.from_bytes(self.memory.read(self.used + 4 + 8 * self.size, 2), "little")
        return (self.avail_idx - event - 1) & 0xFFFF < (self.avail_idx - shown) & 0xFFFF

    def set_no_interrupt(self, value: bool) -> None:
        """After False look at the used ring once more, as a driver has to."""
        self._no_interrupt = value
        if self.event_idx:
            self._ask_for_interrupt()
        else:
            self._avail[0] = int(value)
        fence()

    def _ask_for_interrupt(self) -> None:
        """used_event: the element whose use interrupts; one far ahead if none shall."""
        self._avail[2 + self.size] = (self.last_used + (0x8000 if self._no_interrupt else 0)) & 0xFFFF

    # -- taking back --------------------------------------------------------------------------------------------

    @property
    def used_idx(self) -> int:
        """used.idx as the device left it."""
        return self._used_idx[1]

    @property
    def used_flags(self) -> int:
        return self._used_idx[0]

    def take_used(self) -> list[tuple[int, int]]:
        """The (head, written) returned since; their descriptors are free again."""
        found = []
        while self.last_used != self._used_idx[1]:
            element = self.memory.read(self.used + 4 + 8 * (self.last_used % self.size), 8)
            head, written = struct.unpack("<II", element)
            self._free += reversed(self._chains.pop(head))
            self.last_used = (self.last_used + 1) & 0xFFFF
            found.append((head, written))
        if self.event_idx:
            self._ask_for_interrupt()
            fence()
            if self.last_used != self._used_idx[1]:
                found += self.take_used()
        return found

    def calls(self) -> int:
        """Interrupts since the last look."""
        return _drain(self.call_fd)

    def kicks(self) -> int:
        """Kicks that the device has not consumed."""
        return _drain(self.kick_fd)


_lock = threading.Lock()


def fence() -> None:
    """A store before it is seen before a load behind it is made (on x86-64)."""
    with _lock:
        pass


def _drain(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


class NetDriver:
    """A virtio-net driver with `pairs` queue pairs and a control queue."""

    def __init__(
        self,
        memory: FakeGuestMemory,
        *,
        pairs: int = 1,
        size: int = 256,
        header_bytes: int = 12,
        rx_bytes: int = 1526,
    ) -> None:
        self.memory = memory
        self.pairs = pairs
        self.header_bytes = header_bytes
        self.rx_bytes = rx_bytes
        self.rings = [DriverRing(memory, index, size) for index in range(2 * pairs + 1)]
        self.device: VirtioDevice | None = None
        self.config_interrupts = 0
        self.reset_notices = 0
        self.links: list[bool] = []
        """What the attachment was told of the link."""
        self.handed_over: set[int] = set()
        self._rx_buffers: dict[tuple[int, int], int] = {}
        self._tx_buffers = [memory.alloc(2048) for _ in range(size)]
        self._tx_at = 0
        self._served = memory.served()

    def close(self) -> None:
        if self.device is not None:
            self.unplug()
        for ring in self.rings:
            ring.close()

    # -- in this process: plug into a device model, as its attachment -------------------------------------------

    def plug(self, device: VirtioDevice, features: int | None = None, *, start: bool = True) -> None:
        """Probe the device: features (all that are offered, by default), rings, DRIVER_OK (§3.1.1)."""
        device.attach(self, self._served)
        self.device = device
        if start:
            self.start(features)

    def start(self, features: int | None = None) -> None:
        """Initialize the device, also once more after a reset."""
        device = self.device
        assert device is not None
        device.set_status(0)
        device.set_status(1)
        device.set_status(3)
        device.set_features(device.host_features if features is None else features)
        device.set_status(11)
        assert device.status == 11
        for ring in self.rings:
            ring.event_idx = bool(device.driver_features & EVENT_IDX)
            ring.restart()
            self.start_ring(ring)
        device.set_status(15)

    def start_ring(self, ring: DriverRing, base: int | None = None) -> bool:
        """Tell the device of one ring."""
        assert self.device is not None
        queue = self.device.queues[ring.index]
        queue.size, queue.desc, queue.avail, queue.used = ring.size, ring.desc, ring.avail, ring.used
        return self.device.queue_ready(ring.index, base)

    def unplug(self) -> None:
        """The VM goes away."""
        device, self.device = self.device, None
        assert device is not None
        device.detach()

    def kick(self, *indexes: int) -> None:
        """Deliver the kicks that wait in the eventfds (of these rings, or of all) to the device."""
        assert self.device is not None
        for ring in self.rings:
            if (not indexes or ring.index in indexes) and ring.index not in self.handed_over and ring.kicks():
                self.device.kick(ring.index)

    # Attachment

    def config_interrupt(self) -> bool:
        self.config_interrupts += 1
        return True

    def queue_interrupt(self, index: int) -> None:
        os.eventfd_write(self.rings[index].call_fd, 1)

    def link_changed(self, up: bool) -> None:
        self.links.append(up)

    def needs_reset(self) -> None:
        self.reset_notices += 1

    def doorbell(self) -> Doorbell | None:
        return None

    def hand_over_queue(self, index: int) -> QueueFds | None:
        self.handed_over.add(index)
        return QueueFds(self.rings[index].kick_fd, self.rings[index].call_fd)

    def reclaim_queue(self, index: int) -> None:
        self.handed_over.discard(index)

    # -- packets ------------------------------------------------------------------------------------------------

    def queue_tx(self, frame: bytes, pair: int = 0, header: bytes = b"", *, indirect: bool = False) -> int:
        """Make one packet available in a single buffer; not shown yet."""
        packet = header.ljust(self.header_bytes, b"\0") + frame
        if len(packet) <= 2048:
            addr = self._tx_buffers[self._tx_at % len(self._tx_buffers)]
            self._tx_at += 1
        else:
            addr = self.memory.alloc(len(packet))
        self.memory.write(addr, packet)
        return self.rings[2 * pair + 1].add([(addr, len(packet))], indirect=indirect)

    def send(self, *frames: bytes, pair: int = 0) -> None:
        """Send, and kick."""
        ring = self.rings[2 * pair + 1]
        ring.take_used()
        for frame in frames:
            self.queue_tx(frame, pair)
        ring.publish()
        if self.device is not None:
            self.kick(ring.index)

    def fill_rx(self, count: int, pair: int = 0, size: int | None = None) -> None:
        """Make room for `count` packets, and kick."""
        ring = self.rings[2 * pair]
        size = self.rx_bytes if size is None else size
        for _ in range(count):
            addr = self.memory.alloc(size)
            self._rx_buffers[ring.index, ring.add([], [(addr, size)])] = addr
        ring.publish()
        if self.device is not None:
            self.kick(ring.index)

    def received(self, pair: int = 0) -> list[bytes]:
        """The packets received since, without their headers; merged ones whole."""
        return [packet[self.header_bytes :] for packet in self.received_raw(pair)]

    def received_raw(self, pair: int = 0) -> list[bytes]:
        """The same with their virtio_net_hdr."""
        ring = self.rings[2 * pair]
        packets: list[bytes] = []
        missing = 0
        for head, written in ring.take_used():
            part = self.memory.read(self._rx_buffers.pop((ring.index, head)), written)
            if missing:
                packets[-1] += part
                missing -= 1
            else:
                packets.append(part)
                if self.header_bytes == 12:
                    missing = int.from_bytes(part[10:12], "little") - 1
        assert not missing
        return packets

    def command(self, klass: int, command: int, data: bytes = b"") -> int:
        """Send a control command; its answer, 255 if there is none."""
        assert self.device is not None
        ring = self.rings[getattr(self.device, "control_index", len(self.rings) - 1)]
        out = bytes((klass, command)) + data
        addr = self.memory.alloc(len(out))
        ack = self.memory.alloc(1)
        self.memory.write(addr, out)
        self.memory.write(ack, b"\xff")
        ring.add([(addr, len(out))], [(ack, 1)])
        ring.publish()
        self.kick(ring.index)
        ring.take_used()
        return self.memory.read(ack, 1)[0]
