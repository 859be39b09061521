"""Fixtures and rules that every test shares."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests import leftovers
from tests.fakes.in_a_child import run_in_a_child
from tests.needs import FILES, NEEDS, need
from tests.places import make_run_folder, short_folder

# How long an example takes, or its making, says how busy the machine is, and nothing about the code.
# CI tries the same examples each time for the same code; everywhere else they are new ones.
settings.register_profile(
    "vnic",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("vnic")

# A shell script's `make test &` ignores Ctrl-C for ever (POSIX sh, 2.11), and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

RUN_FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """What tests find is the same on all machines: a short temporary folder, and descriptors enough."""
    if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has the folder of its controller
        config.stash[RUN_FOLDER] = folder = make_run_folder()
        os.environ["XDG_STATE_HOME"] = str(folder / ".state")  # no journal in the user's home
    leftovers.mark_children()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        # Beyond the hard limit only root may go; tests with `needs("files")` skip for others.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, max(FILES, hard)))
    config.addinivalue_line(
        "markers", "needs(*names): skipped where the machine lacks a need of tests/needs.py"
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(RUN_FOLDER, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _needs(item: pytest.Item) -> list[str]:
    return [name for mark in item.iter_markers("needs") for name in mark.args]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in _needs(item):
            if name not in NEEDS:
                raise pytest.UsageError(f"{item.nodeid} needs {name!r}, which tests/needs.py does not have")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before fixtures, which may use what is needed."""
    need(*_needs(item))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In place of pytest's: its path is short, and nothing of it stays."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(autouse=True, scope="module")
def _no_process_is_left() -> Iterator[None]:
    """What a file's tests started ends with them, so that no later test meets it."""
    yield
    left = leftovers.end_all()
    assert not left, f"left running, and killed now: {left}"


def require(condition: object, what: str) -> None:
    """A need that the table of tests/needs.py does not have."""
    if condition:
        return
    if os.environ.get("VNIC_REQUIRE_GUESTS") == "1":
        pytest.fail(f"this machine lacks {what}, and VNIC_REQUIRE_GUESTS=1 demands it")
    pytest.skip(f"this machine lacks {what}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Those in which a process dies without an end run in one of their own."""
    if pyfuncitem.get_closest_marker("in_a_child") is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    run_in_a_child(partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names}))
    return True
