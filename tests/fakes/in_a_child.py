"""Runs a test in a child process, with which all ends that it leaves behind: descriptors, threads, exceptions."""

from __future__ import annotations

import functools
import os
import traceback
import warnings
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def in_a_child(test: Callable[P, None]) -> Callable[P, None]:
    """For tests that end a process's work at any line, by an exception of a trace function: Python 3.11.2 keeps the
    exceptions that were being handled there, and with them all that their frames hold, for ever."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # that of threads, of which the child uses none
            pid = os.fork()
        if pid == 0:
            _child(writing, lambda: test(*args, **kwargs))
        os.close(writing)
        with os.fdopen(reading, errors="replace") as told:
            text = told.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, text or f"the child ended with {status}"

    return run


def _child(writing: int, test: Callable[[], None]) -> None:
    status = 1
    try:
        test()
        status = 0
    except BaseException:
        with os.fdopen(writing, "w") as told:
            traceback.print_exc(file=told)
    finally:
        os._exit(status)
