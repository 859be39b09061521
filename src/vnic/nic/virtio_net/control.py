"""virtio-net's control queue (virtio 1.2 §5.1.6.5): commands of the driver, each answered with OK or ERR.

The device calls it when the ring is kicked; a table maps classes to handlers, which answer as QEMU's
virtio_net_handle_ctrl_iov.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from vnic.net.clock import Scheduler
from vnic.nic.virtio_net.rx_filter import VLANS, RxFilter
from vnic.virtio.chain import Chain
from vnic.virtio.queue import QueueError, SplitQueue

OK = 0
ERR = 1

CLASS_RX = 0
CLASS_MAC = 1
CLASS_VLAN = 2
CLASS_ANNOUNCE = 3
CLASS_MQ = 4

RX_MODES = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
"""CTRL_RX commands 0 to 5."""
MAC_TABLE_SET, MAC_ADDR_SET = 0, 1
VLAN_ADD, VLAN_DEL = 0, 1
ANNOUNCE_ACK = 0
VQ_PAIRS_SET = 0

COMMANDS_A_TURN = 16
COMMAND_BYTES = 1 << 17
"""The longest command, and the limit on command bytes in one turn; Linux sends at most a few kB of addresses."""
BUFFER_COST_BYTES = 512
"""What each descriptor of a command counts against that limit: it costs as much time as that many bytes."""


class ControlHost(Protocol):
    """The device, as its control queue sees it."""

    filter: RxFilter

    def filter_changed(self) -> None: ...

    def set_mac(self, mac: bytes) -> None: ...

    def ack_announce(self) -> bool: ...

    def set_active_pairs(self, pairs: int) -> bool: ...

    def ring_interrupt(self, index: int) -> None: ...

    def queue_failed(self, queue: SplitQueue, error: QueueError) -> None: ...

    def commit(self) -> None:
        """Have what the commands changed outlive this process, before the driver sees that they are done."""


class ControlQueue:
    """Serves the control ring, some commands a turn."""

    def __init__(self, host: ControlHost, scheduler: Scheduler) -> None:
        self._host = host
        self._scheduler = scheduler
        self._scheduled = False
        self._classes: dict[int, Callable[[int, bytes], bool]] = {
            CLASS_RX: self._rx_mode,
            CLASS_MAC: self._mac,
            CLASS_VLAN: self._vlan,
            CLASS_ANNOUNCE: self._announce,
            CLASS_MQ: self._mq,
        }

    def kick(self, queue: SplitQueue) -> None:
        """Serve the commands in the ring."""
        if self._scheduled:
            return
        failure = None
        done = size = 0
        try:
            while done < COMMANDS_A_TURN and size < COMMAND_BYTES:
                chain = queue.pop()
                if chain is None:
                    break
                done += 1
                size += chain.readable_bytes
                size += BUFFER_COST_BYTES * (len(chain.readable) + len(chain.writable))
                self._command(chain)
                queue.add_used(chain.head, 1)
            else:
                self.kick_later(queue)
        except QueueError as error:
            failure = error
        if done:
            self._host.commit()
            queue.publish()
        if failure is not None:
            self._host.queue_failed(queue, failure)
        if done and queue.should_interrupt():
            self._host.ring_interrupt(queue.index)

    def kick_later(self, queue: SplitQueue) -> None:
        """Serve the commands in a later turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._scheduler.call_soon(self._continue, queue)

    def _continue(self, queue: SplitQueue) -> None:
        self._scheduled = False
        self.kick(queue)

    def _command(self, chain: Chain) -> None:
        if chain.readable_bytes < 2 or not chain.writable_bytes:
            raise QueueError("a control command without header or room for its answer")
        ok = False
        if chain.readable_bytes <= COMMAND_BYTES:
            command = chain.read()
            handler = self._classes.get(command[0])
            ok = handler is not None and handler(command[1], command[2:])
        chain.write(b"\x00" if ok else b"\x01")

    # Each handler gets the command and its data, and answers whether it was done.

    def _rx_mode(self, command: int, data: bytes) -> bool:
        if not data or command >= len(RX_MODES):
            return False
        setattr(self._host.filter, RX_MODES[command], bool(data[0]))
        self._host.filter_changed()
        return True

    def _mac(self, command: int, data: bytes) -> bool:
        if command == MAC_ADDR_SET:
            if len(data) != 6:
                return False
            self._host.set_mac(data)
        elif command == MAC_TABLE_SET:
            tables = _mac_tables(data)
            if tables is None:
                return False
            self._host.filter.set_macs(*tables)
        else:
            return False
        self._host.filter_changed()
        return True

    def _vlan(self, command: int, data: bytes) -> bool:
        if len(data) < 2:
            return False
        vlan = data[0] | data[1] << 8
        if vlan >= VLANS:
            return False
        if command == VLAN_ADD:
            self._host.filter.vlans |= {vlan}
        elif command == VLAN_DEL:
            self._host.filter.vlans -= {vlan}
        else:
            return False
        self._host.filter_changed()
        return True

    def _announce(self, command: int, data: bytes) -> bool:
        return command == ANNOUNCE_ACK and self._host.ack_announce()

    def _mq(self, command: int, data: bytes) -> bool:
        if command != VQ_PAIRS_SET or len(data) < 2:
            return False
        return self._host.set_active_pairs(data[0] | data[1] << 8)


def _mac_tables(data: bytes) -> tuple[list[bytes], list[bytes]] | None:
    """struct virtio_net_ctrl_mac twice, unicast and multicast: an le32 count and so many addresses; None if the
    counts do not fit the data."""
    tables: list[list[bytes]] = []
    at = 0
    for _ in range(2):
        if len(data) < at + 4:
            return None
        (count,) = struct.unpack_from("<I", data, at)
        at += 4
        if count * 6 > len(data) - at:
            return None
        tables.append([data[start : start + 6] for start in range(at, at + count * 6, 6)])
        at += count * 6
    return (tables[0], tables[1]) if at == len(data) else None
