"""SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG: what is mapped, and what of a hostile table is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

import pytest
from tests.fakes.loops import few_descriptors, open_fds
from tests.fakes.vhost_user_rig import EngineRig, engine_rig

from vnic.lab.played.guest_memory import GUEST_ADDR, USER_ADDR
from vnic.memory.guest import GuestMemoryError
from vnic.protocol.frames import Message
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.regions import map_table
from vnic.protocol.vhost_user.ring import RingState

PAGE = 4096
Row = tuple[int, int, int, int]


@pytest.fixture
def rig() -> Iterator[EngineRig]:
    with engine_rig() as made:
        made.client.negotiate()
        yield made


def set_table(rig: EngineRig, rows: Sequence[Row], fds: int | None = None, count: int | None = None) -> None:
    payload = struct.pack("<II", len(rows) if count is None else count, 0)
    payload += b"".join(struct.pack("<QQQQ", *row) for row in rows)
    rig.client.send(vu.SET_MEM_TABLE, payload, [rig.memory.fd] * (len(rows) if fds is None else fds))


def test_set_mem_table_maps_regions(rig: EngineRig) -> None:
    set_table(rig, [(0x10000, PAGE, 0xAAAA_0000, 0), (0x8000, PAGE, 0xBBBB_0000, 3 * PAGE)])
    rig.memory.mapping[3 * PAGE : 3 * PAGE + 5] = b"hello"
    assert rig.served.read(0x8000, 5) == b"hello"
    assert rig.served.user_to_guest(0xAAAA_0010) == 0x10010
    assert [region.guest_addr for region in rig.served.regions] == [0x8000, 0x10000]


def test_surplus_region_of_uml_is_ignored(rig: EngineRig) -> None:
    rows = [(0, PAGE, 0x60000000, 0), (0, 0, 0, 0)]
    set_table(rig, rows, fds=1, count=1)
    assert len(rig.served.regions) == 1


def test_a_new_table_replaces_the_old(rig: EngineRig) -> None:
    set_table(rig, [(0, PAGE, 0, 0)])
    set_table(rig, [(PAGE, PAGE, PAGE, 0)])
    assert [region.guest_addr for region in rig.served.regions] == [PAGE]


GOOD: Row = (0, PAGE, 0x1000_0000, 0)


@pytest.mark.parametrize(
    ("rows", "fds", "count", "text"),
    [
        ([], 0, 0, "0 regions"),
        ([GOOD] * 8, 8, 9, "9 regions"),
        ([GOOD], 0, 1, "with 0 descriptors"),
        ([GOOD], 2, 1, "with 2 descriptors"),
        ([GOOD], 1, 2, "2 regions in 40 bytes"),
        ([GOOD, GOOD], 2, 2, "overlap"),
        ([GOOD, (PAGE, PAGE, 0x1000_0800, 0)], 2, 2, "overlap"),
        ([(0, 16 << 20, 0, 0)], 1, 1, "exceed"),
        (
            [GOOD, (PAGE, PAGE, 0, 0), (16 * PAGE, 16 << 20, PAGE, 0), (8 * PAGE, PAGE, 0x8000, 0)],
            4,
            4,
            "exceed",
        ),
        ([(0, PAGE, 0, (8 << 20) - 1)], 1, 1, "exceed"),
        ([(0, PAGE, 0, (1 << 64) - PAGE)], 1, 1, "exceed"),
        ([(0, 0, 0, 0)], 1, 1, "empty"),
        ([(1 << 63, 1 << 63, 0, 0)], 1, 1, "SET_MEM_TABLE"),
        ([((1 << 64) - PAGE // 2, PAGE, 0, 0)], 1, 1, "wraps"),
        ([(0, PAGE, (1 << 64) - 1, 0)], 1, 1, "wraps"),
    ],
)
def test_invalid_table_is_refused(
    rig: EngineRig, rows: Sequence[Row], fds: int, count: int, text: str
) -> None:
    with pytest.raises(ProtocolError, match=text):
        set_table(rig, rows, fds, count)


def test_region_without_file_is_refused(rig: EngineRig) -> None:
    payload = struct.pack("<IIQQQQ", 1, 0, *GOOD)
    read_end, write_end = os.pipe()
    with pytest.raises(ProtocolError, match="is no memory file"):
        rig.client.send(vu.SET_MEM_TABLE, payload, [read_end])
    os.close(read_end)
    os.close(write_end)


def test_partly_invalid_table_leaks_no_descriptors(rig: EngineRig) -> None:
    """Refused half-way: what was mapped before it is let go of, and what the guest had stays until its end."""
    set_table(rig, [GOOD])
    payload = struct.pack("<II", 3, 0) + b"".join(
        struct.pack("<QQQQ", at * PAGE, PAGE, at * PAGE, 0) for at in range(3)
    )
    read_end, write_end = os.pipe()
    before = open_fds()
    with pytest.raises(ProtocolError, match="is no memory file"):
        rig.client.send(vu.SET_MEM_TABLE, payload, [rig.memory.fd, read_end, rig.memory.fd])
    assert open_fds() == before
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (GOOD, "overlap"),
        ((PAGE, 16 << 20, PAGE, 0), "exceed"),
        ((PAGE, 1 << 62, PAGE, 0), "above the limit"),
    ],
)
def test_refused_region_leaks_no_descriptors(rig: EngineRig, row: Row, text: str) -> None:
    rig.client.send(vu.ADD_MEM_REG, struct.pack("<QQQQQ", 0, *GOOD), [rig.memory.fd])
    before = open_fds()
    with pytest.raises(ProtocolError, match=text):
        rig.client.send(vu.ADD_MEM_REG, struct.pack("<QQQQQ", 0, *row), [rig.memory.fd])
    assert open_fds() == before


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_table_without_free_descriptors_leaks_none(rig: EngineRig, room: int) -> None:
    """Two regions take four. Whichever cannot be had, the rest is closed."""
    dups = [os.dup(rig.memory.fd) for _ in range(2)]
    rows = b"".join(struct.pack("<QQQQ", at * PAGE, PAGE, at * PAGE, 0) for at in range(2))
    before = open_fds()
    with few_descriptors(room), pytest.raises(GuestMemoryError, match="Too many open files"):
        map_table(Message(b"", struct.pack("<II", 2, 0) + rows, dups), rig.served)
    assert open_fds() == before
    for fd in dups:
        os.close(fd)


def test_nine_descriptors_are_refused(rig: EngineRig) -> None:
    with pytest.raises(ProtocolError, match="more than 8 descriptors"):
        set_table(rig, [GOOD] * 8, fds=9)


def test_regions_are_added_and_removed_singly(rig: EngineRig) -> None:
    client = rig.client
    slots = client.ask_u64(vu.GET_MAX_MEM_SLOTS)
    assert slots >= 8
    first = struct.pack("<QQQQQ", 0, *GOOD)
    second = struct.pack("<QQQQQ", 0, PAGE, PAGE, 0x2000_0000, PAGE)
    assert client.acked(vu.ADD_MEM_REG, first, [rig.memory.fd]) == 0
    assert client.acked(vu.ADD_MEM_REG, second, [rig.memory.fd]) == 0
    assert client.acked(vu.REM_MEM_REG, first) == 0
    assert client.acked(vu.REM_MEM_REG, second, [rig.memory.fd]) == 0, "old front-ends send the descriptor"
    with pytest.raises(ProtocolError, match="no memory region"):
        client.send(vu.REM_MEM_REG, second)


def test_number_of_slots_is_bounded(rig: EngineRig) -> None:
    slots = rig.client.ask_u64(vu.GET_MAX_MEM_SLOTS)

    def add(at: int) -> None:
        row = struct.pack("<QQQQQ", 0, at * PAGE, PAGE, at * PAGE, 0)
        rig.client.send(vu.ADD_MEM_REG, row, [rig.memory.fd])

    for at in range(slots):
        add(at)
    with pytest.raises(ProtocolError, match=f"beyond {slots}"):
        add(slots)


def test_running_ring_survives_table_that_contains_it(rig: EngineRig) -> None:
    rig.client.set_memory()
    rig.client.start_rings()
    set_table(
        rig, [(GUEST_ADDR, rig.memory.size, USER_ADDR, 0), (0, PAGE, 0x1000, 0)]
    )  # a hot-plugged DIMM: the whole table again
    assert all(ring.state is RingState.STARTED for ring in rig.engine.rings)
    rig.driver.send(b"frame" * 20)
    rig.device.kick(1)
    rig.scheduler.run_soon()
    assert rig.sink.frames == [b"frame" * 20]


def test_table_without_running_ring_is_refused(rig: EngineRig) -> None:
    rig.client.set_memory()
    rig.client.start_rings()
    with pytest.raises(ProtocolError, match="user address"):
        set_table(rig, [(GUEST_ADDR, rig.memory.size, USER_ADDR + (1 << 32), 0)])


def test_table_that_moves_running_ring_is_refused(rig: EngineRig) -> None:
    rig.client.set_memory()
    rig.client.start_rings()
    with pytest.raises(ProtocolError, match="moves ring 0"):
        set_table(rig, [(GUEST_ADDR + (1 << 32), rig.memory.size, USER_ADDR, 0)])
