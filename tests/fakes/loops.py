"""Runs an asyncio loop from synchronous tests, until a condition holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator

from vnic.lab.played.vhost_user_client import turn

__all__ = ["few_descriptors", "fresh_loop", "no_fd_leak", "open_fds", "run_for", "turn", "until"]


@contextlib.contextmanager
def fresh_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own; an exception that a callback let escape fails the test."""
    loop = asyncio.new_event_loop()
    escaped: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: escaped.append(context))
    try:
        yield loop
        turn(loop)
    finally:
        loop.close()
    assert not escaped, escaped


def until(loop: asyncio.AbstractEventLoop, condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Run the loop until `condition()` holds; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        loop.run_until_complete(asyncio.sleep(0.0005))


def run_for(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Run the loop for some real time."""
    loop.run_until_complete(asyncio.sleep(seconds))


def open_fds(pid: int | str = "self") -> int:
    """How many descriptors a process, this one unless told, has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def few_descriptors(room: int) -> Iterator[None]:
    """Let this process open `room` more and no others. The limit is one of numbers, and the lowest ones are given."""
    numbers = [os.dup(0) for _ in range(room + 1)]
    for fd in numbers:
        os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_fd_leak() -> Iterator[None]:
    """Fail if the block leaves more descriptors open than it found; garbage of earlier tests may go meanwhile.

    Strangers' descriptors are closed beside the loop, so the last may take its time.
    """
    before = open_fds()
    yield
    end = time.monotonic() + 60
    while open_fds() > before:
        assert time.monotonic() < end, f"{open_fds()} descriptors open, {before} before"
        time.sleep(0.001)
