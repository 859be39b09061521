"""Runs a test in a child process, with which all ends that it leaves behind: descriptors, threads, exceptions.

For tests in which a process dies without an end: nothing closes what its objects hold, and Python's warning of a socket
that was never closed would fail a later test. `pytest.mark.in_a_child` does it, by the hook in conftest.py.
"""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import Final

import pytest

SKIPPED: Final = 77


def run_in_a_child(test: Callable[[], object]) -> None:
    """Raises AssertionError with the child's traceback if the test failed there, and skips if it was skipped there."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that of threads, of which the child uses none
        pid = os.fork()
    if pid == 0:
        _child(writing, test)
    os.close(writing)
    try:
        with os.fdopen(reading, errors="replace") as told:
            text = told.read()
    except BaseException:  # the test's time is over
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == SKIPPED:
        pytest.skip(text)
    assert status == 0, text or f"the child ended with {status}"


def _child(writing: int, test: Callable[[], object]) -> None:
    status, text = 1, ""
    try:
        test()
        status = 0
    except pytest.skip.Exception as skipped:
        status, text = SKIPPED, str(skipped)
    except BaseException:
        text = traceback.format_exc()
    finally:
        os.write(writing, text.encode()[-60_000:])
        os._exit(status)
