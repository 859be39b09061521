"""Tests of guarded calls: a blocking call ends soon, other calls are not affected, and no timer runs afterwards."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vnic.descriptors import Kind, close_fds, kind_of
from vnic.sockets import unblock
from vnic.sockets.closers import closers

SOURCE = Path(__file__).parents[3] / "src"

PROGRAM = """
import os, socket, struct, sys, time
from vnic.sockets import unblock

def full(fd, piece):
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, piece)
    except BlockingIOError:
        os.set_blocking(fd, True)
    return fd

def must_block(call, *arguments):
    try:
        call(*arguments)
    except unblock.Blocked:
        return
    raise SystemExit(f"{call} returned")

counter = os.eventfd(0)
here, there = socket.socketpair()
reading, writing = os.pipe()
with unblock.guarded():
    for _ in range(3):
        must_block(unblock.write, full(counter, (2**64 - 2).to_bytes(8, "little")), b"\\1" + bytes(7))
        must_block(unblock.write, full(here.fileno(), bytes(4096)), b"12345678")
        must_block(unblock.write, full(writing, bytes(4096)), b"12345678")
        os.eventfd_read(counter)
        must_block(unblock.read, counter, 8)
        must_block(unblock.read, here.fileno(), 8)
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as server:
            sender, receiver = socket.create_connection(server.getsockname()), server.accept()[0]
        full(sender.fileno(), bytes(65536))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
        unblock.close(sender.detach())
        receiver.close()
    time.sleep(0.1)
    assert not unblock._watch.armed
    unblock.write(counter, b"\\1" + bytes(7))
"""
"""It runs in a separate process, because pytest's timeout uses SIGALRM here. It ends right after a guarded call, so
that a timer that still ran would kill it."""


@pytest.mark.needs("loopback")
def test_blocking_calls_are_ended() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_preempted_call_does_not_count_as_blocked() -> None:
    """On a busy machine the timer may expire within a call of a microsecond, even twice."""

    def call(in_between: float | None) -> str:
        for _ in range(3):
            unblock._expired(signal.SIGALRM, None)
            if in_between is not None:
                time.sleep(in_between)
        return "done"

    assert unblock._watched(-1, 0, call, None) == "done"
    with pytest.raises(unblock.Blocked):
        unblock._watched(-1, 0, call, 0.001)


def test_a_call_whose_descriptor_is_ready_does_not_count_as_blocked() -> None:
    """Its thread waits for the interpreter's lock, which another one has."""

    def call() -> str:
        for _ in range(3):
            unblock._expired(signal.SIGALRM, None)
            time.sleep(0.001)
        return "done"

    counter = os.eventfd(0)
    assert unblock._watched(counter, select.POLLOUT, call) == "done"
    with pytest.raises(unblock.Blocked):
        unblock._watched(counter, select.POLLIN, call)
    os.close(counter)


def test_unguarded_calls_are_plain() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert unblock.write(theirs.fileno(), b"hello") == 5
        assert unblock.read(ours.fileno(), 8) == b"hello"
        with pytest.raises(BlockingIOError):
            unblock.read(ours.fileno(), 8)
    assert signal.getsignal(signal.SIGALRM) is not unblock._expired


def test_close_fds_leaves_blocking_close_to_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`vnic.descriptors` imports no socket; this module sets the function that it closes with."""
    left: list[int] = []
    monkeypatch.setattr(closers, "close", lambda fd, owner: left.append(fd))
    folder, counter = os.open(tmp_path, os.O_PATH), os.eventfd(0)
    close_fds([folder, counter])
    assert left == [folder]
    assert kind_of(counter) is Kind.CLOSED
    close_fds([counter])  # no error
    os.close(folder)
