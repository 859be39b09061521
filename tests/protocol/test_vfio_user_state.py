"""A vfio-user connection is saved and restored between any two steps: writes, requests, a half-read message."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.vfio_user_device import FakeDevice, is_open, memfd, message, serving

from vnic.descriptors import close_fds
from vnic.protocol.frames import FrameAssemblerRecord
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import ServerRecord
from vnic.record import RecordError, decode, encode

WRITES = m.WRITE_MULTI_COUNT.pack(3) + b"".join(
    m.WRITE_MULTI_ONE.pack(16 * at, 0, 4, bytes([at] * 8)) for at in range(3)
)


def restored(server: Server, device: FakeDevice) -> Server:
    new = Server(device)
    record = server.save()
    new.restore(decode(ServerRecord, encode(record)))
    assert new.save() == record
    return new


@pytest.mark.parametrize("done", [1, 2])
def test_restored_server_continues_write_multi(done: int) -> None:
    server, device = serving()
    steps = server.steps(message(m.REGION_WRITE_MULTI, WRITES))
    for _ in range(done):
        assert next(steps) is None
    *_, reply = restored(server, device).rest()
    assert device.calls == [("write", 0, 16 * at, bytes([at] * 4)) for at in range(3)]
    assert reply == m.HEADER.pack(7, m.REGION_WRITE_MULTI, 24, m.TYPE_REPLY, 0) + WRITES[:8]


def test_restored_server_keeps_version_and_ignores_old_replies() -> None:
    server, device = serving()
    outcome: list[bytes | None] = []
    request = server.dma_read(0x1000, 4, outcome.append)
    new = restored(server, device)
    assert new.capabilities == server.capabilities
    ident, command, *_ = m.HEADER.unpack_from(request)
    payload = request[16:] + b"abcd"
    assert new.receive(message(command, payload, flags=m.TYPE_REPLY, ident=ident)) is None
    assert outcome == []
    assert m.HEADER.unpack_from(new.dma_read(0, 1, outcome.append))[0] == ident + 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"state": "asleep"}, "state"),
        ({"capabilities": "bnVsbA=="}, "capabilities"),
        ({"capabilities": "e30"}, "capabilities"),
        ({"writes": [{"region": 0, "offset": 4094, "data": "AAAAAA=="}]}, "writes[0].offset"),
        ({"writes": [{"region": 99, "offset": 0, "data": "AA=="}]}, "writes[0].region"),
        ({"reply": "AA=="}, "reply"),
        ({"requests": [{"ident": 1, "command": 11, "count": 0}] * 2}, "requests"),
    ],
)
def test_a_bad_record_is_refused(changes: dict[str, object], field: str) -> None:
    server, device = serving()
    whole = msgspec.json.decode(encode(server.save()))
    whole["state"] |= changes
    new = Server(device)
    before = new.save()
    with pytest.raises(RecordError) as error:
        new.restore(decode(ServerRecord, msgspec.json.encode(whole)))
    assert error.value.field == field
    assert new.save() == before


def test_restored_server_completes_partial_message() -> None:
    whole = m.HEADER.pack(1, m.DMA_MAP, 16 + 32, 0, 0) + bytes(32)
    fd = memfd()
    for at in range(1, len(whole)):
        before, after = m.assembler(), m.assembler()
        assert before.feed(whole[:at], [fd] if at > 20 else []) == []
        fds = [fd] if at > 20 else []
        after.restore(decode(FrameAssemblerRecord, encode(before.save())), fds)
        assert after.save() == before.save()
        (got,) = after.feed(whole[at:])
        assert (got.header + got.payload, got.fds) == (whole, fds)
    got.close()
    assert not is_open(fd)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (FrameAssemblerRecord(data=bytes(16), descriptors=0), "data"),
        (FrameAssemblerRecord(data=m.HEADER.pack(1, 1, 16, 0, 0), descriptors=0), "data"),
        (FrameAssemblerRecord(data=b"a", descriptors=17), "descriptors"),
    ],
)
def test_record_with_invalid_partial_message_is_refused(record: FrameAssemblerRecord, field: str) -> None:
    fds = [memfd() for _ in range(record.descriptors)]
    frames = m.assembler()
    with pytest.raises(RecordError) as error:
        frames.restore(record, fds)
    assert error.value.field == field
    assert not frames.pending
    close_fds(fds)
