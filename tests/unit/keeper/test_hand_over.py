"""What the supervisor hands over is what control finds in its environment."""

from __future__ import annotations

import contextlib
import gc
import os
import traceback

import pytest

from vnic.keeper import child, notify_socket
from vnic.keeper.fdstore import FdStore
from vnic.state.notify import Notifier, take_environment


def inheritable() -> set[int]:
    """The descriptors that a program would get."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder that is being listed
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found


FILES = 4096
"""More than any process of the tests has open, and than are handed over here."""


@pytest.mark.needs("files")
@pytest.mark.parametrize("count", [2, 3000])
@pytest.mark.parametrize("own", [False, True])
def test_it_reads_what_the_supervisor_hands_over(count: int, own: bool) -> None:
    """In a child, as the supervisor does it, with few and with many names, and around a descriptor of the user."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            gc.disable()  # sockets that earlier tests left would close their numbers, which are others' by then
            os.closerange(3, FILES)  # a supervisor has few of its own
            first = 40 if own else 3
            store = FdStore(first)
            names = [f"{'long-' * 8}{number}" for number in range(count)]
            for name in names:
                read, write = os.pipe()
                os.close(write)
                store.add(name, [read])
            before = inheritable()
            environment = child.passed(store)
            more = inheritable() - before - set(range(first, first + count + 1))
            started = take_environment(environment)
            expected = list(zip(names, range(first, first + count), strict=True))
            closed = all(not os.get_inheritable(fd) for _, fd in started.files)
            code = 0 if started.files == expected and closed and not environment and not more else 2
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_message_of_another_pid_namespace_is_not_that_of_a_child_that_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel tells 0 for its sender, and 0 is no child."""
    monkeypatch.setattr(notify_socket, "_sorted", lambda ancillary: (0, []))
    heard = notify_socket.NotifySocket()
    try:
        notifier = Notifier(heard.path)
        notifier.ready()
        notifier.close()
        assert list(heard.received(0)) == []
    finally:
        heard.close()


def test_flood_of_messages_leaves_the_supervisor_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_socket, "TURN_MESSAGES", 2)
    heard = notify_socket.NotifySocket()
    notifier = Notifier(heard.path)
    try:
        for _ in range(3):
            notifier.alive()
        found = [len(list(heard.received(os.getpid()))) for _ in range(3)]
        assert found == [2, 1, 0]
    finally:
        notifier.close()
        heard.close()


def test_program_that_cannot_be_started_leaves_no_second_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its line cannot be written."""

    class Unread:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr("sys.stderr", Unread())
    here = os.getpid()
    try:
        pid = child.start(["/no/such/program"], {}, FdStore(), ())
    finally:
        if os.getpid() != here:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == child.EXIT_CANNOT_START
