"""Tests of filter-dump: the file has whole records at any time, for every kind of file and every error."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from tests.fakes.loops import no_fd_leak
from tests.unit.backend.helpers import MAC, Guest, run

from vnic.backend import BackendContext
from vnic.filter import object_add, object_del
from vnic.filter.dump import DumpFilter
from vnic.filter.options import DumpOptions
from vnic.net.client import NetClient
from vnic.net.clock import Clock
from vnic.net.errors import NetError
from vnic.net.filter_set import add_filter
from vnic.net.network import Network

WALL_NS = 1_700_000_000_123_456_789
SYN = bytes(range(60))


class Rig:
    """A wire between two clients that record frames, and the file of a dump on it."""

    def __init__(self, file: Path | str, maxlen: int = 65536) -> None:
        self.network = Network(asyncio.get_running_loop(), Clock(wall_ns=lambda: WALL_NS))
        self.context = BackendContext(asyncio.get_running_loop(), self.network)
        self.host, self.guest = Guest(), Guest()
        self.netdev = self.network.add_netdev("net0", "stream", self.host)
        self.nic: NetClient = self.network.add_nic("nic0", "x", self.guest, mac=MAC, netdev_id="net0")
        object_add(self.context, DumpOptions(id="f0", netdev="net0", file=str(file), maxlen=maxlen))


def records(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(seconds, microseconds, length on the wire, kept bytes) of each record; all must be whole."""
    assert struct.unpack_from("<IHHiIII", data)[:5] == (0xA1B2C3D4, 2, 4, 0, 0)
    found = []
    at = 24
    while at < len(data):
        seconds, us, kept, length = struct.unpack_from("<IIII", data, at)
        at += 16 + kept
        assert at <= len(data), "a record is cut off"
        found.append((seconds, us, length, data[at - kept : at]))
    return found


@pytest.mark.parametrize("reopened", [False, True])
def test_restored_dump_appends_to_its_file(tmp_path: Path, reopened: bool) -> None:
    """With a copy of its descriptor, or with one that was opened anew."""

    async def main() -> None:
        file = tmp_path / "a.pcap"
        rig = Rig(file)
        rig.nic.send(0, SYN)
        (before,) = rig.netdev.filters
        assert isinstance(before, DumpFilter)
        assert before.handles is not None
        fd = os.open(file, os.O_WRONLY) if reopened else os.dup(before.handles)
        record = before.save()
        object_del(rig.context, "f0")

        after = DumpFilter(rig.context, DumpOptions(id="f0", netdev="net0", file=str(file)))
        add_filter(rig.network, after, lambda: after.restore(record, fd))
        rig.netdev.send(0, SYN)
        assert [frame for *_, frame in records(file.read_bytes())] == [SYN, SYN]
        object_del(rig.context, "f0")

    with no_fd_leak():
        run(main())


def test_record_is_written_with_the_frame(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "a.pcap"
        rig = Rig(file)
        assert file.read_bytes().hex() == "d4c3b2a1020004000000000000000000" + "0000010001000000"
        rig.nic.send(0, SYN)
        rig.netdev.send(0, memoryview(SYN[::-1]))
        stamp = (1_700_000_000, 123_456, 60)
        assert records(file.read_bytes()) == [(*stamp, SYN), (*stamp, SYN[::-1])]
        assert (rig.host.got, rig.guest.got) == ([SYN], [SYN[::-1]])
        object_del(rig.context, "f0")
        rig.nic.send(0, SYN)
        assert len(records(file.read_bytes())) == 2

    with no_fd_leak():
        run(main())


def test_maxlen_truncates_records(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "a.pcap"
        rig = Rig(file, maxlen=20)
        for size in (19, 20, 21, 1514):
            rig.nic.send(0, bytes(size))
        assert struct.unpack_from("<I", file.read_bytes(), 16) == (20,)
        kept = [(length, len(kept)) for _, _, length, kept in records(file.read_bytes())]
        assert kept == [(19, 19), (20, 20), (21, 20), (1514, 20)]
        rig.network.close()

    run(main())


def test_unfinished_frame_is_written_unchanged(tmp_path: Path) -> None:
    async def main() -> None:
        rig = Rig(tmp_path / "a.pcap")
        rig.nic.send(0, SYN, bytes((1, 0, 0, 0, 0, 0, 20, 0, 6, 0)))
        ((_, _, _, kept),) = records((tmp_path / "a.pcap").read_bytes())
        assert kept == SYN
        assert rig.host.got[0] != SYN, "its checksum was filled in behind the filter"
        rig.network.close()

    run(main())


def test_existing_file_is_emptied(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "a.pcap"
        file.write_bytes(bytes(1000))
        Rig(file).network.close()
        assert len(file.read_bytes()) == 24

    run(main())


@pytest.mark.parametrize(
    ("file", "maxlen", "desc"),
    [
        ("no/such", 1, "Could not open '{}': No such file or directory"),
        (".", 1, "Could not open '{}': Is a directory"),
        ("a\0b", 1, "Could not open '{}': Invalid argument"),
        ("fifo", 1, "Could not open '{}': No such device or address"),
        ("a.pcap", 0, "Property 'filter-dump.maxlen' doesn't take value '0'"),
        ("/dev/full", 1, "net dump write error: No space left on device"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, file: str, maxlen: int, desc: str) -> None:
    async def main() -> None:
        os.mkfifo(tmp_path / "fifo")
        path = os.path.join(tmp_path, file)
        with pytest.raises(NetError) as refused:
            Rig(path, maxlen)
        assert refused.value.desc == desc.format(path)
        assert not (tmp_path / "a.pcap").exists()

    with no_fd_leak():
        run(main())


def test_block_device_is_refused(tmp_path: Path) -> None:
    """A device without a driver fails to open, so the test fakes the result of fstat."""
    device = tmp_path / "disk"
    device.write_bytes(b"precious")
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        found = real(fd)
        if not os.path.samestat(found, device.stat()):
            return found
        return os.stat_result((found.st_mode & 0o7777 | stat.S_IFBLK, *found[1:]))

    async def main() -> None:
        with mock.patch("os.fstat", fstat), pytest.raises(NetError) as refused:
            Rig(device)
        assert (
            refused.value.desc == f"Could not open '{device}': it is a block device, and would be overwritten"
        )

    with no_fd_leak():
        run(main())


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond `size` fail, as on a full disk: the last write that fits is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_full_disk_ends_dump_with_whole_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        file = tmp_path / "a.pcap"
        rig = Rig(file)
        with file_size_limit(24 + 2 * (16 + 60) + 30):
            for _ in range(5):
                rig.nic.send(0, SYN)
        rig.nic.send(0, SYN)
        assert len(records(file.read_bytes())) == 2
        assert len(rig.host.got) == 6
        rig.network.close()

    with no_fd_leak():
        run(main())
    (message,) = caplog.messages
    assert "network dump write error - stopping dump" in message


def test_slow_fifo_reader_loses_whole_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missed = 0

    async def main() -> None:
        os.mkfifo(tmp_path / "fifo")
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(
            reader, fcntl.F_SETPIPE_SZ, 1 << 16
        )  # holds 7 frames and a part, given how pages are filled
        rig = Rig(tmp_path / "fifo")
        for _ in range(20):
            rig.nic.send(0, bytes(9000))  # beyond PIPE_BUF: the last one is written in part
        data = b""
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                data += os.read(reader, 1 << 20)
            await asyncio.sleep(0.001)
        nonlocal missed
        missed = 20 - len(records(data))
        rig.nic.send(0, SYN)
        data += os.read(reader, 1 << 20)
        assert records(data)[20 - missed :] == [(1_700_000_000, 123_456, 60, SYN)]
        rig.network.close()
        os.close(reader)

    with no_fd_leak():
        run(main())
    assert 10 < missed < 15
    (message,) = caplog.messages
    assert message.endswith(f"{missed} frames were left out: its reader was too slow")


def test_closed_fifo_reader_ends_dump(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        os.mkfifo(tmp_path / "fifo")
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        rig = Rig(tmp_path / "fifo")
        os.close(reader)
        rig.nic.send(0, SYN)
        rig.nic.send(0, SYN)
        assert rig.host.got == [SYN, SYN]
        rig.network.close()

    with no_fd_leak():
        run(main())
    (message,) = caplog.messages
    assert message.endswith("network dump write error - stopping dump: Broken pipe")


def test_info(tmp_path: Path) -> None:
    async def main() -> None:
        rig = Rig(tmp_path / "a.pcap")
        assert rig.network.info_network().splitlines()[-1] == (
            f"  - f0: type=filter-dump,file={tmp_path}/a.pcap,maxlen=65536,"
            "position=tail,status=on,insert=behind,netdev=net0,queue=all"
        )
        rig.network.close()

    run(main())
