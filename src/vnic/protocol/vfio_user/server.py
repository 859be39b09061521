"""The device's end of a vfio-user connection: whole messages in, replies out. The shell in attach/ owns the socket.

A table maps commands to handlers; each checks the request against the device's description and calls the `Device`.
A protocol violation raises ProtocolError; a request that cannot be served is answered with an errno.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from vnic.lifecycle import Lifecycle
from vnic.memory.guest import ADDRESS_LIMIT
from vnic.protocol.frames import Message
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import (
    DmaMap,
    IrqInfo,
    ProtocolError,
    Refused,
    RegionInfo,
    SetIrqs,
)
from vnic.protocol.vfio_user.server_record import (
    MAX_DMA_REQUESTS,
    MOVES,
    RequestRecord,
    ServerRecord,
    ServerState,
    WriteRecord,
)
from vnic.record import require

DmaDone = Callable[[bytes | None], None]
"""Gets the result of a DMA request: the data read (b"" for a write), None if the client refused it."""


class Device(Protocol):
    """What is served. Arguments are within the bounds of `regions` and `irqs`; Refused becomes an errno."""

    @property
    def regions(self) -> Sequence[RegionInfo]: ...

    @property
    def irqs(self) -> Sequence[IrqInfo]: ...

    def opened(self) -> None:
        """DEVICE_GET_INFO; QEMU has mapped its memory by then. Raises Refused if the client cannot be served."""

    def dma_map(self, request: DmaMap, fd: int | None) -> None:
        """Map guest memory. The caller owns the descriptor: duplicate it to keep it."""

    def dma_unmap(self, address: int, size: int) -> None:
        """Unmap all regions inside the range. Raises Refused if there is none."""

    def dma_unmap_all(self) -> None: ...

    def region_read(self, index: int, offset: int, count: int) -> bytes:
        """Exactly `count` bytes."""

    def region_write(self, index: int, offset: int, data: bytes) -> None: ...

    def set_irqs(self, request: SetIrqs, fds: list[int]) -> None:
        """`fds` belong to the callee: none, or one for each of `request.count` interrupts."""

    def reset(self) -> None: ...


class Server:
    """One connection. `receive` and the `dma_…` requests return bytes to send, each of them as one send().

    One send a message: QEMU takes a header that arrives in two pieces for a broken stream
    (hw/vfio-user/proxy.c, "short read of header").
    """

    state = Lifecycle(ServerState.NEGOTIATING, MOVES)

    def __init__(self, device: Device) -> None:
        self.device = device
        self.capabilities: dict[str, object] = {}
        """The capabilities that the client sent."""
        self._pending: dict[int, tuple[int, int, DmaDone]] = {}  # message id: command, count, callback
        self._next_id = 0
        self._writes: deque[tuple[int, int, bytes]] = deque()
        """Of one REGION_WRITE_MULTI: region, offset, data."""
        self._reply: bytes | None = None
        """To the message that these writes are of."""
        self._strays: set[int] = set()
        """The ids of requests that a killed process may have made."""

    def save(self, *, between_messages: bool = False) -> ServerRecord:
        """`between_messages`: leave out the message in progress, which the next process gets again."""
        writes = [] if between_messages else self._writes
        return ServerRecord(
            state=self.state,
            capabilities=msgspec.json.encode(self.capabilities),
            next_id=self._next_id,
            requests=[
                RequestRecord(ident=ident, command=command, count=count)
                for ident, (command, count, _) in self._pending.items()
            ],
            writes=[WriteRecord(region=region, offset=offset, data=data) for region, offset, data in writes],
            reply=None if between_messages else self._reply,
        )

    def restore(self, record: ServerRecord) -> None:
        """Go on with the connection; `rest` is the message under way. Answers to the requests of before are taken and
        ignored: what they fetched for is gone."""
        self.check(record)
        Server.state.restore(self, record.state)
        self.capabilities = msgspec.json.decode(record.capabilities)
        self._next_id, self._reply = record.next_id, record.reply
        self._pending = {each.ident: (each.command, each.count, _ignore) for each in record.requests}
        self._writes = deque((each.region, each.offset, each.data) for each in record.writes)

    def check(self, record: ServerRecord) -> None:
        """Raise RecordError if `restore` would."""
        regions = self.device.regions
        for at, write in enumerate(record.writes):
            known = write.region < len(regions)
            require(known, f"writes[{at}].region", f"is {write.region}, of {len(regions)}")
            end = write.offset + len(write.data)
            require(end <= regions[write.region].size, f"writes[{at}].offset", "is outside of the region")

    @property
    def next_id(self) -> int:
        """The id of the next request."""
        return self._next_id

    def take_up(self, next_id: int) -> None:
        """After `restore`: the process before was killed, and may have made further requests, with ids before this one.
        Answers to them are ignored."""
        self._next_id = next_id & 0xFFFF
        self._strays = {next_id - 1 - back & 0xFFFF for back in range(MAX_DMA_REQUESTS)}
        self._pending.clear()

    def receive(self, message: Message) -> bytes | None:
        """Carry out a message and return the reply, None if it is posted. Raises ProtocolError."""
        *_, reply = self.steps(message)
        return reply

    def steps(self, message: Message) -> Iterator[bytes | None]:
        """As `receive`, in steps of one write each, between which others may be served; the last gives the reply."""
        self.begin(message)
        yield from self.rest()

    def begin(self, message: Message, skip: int = 0) -> None:
        """Check a message, and carry it out unless it is of several steps; `step` follows. Raises ProtocolError.

        `skip`: so many steps, and not the last one, were carried out by another process. The message's descriptors are
        closed in any case, but for those that the device took.
        """
        try:
            self._reply = self._dispatch(message)
        except ProtocolError:
            self.state = ServerState.FAILED
            raise
        finally:
            if message.fds:
                message.close()
        for _ in range(min(skip, len(self._writes) - 1)):
            self._writes.popleft()

    def step(self) -> bool:
        """Carry out the next write, if there is one; True: the message is complete, and `take_reply` follows."""
        if self._writes:
            self.device.region_write(*self._writes.popleft())
        return not self._writes

    def take_reply(self) -> bytes | None:
        """The reply to the message that is complete; None: it was posted."""
        reply, self._reply = self._reply, None
        return reply

    def rest(self) -> Iterator[bytes | None]:
        """The steps that are left of the message under way."""
        while not self.step():
            yield None
        yield self.take_reply()

    def _dispatch(self, message: Message) -> bytes | None:
        ident, command, _, flags, _ = m.HEADER.unpack(message.header)
        if flags & m.FLAG_TYPE == m.TYPE_REPLY:
            self._reply_came(ident, command, flags, message)
            return None
        if flags & ~m.FLAG_NO_REPLY:
            raise ProtocolError(f"command {command} with flags {flags:#x}")
        if self.state is not ServerState.SERVING and (
            command != m.VERSION or self.state is ServerState.FAILED
        ):
            raise ProtocolError(f"command {command} before VERSION")
        handler, size, max_fds = _HANDLERS.get(command, _UNKNOWN)
        if len(message.payload) < size:
            raise ProtocolError(f"command {command} with {len(message.payload)} bytes, {size} are the least")
        if len(message.fds) > max_fds:
            raise ProtocolError(f"command {command} with {len(message.fds)} descriptors")
        try:
            payload = handler(self, message)
        except Refused as refusal:
            if flags & m.FLAG_NO_REPLY:
                raise ProtocolError(f"posted command {command} refused: {refusal}") from None
            return m.encode(ident, command, flags=m.TYPE_REPLY | m.FLAG_ERROR, errno=refusal.errno)
        if flags & m.FLAG_NO_REPLY:
            return None
        return m.HEADER.pack(ident, command, 16 + len(payload), m.TYPE_REPLY, 0) + payload

    # --- Handlers: payload of at least the size in the table; they return the reply's payload ---

    def _version(self, message: Message) -> bytes:
        if self.state is not ServerState.NEGOTIATING:
            raise ProtocolError("a second VERSION")
        major, minor, self.capabilities = m.decode_version(message.payload)
        if major != m.MAJOR:
            raise Refused(errno.EINVAL, f"version {major}.{minor}, ours is {m.MAJOR}.{m.MINOR}")
        self.state = ServerState.SERVING
        return m.encode_version(len(message.payload))

    def _dma_map(self, message: Message) -> bytes:
        argsz, flags, offset, address, size = m.DMA_MAP_LAYOUT.unpack(
            _exactly(message, m.DMA_MAP_LAYOUT.size)
        )
        if argsz < m.DMA_MAP_LAYOUT.size or flags & ~(m.DMA_MAP_READ | m.DMA_MAP_WRITE):
            raise Refused(errno.EINVAL, f"DMA_MAP with argsz {argsz}, flags {flags:#x}")
        request = DmaMap(address, size, offset, bool(flags & m.DMA_MAP_READ), bool(flags & m.DMA_MAP_WRITE))
        self.device.dma_map(request, message.fds[0] if message.fds else None)
        return b""

    def _dma_unmap(self, message: Message) -> bytes:
        payload = message.payload
        argsz, flags, address, size = m.DMA_UNMAP_LAYOUT.unpack_from(payload)
        if flags & m.DMA_UNMAP_DIRTY_BITMAP:
            raise Refused(errno.ENOTSUP, "DMA_UNMAP asks for dirty pages")
        if argsz < m.DMA_UNMAP_LAYOUT.size or flags & ~m.DMA_UNMAP_ALL:
            raise Refused(errno.EINVAL, f"DMA_UNMAP with argsz {argsz}, flags {flags:#x}")
        if not flags & m.DMA_UNMAP_ALL:
            if not 0 < size <= ADDRESS_LIMIT - address:
                raise Refused(errno.EINVAL, f"DMA_UNMAP of {address:#x}+{size:#x}")
            self.device.dma_unmap(address, size)
        elif address or size:
            raise Refused(errno.EINVAL, "DMA_UNMAP of all with a range")
        else:
            self.device.dma_unmap_all()
        return payload[: m.DMA_UNMAP_LAYOUT.size]

    def _device_get_info(self, message: Message) -> bytes:
        _check_argsz(message, m.DEVICE_INFO.size)
        self.device.opened()
        flags = m.DEVICE_FLAG_RESET | m.DEVICE_FLAG_PCI
        return m.DEVICE_INFO.pack(m.DEVICE_INFO.size, flags, len(self.device.regions), len(self.device.irqs))

    def _region_info(self, message: Message) -> bytes:
        _check_argsz(message, m.REGION_INFO.size)
        index = m.REGION_INFO.unpack_from(message.payload)[2]
        if index >= len(self.device.regions):
            raise Refused(errno.EINVAL, f"no region {index}")
        info = self.device.regions[index]
        return m.REGION_INFO.pack(m.REGION_INFO.size, info.flags, index, 0, info.size, 0)

    def _irq_info(self, message: Message) -> bytes:
        _check_argsz(message, m.IRQ_INFO.size)
        index = m.IRQ_INFO.unpack_from(message.payload)[2]
        if index >= len(self.device.irqs):
            raise Refused(errno.EINVAL, f"no interrupt {index}")
        info = self.device.irqs[index]
        return m.IRQ_INFO.pack(m.IRQ_INFO.size, info.flags, index, info.count)

    def _set_irqs(self, message: Message) -> bytes:
        argsz, flags, index, start, count = m.SET_IRQS.unpack_from(message.payload)
        data, action = flags & m.IRQ_DATA, flags & m.IRQ_ACTION
        if flags & ~(m.IRQ_DATA | m.IRQ_ACTION) or data.bit_count() != 1 or action.bit_count() != 1:
            raise Refused(errno.EINVAL, f"SET_IRQS with flags {flags:#x}")
        if index >= len(self.device.irqs) or start + count > self.device.irqs[index].count:
            raise Refused(errno.EINVAL, f"SET_IRQS {start}+{count} of interrupt {index}")
        booleans = message.payload[m.SET_IRQS.size :]
        if argsz < m.SET_IRQS.size or (data == m.IRQ_DATA_BOOL and len(booleans) != count):
            raise Refused(errno.EINVAL, f"SET_IRQS with {len(booleans)} booleans for {count} interrupts")
        if message.fds and (data != m.IRQ_DATA_EVENTFD or len(message.fds) != count):
            raise ProtocolError(f"SET_IRQS with {len(message.fds)} descriptors for {count} interrupts")
        request = SetIrqs(index, start, count, action, data, booleans if data == m.IRQ_DATA_BOOL else b"")
        self.device.set_irqs(request, message.take(len(message.fds)))
        return b""

    def _region_read(self, message: Message) -> bytes:
        payload = message.payload
        offset, region, count = m.REGION_ACCESS.unpack_from(payload)
        self._check_access(offset, region, count)
        return payload[:16] + self.device.region_read(region, offset, count)

    def _region_write(self, message: Message) -> bytes:
        payload = message.payload
        offset, region, count = m.REGION_ACCESS.unpack_from(payload)
        if len(payload) != 16 + count:
            raise ProtocolError(f"REGION_WRITE of {count} bytes with {len(payload) - 16}")
        self._check_access(offset, region, count)
        self.device.region_write(region, offset, payload[16:])
        return payload[:16]

    def _write_multi(self, message: Message) -> bytes:
        """Checked as a whole; `steps` writes."""
        payload = message.payload
        (writes,) = m.WRITE_MULTI_COUNT.unpack_from(payload)
        if (
            writes > m.MAX_WRITES
            or len(payload) != m.WRITE_MULTI_COUNT.size + writes * m.WRITE_MULTI_ONE.size
        ):
            raise ProtocolError(f"REGION_WRITE_MULTI of {writes} writes in {len(payload)} bytes")
        checked: list[tuple[int, int, bytes]] = []
        for offset, region, count, data in m.WRITE_MULTI_ONE.iter_unpack(payload[m.WRITE_MULTI_COUNT.size :]):
            if count > len(data):
                raise ProtocolError(f"REGION_WRITE_MULTI with {count} bytes in one write")
            self._check_access(offset, region, count)
            checked.append((region, offset, data[:count]))
        self._writes.extend(checked)
        return payload[: m.WRITE_MULTI_COUNT.size]

    def _check_access(self, offset: int, region: int, count: int) -> None:
        regions = self.device.regions
        if count > m.MAX_TRANSFER or region >= len(regions) or offset + count > regions[region].size:
            raise Refused(errno.EINVAL, f"access of {count} bytes at {offset:#x} of region {region}")

    def _device_reset(self, message: Message) -> bytes:
        self.device.reset()
        return b""

    def _unsupported(self, message: Message) -> bytes:
        raise Refused(errno.ENOTSUP, "not supported")

    # --- Requests of ours: memory that the client shares by no descriptor ---

    def dma_read(self, address: int, count: int, done: DmaDone) -> bytes:
        """Make a request to read `count` bytes of guest memory; `done` gets the result, never within this call."""
        return self._request(m.DMA_READ, count, m.DMA_ACCESS.pack(address, count), done)

    def dma_write(self, address: int, data: bytes, done: DmaDone) -> bytes:
        """Make a request to write guest memory; as `dma_read`."""
        return self._request(m.DMA_WRITE, 0, m.DMA_ACCESS.pack(address, len(data)) + data, done)

    def close(self) -> None:
        """The connection has ended: call each waiting `done` with None."""
        pending, self._pending = self._pending, {}
        for _, _, done in pending.values():
            done(None)

    def _request(self, command: int, count: int, payload: bytes, done: DmaDone) -> bytes:
        if self.state is not ServerState.SERVING or len(self._pending) >= MAX_DMA_REQUESTS:
            raise BlockingIOError(errno.EAGAIN, "the client takes no DMA request now")
        ident = self._next_id
        self._strays.discard(ident)
        self._next_id = (ident + 1) & 0xFFFF
        self._pending[ident] = (command, count, done)
        return m.encode(ident, command, payload)

    def _reply_came(self, ident: int, command: int, flags: int, message: Message) -> None:
        if ident in self._strays and ident not in self._pending:
            self._strays.discard(ident)
            return
        expected, count, done = self._pending.pop(ident, (0, 0, None))
        if done is None or command != expected or message.fds:
            raise ProtocolError(f"a reply {ident} to command {command} that was not asked")
        if flags & m.FLAG_ERROR:
            done(None)
            return
        if command == m.DMA_READ and len(message.payload) != m.DMA_ACCESS.size + count:
            raise ProtocolError(f"a DMA_READ of {count} bytes answered with {len(message.payload)}")
        done(message.payload[m.DMA_ACCESS.size :] if command == m.DMA_READ else b"")


def _ignore(_data: bytes | None) -> None:
    """The outcome of a request that is of no use any more."""


def _exactly(message: Message, size: int) -> bytes:
    if len(message.payload) != size:
        raise ProtocolError(f"a payload of {len(message.payload)} bytes instead of {size}")
    return message.payload


def _check_argsz(message: Message, size: int) -> None:
    """The payload's first word says how much of an answer the client takes."""
    argsz = int.from_bytes(message.payload[:4], "little")
    if argsz < size:
        raise Refused(errno.EINVAL, f"argsz {argsz}, the answer has {size} bytes")


_Handler = Callable[[Server, Message], bytes]
_UNKNOWN: Final[tuple[_Handler, int, int]] = (Server._unsupported, 0, 0)

# command: handler, smallest payload in bytes, most descriptors
_HANDLERS: Final[dict[int, tuple[_Handler, int, int]]] = {
    m.VERSION: (Server._version, m.VERSION_NUMBERS.size, 0),
    m.DMA_MAP: (Server._dma_map, m.DMA_MAP_LAYOUT.size, 1),
    m.DMA_UNMAP: (Server._dma_unmap, m.DMA_UNMAP_LAYOUT.size, 0),
    m.DEVICE_GET_INFO: (Server._device_get_info, m.DEVICE_INFO.size, 0),
    m.DEVICE_GET_REGION_INFO: (Server._region_info, m.REGION_INFO.size, 0),
    m.DEVICE_GET_IRQ_INFO: (Server._irq_info, m.IRQ_INFO.size, 0),
    m.DEVICE_SET_IRQS: (Server._set_irqs, m.SET_IRQS.size, m.MAX_FDS),
    m.REGION_READ: (Server._region_read, m.REGION_ACCESS.size, 0),
    m.REGION_WRITE: (Server._region_write, m.REGION_ACCESS.size, 0),
    m.DEVICE_RESET: (Server._device_reset, 0, 0),
    m.REGION_WRITE_MULTI: (Server._write_multi, m.WRITE_MULTI_COUNT.size, 0),
    # Everything else is refused: DMA_READ and DMA_WRITE only go the other way, a device offers no descriptors for
    # its doorbells (REGION_IO_FDS), and cannot migrate (DIRTY_PAGES, DEVICE_FEATURE, MIG_DATA_*).
}
