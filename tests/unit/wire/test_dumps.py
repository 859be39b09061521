"""DUMP: copies of frames in a pcap file, read by a reader of its format and by tshark."""

from __future__ import annotations

import errno
import os
import resource
import struct
import subprocess
from pathlib import Path

import pytest
from tests.fakes.wire_ends import Stream
from tests.fakes.wire_program import Refused, WireProgram, frame

from vnic.dataplane.wire.messages import Direction, Dump, DumpFailed
from vnic.filter.dump import FILE_HEADER, LINKTYPE_ETHERNET, MAGIC, RECORD_HEADER, VERSION

SNAPLEN = 65536


class PcapFile:
    """A file with its header written, as control passes it."""

    def __init__(self, path: Path, snaplen: int = SNAPLEN) -> None:
        self.path = path
        path.write_bytes(FILE_HEADER.pack(MAGIC, *VERSION, 0, 0, snaplen, LINKTYPE_ETHERNET))

    def add(
        self, wire: WireProgram, port: int, dump: int, direction: Direction, snaplen: int = SNAPLEN
    ) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            wire.request(Dump(port, dump, snaplen, direction), [fd])
        finally:
            os.close(fd)

    def records(self) -> list[tuple[bytes, int]]:
        """The bytes that were kept of each frame, and its length."""
        data = self.path.read_bytes()[FILE_HEADER.size :]
        found, at = [], 0
        while at < len(data):
            _, us, kept, length = RECORD_HEADER.unpack_from(data, at)
            assert us < 1_000_000
            at += RECORD_HEADER.size
            assert len(data) >= at + kept
            found.append((data[at : at + kept], length))
            at += kept
        return found


def whole(*frames: bytes) -> list[tuple[bytes, int]]:
    return [(each, len(each)) for each in frames]


@pytest.mark.parametrize("direction", [Direction.RX, Direction.TX, Direction.ALL])
def test_dump_holds_the_frames_of_its_direction(program: Path, tmp_path: Path, direction: Direction) -> None:
    file = PcapFile(tmp_path / "dump.pcap")
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        file.add(wire, 1, 7, direction)
        one.send(frame(1), frame(2, 1514))
        assert two.receive_all(2) == [frame(1), frame(2, 1514)]
        two.send(frame(3, 9000))
        assert one.receive() == frame(3, 9000)
        wire.request(Dump(1, 7))
        one.send(frame(4))
        assert two.receive() == frame(4)
    sent, received = whole(frame(1), frame(2, 1514)), whole(frame(3, 9000))
    expected = {Direction.TX: sent, Direction.RX: received, Direction.ALL: sent + received}
    assert file.records() == expected[direction]


def test_dump_cuts_frames_at_its_snaplen(program: Path, tmp_path: Path) -> None:
    file = PcapFile(tmp_path / "dump.pcap", 100)
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        file.add(wire, 1, 1, Direction.ALL, 100)
        one.send(frame(1, 99), frame(2, 100), frame(3, 101), frame(4, 60_000))
        two.receive_all(4)
        wire.request(Dump(1, 1))
    assert file.records() == [
        (frame(1, 99), 99),
        (frame(2, 100), 100),
        (frame(3, 101)[:100], 101),
        (frame(4, 60_000)[:100], 60_000),
    ]


@pytest.mark.needs("tshark")
def test_tshark_reads_the_dump(program: Path, tmp_path: Path) -> None:
    file = PcapFile(tmp_path / "dump.pcap")
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        file.add(wire, 1, 1, Direction.ALL)
        one.send(*(frame(number, 60 + number) for number in range(200)))
        two.receive_all(200)
        wire.request(Dump(1, 1))
    command = ["tshark", "-r", str(file.path), "-T", "fields", "-e", "frame.len", "-e", "frame.time_delta"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [60 + number for number in range(200)]
    assert all(0 <= float(line.split()[1]) < 600 for line in lines)


def test_dump_of_a_guest(program: Path, tmp_path: Path) -> None:
    file, other = PcapFile(tmp_path / "dump.pcap"), PcapFile(tmp_path / "other.pcap")
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(8)
        file.add(wire, 1, 1, Direction.ALL)
        other.add(wire, 2, 2, Direction.RX)
        one.send(frame(1), frame(2, 1514))
        two.receive(2)
        wire.request(Dump(1, 1))
        wire.request(Dump(2, 2))
    assert file.records() == other.records() == whole(frame(1), frame(2, 1514))


def test_full_disk_ends_the_dump_and_leaves_whole_records(program: Path, tmp_path: Path) -> None:
    file = PcapFile(tmp_path / "dump.pcap")
    room = FILE_HEADER.size + 2 * (RECORD_HEADER.size + 1000) + 500
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        file.add(wire, 1, 1, Direction.ALL)
        resource.prlimit(wire.child.pid, resource.RLIMIT_FSIZE, (room, room))
        one.send(*(frame(number, 1000) for number in range(4)))
        assert two.receive_all(4) == [frame(number, 1000) for number in range(4)]
        event = wire.await_event(lambda event: isinstance(event, DumpFailed))
        assert event == DumpFailed(1, errno.EFBIG)
        with pytest.raises(Refused) as refused:
            wire.request(Dump(1, 1))
        assert refused.value.error == errno.ENOENT
    assert file.records() == whole(frame(0, 1000), frame(1, 1000))


def test_what_cannot_be_a_dump_is_refused(program: Path, tmp_path: Path) -> None:
    file = PcapFile(tmp_path / "dump.pcap")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with WireProgram(program) as wire, Stream(wire, 1), open(fifo, "r+b", buffering=0) as pipe:
        file.add(wire, 1, 1, Direction.ALL)
        for request, fd in (
            (Dump(1, 1, SNAPLEN, Direction.ALL), pipe.fileno()),
            (Dump(1, 2, SNAPLEN, Direction.ALL), pipe.fileno()),
            (Dump(1, 2, 0, Direction.ALL), pipe.fileno()),
        ):
            with pytest.raises(Refused):
                wire.request(request, [fd])
        wire.remove(1)
    assert struct.unpack_from("<I", file.path.read_bytes())[0] == MAGIC
