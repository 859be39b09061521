"""The journal over restarts, kills and bad disks, with whole processes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.process import PATIENCE_S, SOURCE, STATE, Place, guest_on, wait_for

from vnic.net.journal import JournalQuery
from vnic.net.records import LinkChange, Note
from vnic.state.place import Unusable
from vnic.state.reader import boot_id, read

ECHO = "echo,id=net0"
NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
KILLS = 12
MS_MAX = 0x40000


def journal(place: Place, name: str = "vnic") -> Path:
    return place.folder / STATE / "vnic" / f"{name}.db"


def records(path: Path) -> list[LinkChange | Note]:
    try:
        return read(path, JournalQuery(), boot_id())
    except Unusable:
        return []


def ask(path: str, command: str, **arguments: object) -> Any:
    """The reply to one QMP command."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(path)
        with client.makefile("rwb") as stream:
            stream.readline()
            for execute, given in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": execute, "arguments": given}).encode() + b"\n")
                stream.flush()
                reply = json.loads(stream.readline())
            return reply["return"]


def test_history_goes_on_over_restarts_and_kills(place: Place) -> None:
    with place.run("-netdev", ECHO, "-device", NIC), guest_on(place.path("nic0.sock")) as guest:
        assert place.verb("link", "set", "nic0", "down", "--wait", "30").returncode == 0
        assert not guest.sees_up()
    first = records(journal(place))
    assert [entry.id for entry in first] == list(range(1, len(first) + 1))
    events = [entry.event if isinstance(entry, Note) else f"{entry.name} {entry.link}" for entry in first]
    assert events[:6] == ["started", "net0 up", "nic0 up", "attached", "driver-ready", "nic0 down"]
    assert events[-1] == "ended"
    assert "detached" in events
    down = first[5]
    assert isinstance(down, LinkChange)
    assert down.seen_us is not None

    killed = place.run("-netdev", ECHO, "-device", NIC)
    assert place.verb("link", "set", "net0", "down").returncode == 0
    changes = ask(killed.qmp_path, "query-link-log", name="nic0")
    assert [change["id"] for change in changes if change["id"] <= len(first)] == [
        entry.id for entry in first if isinstance(entry, LinkChange) and entry.name == "nic0"
    ]
    wait_for(lambda: records(journal(place))[-1].id == changes[-1]["id"])
    killed.end(signal.SIGKILL)

    with place.run("-netdev", ECHO) as third:
        every = ask(third.qmp_path, "query-journal")
        starts = [entry for entry in every if entry["kind"] == "start"]
        assert [start["details"].get("previous-ended") for start in starts] == [None, True, False]
        assert [start["details"].get("rebooted") for start in starts] == [None, False, False]
        assert [entry["id"] for entry in every] == list(range(1, len(every) + 1))
        assert (
            ask(third.qmp_path, "query-journal", cause="operator", name="nic0", limit=1)[0]["link"] == "down"
        )


def test_kills_in_midst_of_many_changes_leave_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    last = 0
    for number in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "vnic.lab.bench.flood", str(path)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout as told:
            for _ in range(20 + number * 7):
                line = told.readline()
            process.kill()
            line = told.read().rpartition("\n")[0].rpartition("\n")[2] or line
        process.wait()
        made = int(line.split()[0])
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            kept = [row[0] for row in connection.execute("SELECT id FROM records ORDER BY id")]
        assert kept[-1] > last, "each start writes"
        assert kept == list(range(kept[0], kept[-1] + 1)), "what is lost is at the end only"
        assert made - kept[-1] < 10_000, "of a second at most, on a machine that is busy with others"
        last = kept[-1]
        assert all(isinstance(entry, LinkChange) and entry.seen_us for entry in records(path)[:-100])


def test_second_vnic_with_one_path_keeps_its_journal_in_memory(place: Place) -> None:
    options = ("-journal", "j.db", "-netdev", ECHO)
    with place.run(*options, name="a"):
        second = place.run(*options, name="b")
        assert place.verb("link", "set", "net0", "down", "-n", "b").returncode == 0
        assert len(ask(second.qmp_path, "query-journal")) == 3
        code, said = second.end()
        assert code == 0
        assert "j.db: another vnic (process " in said
        assert "it is kept in memory, and the file is tried again" in said
        assert said.count("\n") == 1
    kinds = [entry.kind if isinstance(entry, Note) else "link" for entry in records(place.folder / "j.db")]
    assert kinds == ["start", "link", "end"], "of the first alone"


def test_none_writes_nothing(place: Place) -> None:
    with place.run("-journal", "none", "-netdev", ECHO) as running:
        assert [entry["kind"] for entry in ask(running.qmp_path, "query-journal")] == ["start", "link"]
    assert not (place.folder / STATE).exists()


def test_start_that_is_refused_is_told(place: Place) -> None:
    assert place.command("run", "-netdev", ECHO, "-netdev", ECHO).returncode == 1
    assert [entry.text for entry in records(journal(place)) if isinstance(entry, Note)][-1] == (
        "vnic ended: its start was refused"
    )


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 256 KiB at `folder`, in a mount namespace of this process's thread and what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=256k"):
        pytest.skip("this machine lets no tmpfs be mounted")
    try:
        yield
    finally:
        assert libc.umount2(os.fsencode(folder), 2) == 0


@pytest.mark.needs("namespaces")
def test_full_disk_leaves_links_alone(place: Place) -> None:
    folder = place.folder / "disk"
    folder.mkdir()
    with small_disk(folder):
        running = place.run("-journal", "disk/j.db", "-netdev", ECHO)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(running.qmp_path)
            client.settimeout(PATIENCE_S)
            with client.makefile("rwb") as stream:
                stream.readline()
                stream.write(b'{"execute": "qmp_capabilities"}\n')
                for number in range(2000):
                    up = b"true" if number % 2 else b"false"
                    stream.write(
                        b'{"execute": "set_link", "arguments": {"name": "net0", "up": ' + up + b"}}\n"
                    )
                    stream.flush()
                    while b'"return"' not in stream.readline():
                        pass
        assert len(ask(running.qmp_path, "query-journal")) == 2002
        code, said = running.end()
    assert code == 0
    assert "j.db: database or disk is full; it is kept in memory" in said
    assert said.count("kept in memory") == 1


@pytest.mark.needs("namespaces")
def test_read_only_disk_leaves_links_alone(place: Place) -> None:
    folder = place.folder / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"none", os.fsencode(folder), b"tmpfs", 1, b"size=256k") == 0  # MS_RDONLY
    try:
        running = place.run("-journal", "disk/j.db", "-netdev", ECHO)
        assert place.verb("link", "set", "net0", "down").returncode == 0
        assert running.end() == (
            0,
            f"vnic: warning: journal: {folder}/j.db: Read-only file system;"
            " it is kept in memory, and the file is tried again\n",
        )
    finally:
        assert libc.umount2(os.fsencode(folder), 2) == 0


@pytest.mark.parametrize("content", [b"garbage" * 1000, b""], ids=["garbage", "empty"])
def test_file_that_is_no_journal_is_left_alone(place: Place, content: bytes) -> None:
    path = place.folder / "j.db"
    path.write_bytes(content)
    running = place.run("-journal", "j.db", "-netdev", ECHO)
    assert place.verb("link").returncode == 0
    code, said = running.end()
    assert code == 0
    if content:
        assert f"journal: {path}: file is not a database; it is kept in memory" in said
        assert path.read_bytes() == content
    else:
        assert said == ""
        assert len(records(path)) == 3


def test_log_and_why_ask_running_vnic_and_read_file_later(place: Place) -> None:
    with place.run("-netdev", ECHO, "-device", NIC, name="lab") as running, guest_on(place.path("nic0.sock")):
        assert place.verb("link", "set", "net0", "down", "--wait", "30").returncode == 0
        log = place.verb("log", "nic0")
        assert log.stderr == ""
        change = log.stdout.splitlines()[-1].split("\t")
        assert change[2:4] == ["nic0", "down"]
        assert change[5].endswith(" net0"), "the cause is named"
        assert (
            place.verb("log", "nic0", "--json").stdout == place.verb("log", "nic0", "-j", "-n", "lab").stdout
        )
        mac = ask(running.qmp_path, "query-links", name="nic0")[0]["mac"]
        assert place.verb("log", mac).stdout == log.stdout
        wait_for(lambda: "nic0 was down at" in place.verb("why", "nic0", "--at", "0.001s").stdout)
    stored = place.verb("log", "nic0")
    assert stored.stdout.startswith(log.stdout.rstrip("\n"))
    assert "no vnic was asked" in stored.stderr
    assert "no vnic ran: it had ended at" in place.verb("why", "nic0", "--at", "0.001s").stdout
