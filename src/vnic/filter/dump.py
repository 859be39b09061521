"""filter-dump: writes frames to a file that tcpdump and Wireshark read (QEMU's net/dump.c; pcap-savefile(5)).

`registry` makes it. Each frame is one write, so that a reader of the growing file finds whole records.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import struct
from collections.abc import Callable
from typing import Annotated, NamedTuple

import msgspec

from vnic.backend.base import BackendContext
from vnic.filter.options import DumpOptions
from vnic.net.errors import NetError
from vnic.net.filters import Direction, DumpTarget, Filter, FilterRecord, WireEnd
from vnic.net.queue import Frame
from vnic.record import RecordError, require
from vnic.sockets.take_up import TakeUp

log = logging.getLogger("vnic.filter")

MAGIC = 0xA1B2C3D4  # times in microseconds, the byte order that of this number
VERSION = (2, 4)
LINKTYPE_ETHERNET = 1
FILE_HEADER = struct.Struct("<IHHiIII")  # magic, version, thiszone, sigfigs, snaplen, linktype
RECORD_HEADER = struct.Struct("<IIII")  # seconds, microseconds, bytes kept, bytes on the wire
assert (FILE_HEADER.size, RECORD_HEADER.size) == (24, 16)


class DumpFilterRecord(FilterRecord, frozen=True):
    """The state of a DumpFilter apart from its file."""

    dumping: bool
    """An error of the file ends the dump."""
    rest: bytes
    """The rest of the last record, which a full FIFO has not taken yet."""
    dropped: Annotated[int, msgspec.Meta(ge=0)]

    def check_fields(self) -> None:
        require(self.dumping or not self.rest, "rest", "of a dump that has ended")


def create_file(path: str, snaplen: int) -> int:
    """Open the file of a new dump, empty it and write its header. NetError if that fails."""
    # Two processes may write: this one, and vnic-wire while it moves the packets.
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Invalid argument"
        raise NetError(f"Could not open '{path}': {reason}") from None
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        raise NetError(f"Could not open '{path}': it is a block device, and would be overwritten")
    header = FILE_HEADER.pack(MAGIC, *VERSION, 0, 0, snaplen, LINKTYPE_ETHERNET)
    try:
        os.write(fd, header)
    except OSError as error:
        os.close(fd)
        raise NetError(f"net dump write error: {error.strerror}") from None
    return fd


class PcapFile:
    """A file, or a FIFO that has a reader (`wireshark -k -i FIFO`). It never blocks."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        snaplen: int,
        fd: int,
        *,
        rest: bytes = b"",
        dropped: int = 0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`snaplen`: the bytes to keep of a frame. `fd` is the file at `path`, which it owns; -1: the dump has ended.
        `rest` and `dropped` are those of the one before, after a restart. `changed` is called when the state is another
        one."""
        self._changed = changed
        self._loop = loop
        self._path = path
        self._snaplen = snaplen
        self._fd = fd
        self.regular = fd >= 0 and stat.S_ISREG(os.fstat(fd).st_mode)
        self._dropped = dropped
        self._rest = rest
        """The rest of the last record, which a full FIFO has not taken yet."""
        if rest:
            loop.add_writer(fd, self._writable)

    def save(self, on: bool) -> DumpFilterRecord:
        """The record of the filter that it is of."""
        return DumpFilterRecord(on=on, dumping=self._fd >= 0, rest=self._rest, dropped=self._dropped)

    @property
    def fd(self) -> int | None:
        """The descriptor of the file; None: the dump has ended."""
        return self._fd if self._fd >= 0 else None

    def write(self, wall_ns: int, frame: Frame) -> None:
        """Append one record. It is dropped if a FIFO is full; an error of the file ends the dump."""
        if self._fd < 0:
            return
        if self._rest:
            self._dropped += 1
            self._changed()
            return
        kept = frame if len(frame) <= self._snaplen else memoryview(frame)[: self._snaplen]
        seconds, ns = divmod(wall_ns, 1_000_000_000)
        header = RECORD_HEADER.pack(seconds & 0xFFFFFFFF, ns // 1000, len(kept), len(frame))
        try:
            done = os.writev(self._fd, (header, kept))
        except BlockingIOError:
            self._dropped += 1
        except OSError as error:
            self._stop(error)
        else:
            if done < len(header) + len(kept):
                self._continue(done, (header + bytes(kept))[done:])

    def _continue(self, done: int, rest: bytes) -> None:
        """Only part of a record was written: the FIFO is full, or the file system is nearly full."""
        if not self.regular:
            self._rest = rest
            self._changed()
            self._loop.add_writer(self._fd, self._writable)
            return
        try:
            while rest:
                written = os.write(self._fd, rest)
                done, rest = done + written, rest[written:]
        except OSError as error:
            # A partial record would make the file unreadable from there on.
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR) - done)
            self._stop(error)

    def _writable(self) -> None:
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._stop(error)
            return
        self._changed()
        if not self._rest:
            self._loop.remove_writer(self._fd)

    def _stop(self, error: OSError) -> None:
        self.fail(error.strerror or str(error))

    def fail(self, reason: str) -> None:
        """The file cannot be written: end the dump."""
        if self._fd >= 0:
            log.error("%s: network dump write error - stopping dump: %s", self._path, reason)
            self.close()

    def fileno(self) -> int:
        """-1: the dump has ended."""
        return self._fd

    def close(self) -> None:
        """Close the file. It may be called again."""
        if self._fd < 0:
            return
        if self._rest:
            self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._changed()
        if self._dropped:
            log.warning("%s: %d frames were left out: its reader was too slow", self._path, self._dropped)


class DumpFds(NamedTuple):
    """The descriptor of a DumpFilter."""

    file: int | None


class DumpFilter(Filter):
    """Writes every frame to the file and passes it on."""

    type = "filter-dump"
    kept_type = DumpFilterRecord, DumpFds

    def __init__(self, context: BackendContext, options: DumpOptions) -> None:
        super().__init__(options)
        if not options.maxlen:
            raise NetError("Property 'filter-dump.maxlen' doesn't take value '0'")
        self._loop = context.loop
        self._clock = context.network.clock
        self._path = options.file
        self._maxlen = options.maxlen
        self._file: PcapFile | None = None

    def setup(self) -> None:
        fd = create_file(self._path, self._maxlen)
        self._file = PcapFile(self._loop, self._path, self._maxlen, fd, changed=self._state_changed)

    def _state_changed(self) -> None:
        self.kept.handles_changed()

    def save(self) -> DumpFilterRecord:
        if self._file is None:
            return DumpFilterRecord(on=self.on, dumping=False, rest=b"", dropped=0)
        return self._file.save(self.on)

    @property
    def handles(self) -> int | None:
        """The descriptor of the file."""
        return None if self._file is None else self._file.fd

    def save_kept(self) -> tuple[DumpFilterRecord, DumpFds]:
        return self.save(), DumpFds(self.handles)

    def take_up(self, record: DumpFilterRecord, handles: DumpFds) -> None:
        with TakeUp(handles):
            self.restore(record, handles.file)

    def restore(self, record: DumpFilterRecord, handles: int | None = None) -> None:
        """Append to the file whose descriptor is passed; it is the filter's own then."""
        told = "a" if handles is not None else "no"
        require(record.dumping is (handles is not None), "dumping", f"and {told} descriptor was passed")
        fd = -1
        if handles is not None:
            fd = handles
            regular = _is_regular(fd)
            require(not record.rest or not regular, "rest", "of a regular file, which takes all")
            if regular:
                os.lseek(fd, 0, os.SEEK_END)
        self._file = PcapFile(
            self._loop,
            self._path,
            self._maxlen,
            fd,
            rest=record.rest,
            dropped=record.dropped,
            changed=self._state_changed,
        )
        self.on = record.on

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        """A frame with an unfinished checksum or segmentation is written unchanged, as tcpdump shows it."""
        assert self._file is not None
        self._file.write(self._clock.wall_ns(), frame)
        return False

    # -- DumpTarget: vnic-wire writes the file ----------------------------------------------------------------------

    def wire_refusal(self) -> str:
        ended = self._file is None or self._file.fileno() < 0
        return "" if ended else f"{self.type} {self.id} writes to a FIFO"

    def dump_target(self) -> DumpTarget | None:
        return self if self._file is not None and self._file.regular and self._file.fileno() >= 0 else None

    @property
    def received(self) -> bool:
        return Direction.RX in self.directions

    @property
    def sent(self) -> bool:
        return Direction.TX in self.directions

    @property
    def snaplen(self) -> int:
        return self._maxlen

    def fileno(self) -> int:
        return self._file.fileno() if self._file is not None else -1

    def failed(self, reason: str) -> None:
        if self._file is not None:
            self._file.fail(reason)

    def cleanup(self) -> None:
        if self._file is not None:
            self._file.close()

    def own_properties(self) -> dict[str, object]:
        return {"file": self._path, "maxlen": self._maxlen}


def _is_regular(fd: int) -> bool:
    """RecordError for a descriptor that no dump can have."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise RecordError("dumping", f"and the descriptor is invalid: {error.strerror}") from None
    require(not stat.S_ISBLK(mode), "dumping", "and the descriptor is that of a block device")
    return stat.S_ISREG(mode)
