"""Runs calls that may wait for a name server, each in a thread beside the loop and for a bounded time.

`resolve` uses it. The executor of asyncio does not suit: it has few threads, which one unreachable name server can
occupy, and the program waits for them when it exits.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Final, TypeVar

LIMIT_S = 5.0
"""A lookup fails after this time; its thread ends when the resolver gives up."""
AT_ONCE_MAX: Final = 16

T = TypeVar("T")

_free = threading.BoundedSemaphore(AT_ONCE_MAX)


class LookupFailed(Exception):
    """The lookup took too long, or could not be started; `str()` says which."""


def look_up(loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of `work()`, or its exception, or LookupFailed. Cancel it when the result is not needed."""
    future: asyncio.Future[T] = loop.create_future()
    if not _free.acquire(blocking=False):
        future.set_exception(LookupFailed("too many lookups are under way"))
        return future

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            _settle(loop, future, functools.partial(future.set_exception, error))
        else:
            _settle(loop, future, functools.partial(future.set_result, result))
        finally:
            _free.release()

    try:
        threading.Thread(target=run, name="vnic-lookup", daemon=True).start()
    except RuntimeError as error:  # no thread can start
        _free.release()
        future.set_exception(LookupFailed(str(error)))
        return future
    timer = loop.call_later(LIMIT_S, _expire, future)
    future.add_done_callback(lambda _: timer.cancel())
    return future


def _expire(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(LookupFailed(f"no answer within {LIMIT_S:g} s"))


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], settle: Callable[[], None]) -> None:
    """Called in the thread: settle the future in the loop, unless it is done or has timed out."""

    def in_loop() -> None:
        if not future.done():
            settle()

    try:
        loop.call_soon_threadsafe(in_loop)
    except RuntimeError:
        return  # the loop is closed
