"""Inherited: the records and descriptors that the process before left in the keeper, until they are taken."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from vnic.descriptors import close_fds
from vnic.record import Record, RecordError, decode
from vnic.state.fdtable import number_of
from vnic.state.handles import from_names, names_in
from vnic.state.let_go import let_go
from vnic.state.store import RecordStore, StoreError

log = logging.getLogger(__name__)

STATE_NAME: Final = "vnic-state"
"""The name of the store's own file in the keeper."""

R = TypeVar("R", bound=Record)
H = TypeVar("H")


def stored_form(handles: bytes, record: bytes) -> bytes:
    """A unit in the store: the time (CLOCK_MONOTONIC, µs), its handles and its record, in lines."""
    return b"%d\n%s\n%s" % (time.monotonic_ns() // 1000, handles, record)


class Inherited:
    """What the keeper passed."""

    def __init__(self, files: Sequence[tuple[str, int]] = ()) -> None:
        """Those with names of FdTable are this object's; others are left alone."""
        self.names: set[str] = set()
        """Of all that was passed."""
        self._files: dict[str, int] = {}
        self._stores: list[int] = []
        self._records: dict[str, tuple[Any, bytes]] = {}
        """Key → handles in stored form, and the record."""
        self._claims: dict[str, set[str]] = {}
        """Key → names, of all records that were not refused."""
        self.lost: set[str] = set()
        """The keys of the records that were refused."""
        self._saved_us: dict[str, int] = {}
        self._users: Counter[str] = Counter()
        """Name → the records not yet taken that have it."""
        for name, fd in files:
            if name == STATE_NAME:
                self._stores.append(fd)
            elif number_of(name) is None:
                continue
            elif name in self._files:
                close_fds([fd])
            else:
                self._files[name] = fd
            self.names.add(name)

    @property
    def next_number(self) -> int:
        """Greater than the number of every file's name that is still here."""
        return max((number_of(name) or 0 for name in self._files), default=-1) + 1

    def open_store(self) -> RecordStore | None:
        """The store of the process before, None if there is none that can be used; the log says why. What is damaged
        in it is logged by name."""
        store = None
        for fd in self._stores:
            try:
                store = RecordStore.open(fd) if store is None else store
            except (StoreError, OSError) as error:
                log.error("the state of the process before cannot be used, everything starts anew: %s", error)
        close_fds(fd for fd in self._stores if store is None or fd != store.fd)
        self._stores.clear()
        if store is None:
            return None
        for key, why in store.refused.items():
            log.error("%s: its state cannot be restored, it starts anew: %s", key, why)
            self.lost.add(key)
        for key in store.names:
            self._enter(key, store.get(key) or b"")
        return store

    def _enter(self, key: str, data: bytes) -> None:
        saved, _, rest = data.partition(b"\n")
        handles, _, record = rest.partition(b"\n")
        if saved.isdigit() and len(saved) < 20:
            self._saved_us[key] = int(saved)
        try:
            stored = msgspec.json.decode(handles)
        except (msgspec.DecodeError, RecursionError):
            stored = None  # its record is refused when it is taken
        self._records[key] = (stored, record)
        self._claims[key] = names_in(stored)
        self._users.update(self._claims[key])

    def files(self) -> list[tuple[str, int]]:
        """The names and descriptors that are still here."""
        return list(self._files.items())

    def keys(self) -> list[str]:
        return list(self._records)

    def age_us(self, key: str) -> int:
        """The age of a record, also of one that was taken; 0 if there is none."""
        now = time.monotonic_ns() // 1000
        return max(0, now - self._saved_us.get(key, now))

    def take(self, key: str, kind: type[R], handles: type[H]) -> tuple[R, H] | None:
        """The record and handles of a unit, which are the caller's then; None if there are none. Raises RecordError;
        then the record is forgotten."""
        entry = self._records.pop(key, None)
        if entry is None:
            return None
        stored, data = entry
        record = decode(kind, data)
        from_names(handles, stored, _Checking(self._files))
        names = self._claims[key]
        self._users.subtract(names)
        opening = _Opening(self._files)
        try:
            found: H = from_names(handles, stored, opening)
        except RecordError:
            opening.abandon()
            raise
        for name in names & self._files.keys():
            if self._users[name] <= 0:
                os.close(self._files.pop(name))
        return record, found

    def refuse(self, key: str) -> set[str]:
        """The names of the files that only this record has; they are let go of here."""
        self.lost.add(key)
        names = self._claims.pop(key, set()).difference(*self._claims.values())
        self._records.pop(key, None)
        self._let_go(names)
        return names & self.names

    def refuse_unclaimed(self) -> set[str]:
        """The names of the files that no record has, because the one that had them is damaged, or was removed just
        before the process died; they are let go of here."""
        names = self._files.keys() - set().union(*self._claims.values())
        self._let_go(names)
        return names

    def _let_go(self, names: set[str]) -> None:
        let_go(self._files.pop(name) for name in names & self._files.keys())

    def close(self) -> None:
        """Forget everything that was not taken, and let go of it. What a taken record has, too, is only closed."""
        taken = set().union(*(names for key, names in self._claims.items() if key not in self._records))
        close_fds(self._files.pop(name) for name in taken & self._files.keys())
        self._records.clear()
        self._claims.clear()
        self._let_go(set(self._files))


class _Checking:
    """Opens nothing, and says whether it could."""

    def __init__(self, files: dict[str, int]) -> None:
        self._files = files

    def descriptor(self, name: str) -> int:
        return self._files[name]

    def socket(self, name: str) -> None:
        if not stat.S_ISSOCK(os.fstat(self._files[name]).st_mode):
            raise OSError(f"is {name!a}, which is no socket")


class _Opening:
    """Duplicates descriptors."""

    def __init__(self, files: dict[str, int]) -> None:
        self._files = files
        self._fds: list[int] = []
        self._socks: list[socket.socket] = []

    def descriptor(self, name: str) -> int:
        fd = os.dup(self._files[name])
        self._fds.append(fd)
        return fd

    def socket(self, name: str) -> socket.socket:
        sock = socket.socket(fileno=os.dup(self._files[name]))
        self._socks.append(sock)
        return sock

    def abandon(self) -> None:
        """Close all that were opened."""
        close_fds(self._fds)
        for sock in self._socks:
            sock.close()
