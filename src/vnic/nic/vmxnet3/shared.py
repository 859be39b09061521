"""The structures in memory that the driver shares: DriverShared, and a descriptor for each queue.

The device reads them at ACTIVATE_DEV and at commands that name a part. `read_*` raise GuestMemoryError for memory that
is not there and SharedError for values that no device could work with.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.filter import VLAN_BYTES, FilterRecord
from vnic.nic.vmxnet3.queue import MAX_FRAGMENTS, QueueRecord
from vnic.nic.vmxnet3.rings import RingRecord
from vnic.pci.dma import Dma

_MAGIC = 0xBABEFEE1  # of revision 1
_GOS_TYPE_SHIFT, _GOS_TYPE_MASK, _GOS_WINDOWS = 2, 15, 2

_HEAD = struct.Struct("<I4x")  # magic
_MISC = struct.Struct("<4xI8xQ8xQ8xIHBB16x")
"""Guest's system, uptFeatures, queueDescPA, mtu, maxNumRxSG, numTxQueues, numRxQueues."""
_INTR = struct.Struct("<BBB25xI8x")  # autoMask, numIntrs, eventIntrIdx, intrCtrl
_FILTER = struct.Struct("<IH2xQ")  # rxMode, mfTableLen in bytes, mfTablePA; the VLAN table follows
_VARIABLE_BYTES = 3 * 16  # RSS, power management, plug-in
assert (_HEAD.size, _MISC.size, _INTR.size, _FILTER.size) == (8, 72, 40, 16)

_MISC_AT = _HEAD.size
_INTR_AT = _MISC_AT + _MISC.size
_FILTER_AT = _INTR_AT + _INTR.size
_VLAN_AT = _FILTER_AT + _FILTER.size
ECR_AT = _VLAN_AT + VLAN_BYTES + _VARIABLE_BYTES
assert ECR_AT == 696

# A queue's descriptor: control, configuration, status, statistics, padding.
_QUEUE_BYTES = 256
TX_THRESHOLD_AT = 4
_CONF_AT = 16
_STATUS_AT, STATISTICS_AT = 80, 88
_TX_CONF = struct.Struct("<Q8xQ16xI4xI4xB7x")  # tx ring, completions, both sizes, intrIdx
_RX_CONF = struct.Struct("<QQQ16xIII4xB7x")  # both rx rings, completions, all sizes, intrIdx
assert _TX_CONF.size == _RX_CONF.size == _STATUS_AT - _CONF_AT == 64


class SharedError(Exception):
    """The driver's configuration is invalid."""


class Config(NamedTuple):
    """What ACTIVATE_DEV takes over."""

    compound: bool
    fragments: int
    auto_mask: bool
    event_interrupt: int
    tx: list[QueueRecord]
    rx: list[QueueRecord]


def read_config(dma: Dma, shared: int) -> Config:
    data = dma.read(shared, _FILTER_AT)
    (magic,) = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise SharedError(f"the shared area's magic is {magic:#x}")
    system, _, queues, mtu, fragments, tx_count, rx_count = _MISC.unpack_from(data, _MISC_AT)
    auto_mask, _, event_interrupt, _ = _INTR.unpack_from(data, _INTR_AT)
    if not 1 <= tx_count <= r.MAX_TX_QUEUES or not 1 <= rx_count <= r.MAX_RX_QUEUES:
        raise SharedError(f"{tx_count} queues to send and {rx_count} to receive")
    if not r.MIN_MTU <= mtu <= r.MAX_MTU:
        raise SharedError(f"an MTU of {mtu}")
    _check_interrupt(event_interrupt)
    where = [queues + number * _QUEUE_BYTES for number in range(tx_count + rx_count)]
    return Config(
        compound=system >> _GOS_TYPE_SHIFT & _GOS_TYPE_MASK != _GOS_WINDOWS,
        fragments=min(fragments or MAX_FRAGMENTS, MAX_FRAGMENTS),
        auto_mask=bool(auto_mask),
        event_interrupt=event_interrupt,
        tx=[_read_tx(dma, each) for each in where[:tx_count]],
        rx=[_read_rx(dma, each) for each in where[tx_count:]],
    )


def read_filter(dma: Dma, shared: int) -> FilterRecord:
    features = _MISC.unpack(dma.read(shared + _MISC_AT, _MISC.size))[1]
    mode, length, table = _FILTER.unpack(dma.read(shared + _FILTER_AT, _FILTER.size))
    length -= length % 6
    return FilterRecord(
        mode=mode,
        strip=bool(features & r.F_RXVLAN),
        vlans=dma.read(shared + _VLAN_AT, VLAN_BYTES),
        groups=dma.read(table, length) if length else b"",
    )


def _read_tx(dma: Dma, where: int) -> QueueRecord:
    base, done, size, done_size, interrupt = _TX_CONF.unpack(dma.read(where + _CONF_AT, _TX_CONF.size))
    _check_interrupt(interrupt)
    rings, completions = [_ring(base, size, r.MAX_TX_RING)], _ring(done, done_size, r.MAX_TX_RING, least=1)
    return QueueRecord(where=where, rings=rings, completions=completions, interrupt=interrupt)


def _read_rx(dma: Dma, where: int) -> QueueRecord:
    conf = _RX_CONF.unpack(dma.read(where + _CONF_AT, _RX_CONF.size))
    first, second, done, size, size2, done_size, interrupt = conf
    _check_interrupt(interrupt)
    rings = [_ring(first, size, r.MAX_RX_RING), _ring(second, size2, r.MAX_RX_RING)]
    completions = _ring(done, done_size, r.MAX_RX_COMPLETIONS, least=1)
    return QueueRecord(where=where, rings=rings, completions=completions, interrupt=interrupt)


def _ring(base: int, size: int, most: int, *, least: int = 0) -> RingRecord:
    if not least <= size <= most:
        raise SharedError(f"a ring of {size} descriptors")
    return RingRecord(base=base, size=size)


def _check_interrupt(index: int) -> None:
    if index >= r.MAX_INTERRUPTS:
        raise SharedError(f"interrupt {index} of {r.MAX_INTERRUPTS}")
