"""The virtio part: a ring, its shadow copy, the receive filter, a whole virtio-net device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from tests.fakes.ring_pair import RingPair
from tests.fakes.trips import Trip, trip
from tests.fakes.virtio_lab import MAC, VirtioLab, frame

from vnic.memory.guest import GuestMemory
from vnic.memory.shadow import ShadowRegion, put
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.nic.virtio_net.rx_filter import RxFilter
from vnic.virtio.attachment import VirtioHandles
from vnic.virtio.queue import SplitQueue
from vnic.virtio.shadow_ring import ShadowRing


def see_queue(queue: SplitQueue) -> object:
    return queue.state, queue.ready, queue.last_avail, queue.used_idx, queue.pending() if queue.ready else 0


@trip("split queue")
def split_queue(stack: ExitStack) -> Trip:
    pair = stack.enter_context(RingPair(16))
    for number in range(20):
        pair.driver.add([pair.buffer(b"%d" % number)])
        pair.driver.publish()
        if number < 14:
            pair.queue.push(pair.take().head, 0)
            pair.driver.take_used()
    pair.queue.suppress_kicks(True)

    def make(stack: ExitStack) -> SplitQueue:
        queue = SplitQueue(0, 1024)
        stack.callback(queue.stop)
        return queue

    return Trip(pair.queue, make, lambda queue, record: queue.restore(record, pair.memory), see_queue)


@trip("split queue that was handed over")
def lent_queue(stack: ExitStack) -> Trip:
    whole = split_queue(stack)
    whole.unit.hand_over()
    whole.observe = lambda queue: (queue.state, queue.last_avail, queue.used_idx, queue.avail_idx)
    return whole


@trip("split queue that is broken")
def broken_queue(stack: ExitStack) -> Trip:
    whole = split_queue(stack)
    whole.unit.fail()
    return whole


@trip("shadow ring")
def shadow_ring(stack: ExitStack) -> Trip:
    """One chain was filled in the shadow copy, and the guest has not got it yet."""
    pair = stack.enter_context(RingPair(16))
    pair.queue.stop()
    base = pair.guest.guest_addr

    def shadow(stack: ExitStack) -> tuple[ShadowRing, SplitQueue, GuestMemory]:
        memory = GuestMemory()
        memory.add(ShadowRegion(base, pair.guest.size, writable=True))
        queue = SplitQueue(0, 1024)
        queue.size, queue.desc, queue.avail, queue.used = (
            16,
            pair.driver.desc,
            pair.driver.avail,
            pair.driver.used,
        )
        queue.setup(memory)
        ring = ShadowRing(queue, memory)
        ring.restart()
        stack.callback(memory.close)
        stack.callback(queue.stop)
        return ring, queue, memory

    ring, queue, _ = shadow(stack)
    head = pair.driver.add([], [pair.buffer(64)])
    pair.driver.publish(kick=False)
    plan, send = ring.fetch(), None
    try:
        while True:
            ranges = plan.send(send)  # type: ignore[arg-type]  # None starts the generator
            send = [pair.guest.read(address, length) for address, length in ranges]
    except StopIteration:
        pass
    chain = queue.pop()
    assert chain is not None
    assert chain.head == head
    queue.push(head, chain.write(b"what came"))
    record = queue.save()

    def make(stack: ExitStack) -> ShadowRing:
        ring, queue, memory = shadow(stack)
        queue.restore(record, memory)
        put(memory, pair.driver.desc, bytes(16))
        return ring

    return Trip(ring, make, lambda ring, state: ring.restore(state), lambda ring: ring.save().unsent)


@trip("receive filter")
def rx_filter(stack: ExitStack) -> Trip:
    unit = RxFilter()
    unit.promisc, unit.allmulti = False, True
    unit.set_macs([MAC], [b"\x33" * 6, b"\x35" * 6])
    unit.vlans = frozenset({1, 4095})
    return Trip(
        unit,
        lambda _: RxFilter(),
        lambda unit, record: unit.restore(record),
        lambda unit: unit.info(MAC, True),
    )


def see_device(device: VirtioNet) -> object:
    return (
        (device.status, device.host_features, device.driver_features, device.generation, device.datapath),
        [see_queue(queue) for queue in device.queues],
        (device.active_pairs, device.control_index, device.wants_offload, device.rx_filter()),
        device.config.pack(device.config_size),
    )


@trip("virtio-net")
def virtio_net(stack: ExitStack) -> Trip:
    """The link is down, the driver filters, owes an announcement, and has one packet and one command waiting."""
    lab = stack.enter_context(VirtioLab(VirtioNet(2, mtu=9000, speed=1000), memory_bytes=4 << 20))
    lab.plug()
    driver, device = lab.driver, lab.device
    assert driver.command(0, 0, b"\0") == driver.command(4, 0, b"\2\0") == driver.command(2, 0, b"\7\0") == 0
    driver.fill_rx(8)
    driver.send(frame(1), frame(2))
    lab.netdev.send(0, frame(3))
    device.announce()
    lab.set_link(False)
    lab.settle()
    driver.queue_tx(frame(4), pair=1)
    driver.rings[3].publish(kick=False)

    return Trip(
        device, lambda stack: another(stack, 2), give(VirtioHandles(driver, device.memory)), see_device
    )


def another(stack: ExitStack, pairs: int) -> VirtioNet:
    """A device of a VM that has not come yet."""
    device = VirtioNet(pairs, mtu=9000, speed=1000)
    stack.enter_context(VirtioLab(device, memory_bytes=1 << 20, ring_size=16))

    def let_go() -> None:
        """Without a word to the guest, whose device it never was."""
        if device.attached:
            device.memory.on_change.remove(device._memory_changed)
            for queue in device.queues:
                queue.invalidate()

    stack.callback(let_go)
    return device


def give(handles: VirtioHandles) -> Callable[[VirtioNet, VirtioNetRecord], None]:
    return lambda device, record: device.restore(record, handles)


@trip("virtio-net without a VM")
def virtio_net_detached(stack: ExitStack) -> Trip:
    handles = VirtioHandles()
    return Trip(another(stack, 1), lambda stack: another(stack, 1), give(handles), see_device)
