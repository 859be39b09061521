"""What the supervisor hands over is what control finds in its environment."""

from __future__ import annotations

import os

import pytest

from vnic.keeper import child
from vnic.keeper.fdstore import FdStore
from vnic.state.notify import take_environment


@pytest.mark.parametrize("count", [2, 3000])
@pytest.mark.parametrize("own", [False, True])
def test_it_reads_what_the_supervisor_hands_over(count: int, own: bool) -> None:
    """In a child, as the supervisor does it, with few and with many names, and around a descriptor of the user."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            first = 40 if own else 3
            store = FdStore(first)
            names = [f"{'long-' * 8}{number}" for number in range(count)]
            for name in names:
                read, write = os.pipe()
                os.close(write)
                store.add(name, [read])
            environment = child.passed(store)
            started = take_environment(environment)
            expected = list(zip(names, range(first, first + count), strict=True))
            closed = all(not os.get_inheritable(fd) for _, fd in started.files)
            code = 0 if started.files == expected and closed and not environment else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
