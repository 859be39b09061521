"""The messages about guest memory and rings: each is unpacked and checked here, and carried out by `DeviceRings`.

`backend.BackendEngine` finds each in `RING_HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from vnic.protocol.frames import Message
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.regions import (
    MAX_MEM_SLOTS,
    map_region,
    map_table,
    single_region,
)
from vnic.protocol.vhost_user.ring import Ring, RingAddresses, check_notifier
from vnic.protocol.vhost_user.rings import DeviceRings, Later


def _set_mem_table(rings: DeviceRings, message: Message) -> None:
    rings.memory.replace(map_table(message, rings.memory))
    rings.memory_replaced()


def _get_max_mem_slots(rings: DeviceRings, message: Message) -> bytes:
    return vu.U64.pack(MAX_MEM_SLOTS)


def _add_mem_reg(rings: DeviceRings, message: Message) -> None:
    if len(rings.memory.regions) >= MAX_MEM_SLOTS:
        raise ProtocolError(f"ADD_MEM_REG beyond {MAX_MEM_SLOTS} regions")
    row = single_region(message)
    rings.memory.expect(row.size)
    rings.memory.add(map_region(row, message.fds[0]))
    rings.memory_replaced()


def _rem_mem_reg(rings: DeviceRings, message: Message) -> None:
    # Front-ends may send the region's descriptor along; the specification says to close it unused.
    row = single_region(message)
    rings.memory.remove(row.guest_addr, row.size)
    rings.memory_replaced()


def _set_vring_num(rings: DeviceRings, message: Message) -> Later | None:
    index, size = vu.VRING_STATE.unpack(message.payload)
    return rings.set_size(rings.find(index, "SET_VRING_NUM"), size)


def _set_vring_addr(rings: DeviceRings, message: Message) -> Later | None:
    # The log address and its flag only matter to a device that logs; UML sends -1.
    index, _flags, desc, used, avail, _log = vu.VRING_ADDR.unpack(message.payload)
    ring = rings.find(index, "SET_VRING_ADDR")
    return rings.set_addresses(ring, RingAddresses(desc, used, avail))


def _set_vring_base(rings: DeviceRings, message: Message) -> None:
    """Remembered, but a ring starts elsewhere: see DeviceRings.start_if_complete."""
    index, base = vu.VRING_STATE.unpack(message.payload)
    ring = rings.find(index, "SET_VRING_BASE")
    if base > 0xFFFF:
        raise ProtocolError(f"SET_VRING_BASE {base:#x} for ring {index}")
    ring.base = base


def _get_vring_base(rings: DeviceRings, message: Message) -> Later:
    index, _ = vu.VRING_STATE.unpack(message.payload)
    return rings.get_base(rings.find(index, "GET_VRING_BASE"))


def _set_vring_kick(rings: DeviceRings, message: Message) -> None:
    ring, fd = _vring_fd(rings, message, "SET_VRING_KICK")
    if fd is None:
        raise ProtocolError(f"SET_VRING_KICK without a descriptor for ring {ring.index}: no ring is polled")
    rings.set_kick(ring, fd)


def _set_vring_call(rings: DeviceRings, message: Message) -> None:
    rings.set_call(*_vring_fd(rings, message, "SET_VRING_CALL"))


def _set_vring_err(rings: DeviceRings, message: Message) -> None:
    ring, fd = _vring_fd(rings, message, "SET_VRING_ERR")
    ring.replace_fd("err_fd", fd)


def _vring_fd(rings: DeviceRings, message: Message, name: str) -> tuple[Ring, int | None]:
    """The ring that a KICK, CALL or ERR message names, and its descriptor, which is the caller's now."""
    (value,) = vu.U64.unpack(message.payload)
    ring = rings.find(value & vu.VRING_INDEX_MASK, name)
    if value & ~(vu.VRING_INDEX_MASK | vu.VRING_NOFD):
        raise ProtocolError(f"{name} with {value:#x}")
    if bool(value & vu.VRING_NOFD) == bool(message.fds):
        raise ProtocolError(f"{name} for ring {ring.index} with {len(message.fds)} descriptors")
    if not message.fds:
        return ring, None
    check_notifier(message.fds[0], name)
    return ring, message.take()[0]


def _set_vring_enable(rings: DeviceRings, message: Message) -> None:
    index, enable = vu.VRING_STATE.unpack(message.payload)
    if enable > 1:
        raise ProtocolError(f"SET_VRING_ENABLE {enable} for ring {index}")
    rings.enable(rings.find(index, "SET_VRING_ENABLE"), bool(enable))


RingHandler: TypeAlias = Callable[[DeviceRings, Message], "bytes | Later | None"]
"""Returns the reply's payload, or Later for a message that waits; None if the message has no reply."""

RING_HANDLERS: Final[dict[int, RingHandler]] = {
    vu.SET_MEM_TABLE: _set_mem_table,
    vu.SET_VRING_NUM: _set_vring_num,
    vu.SET_VRING_ADDR: _set_vring_addr,
    vu.SET_VRING_BASE: _set_vring_base,
    vu.GET_VRING_BASE: _get_vring_base,
    vu.SET_VRING_KICK: _set_vring_kick,
    vu.SET_VRING_CALL: _set_vring_call,
    vu.SET_VRING_ERR: _set_vring_err,
    vu.SET_VRING_ENABLE: _set_vring_enable,
    vu.GET_MAX_MEM_SLOTS: _get_max_mem_slots,
    vu.ADD_MEM_REG: _add_mem_reg,
    vu.REM_MEM_REG: _rem_mem_reg,
}
