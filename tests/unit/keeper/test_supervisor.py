"""The supervisor with a child that does what the test says: restarts, descriptors, the watchdog, the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.directed_program import Director, Started

from vnic.keeper.variables import Keeper, take_keeper

ROOT = Path(__file__).parents[3]
FAKES = ROOT / "tests" / "fakes"
PATIENCE_S = 30.0


class Kept:
    """A supervisor whose child is a directed program."""

    def __init__(self, *settings: str, pass_fds: tuple[int, ...] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vnic-t-")
        self._children: list[Started] = []
        self.director = Director(f"{self._folder.name}/director")
        command = [sys.executable, str(FAKES / "directed_program.py"), self.director.path, "some", "words"]
        self.process = subprocess.Popen(
            [sys.executable, str(FAKES / "keeper_program.py"), *settings, "--", *command],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"},
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    def started(self) -> Started:
        child = self.director.next_start()
        self._children.append(child)  # each ends when its connection does
        return child

    def up(self) -> Started:
        """The next start, set up."""
        child = self.started()
        child.notify("READY=1")
        return child

    def ended(self) -> tuple[int, str]:
        """The outcome and all that was said."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in said, said
        head, _, outcome = said.rpartition("outcome ")
        return int(outcome), head

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=PATIENCE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(
                self.process.pid, signal.SIGKILL
            )  # its child, too, which may be left by a test that fails
        self.process.communicate()
        self.director.close()
        self._folder.cleanup()


@contextlib.contextmanager
def keeper_of(*settings: str, pass_fds: tuple[int, ...] = ()) -> Iterator[Kept]:
    kept = Kept(*settings, pass_fds=pass_fds)
    try:
        yield kept
    finally:
        kept.close()


@pytest.fixture
def kept() -> Iterator[Kept]:
    with keeper_of() as made:
        yield made


def names(child: Started) -> list[str]:
    """What it was passed, from number 3 on."""
    found = child.environment.get("LISTEN_FDNAMES", "")
    assert child.environment.get("LISTEN_PID", str(child.pid)) == str(child.pid)
    assert int(child.environment.get("LISTEN_FDS", "0")) == len(found.split(":") if found else [])
    return found.split(":") if found else []


def test_a_killed_child_is_started_again_with_the_same_words(kept: Kept) -> None:
    first = kept.up()
    first.kill()
    second = kept.up()
    assert second.pid != first.pid
    assert second.words == first.words == ["some", "words"]


def test_stored_descriptors_are_passed_to_the_next_one(kept: Kept) -> None:
    first = kept.up()
    assert names(first) == []
    first.ask("store", "a", "content of a")
    first.ask("store", "b", "content of b")
    first.kill()
    second = kept.up()
    contents = {name: second.ask("read", at) for at, name in enumerate(names(second), 3)}
    assert contents == {"a": "content of a", "b": "content of b"}


def test_a_removed_descriptor_is_not_passed(kept: Kept) -> None:
    first = kept.up()
    for name in ("a", "b", "c"):
        first.ask("store", name, f"content of {name}")
    first.notify("FDSTOREREMOVE=1", "FDNAME=b")
    first.kill()
    second = kept.up()
    assert sorted(names(second)) == ["a", "c"]
    second.notify("FDSTOREREMOVE=1", "FDNAME=a")
    second.kill()
    assert names(kept.up()) == ["c"]


def test_a_barrier_is_closed_when_all_before_it_was_done(kept: Kept) -> None:
    assert kept.up().ask("barrier") is True


def test_what_was_said_right_before_a_death_counts(kept: Kept) -> None:
    first = kept.up()
    os.kill(kept.process.pid, signal.SIGSTOP)
    first.ask("store", "last", "content")
    first.kill()
    os.kill(kept.process.pid, signal.SIGCONT)
    assert names(kept.up()) == ["last"]


def test_descriptors_of_the_user_stay_at_their_numbers() -> None:
    mine = os.memfd_create("mine")
    os.write(mine, b"the user's")
    with keeper_of(f"first_fd={mine + 1}", pass_fds=(mine,)) as kept:
        first = kept.up()
        first.ask("store", "a", "content of a")
        first.kill()
        second = kept.up()
        assert second.ask("read", mine) == "the user's"
        assert second.environment["VNIC_LISTEN_FDS_START"] == str(mine + 1)
        assert second.ask("read", mine + 1) == "content of a"
    os.close(mine)


def test_names_too_long_for_a_variable_come_in_a_file(kept: Kept) -> None:
    first = kept.up()
    name = "n" * 255
    for _ in range(500):
        first.ask("store", name, "x")
    first.kill()
    second = kept.up()
    assert "LISTEN_FDNAMES" not in second.environment
    assert second.environment["LISTEN_FDS"] == "500"
    text = second.ask("read", int(second.environment["VNIC_LISTEN_FDNAMES_FD"]))
    assert text == name[:100]


def test_only_the_child_itself_is_heard(kept: Kept) -> None:
    child = kept.started()
    child.ask("another_says", "READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(child.environment["NOTIFY_SOCKET"])
        with open(os.devnull) as null:
            socket.send_fds(sock, [b"READY=1\nFDSTORE=1\nFDNAME=foreign"], [null.fileno()])
    child.exit(3)
    outcome, said = kept.ended()
    assert outcome == 3  # it was never set up: nothing is started again
    assert "up" not in said


def test_a_child_that_is_killed_before_it_was_set_up_is_started_again(kept: Kept) -> None:
    kept.started().kill()
    kept.started().exit(3)
    assert kept.ended()[0] == 3


def test_the_socket_is_open_to_this_user_only(kept: Kept) -> None:
    path = Path(kept.up().environment["NOTIFY_SOCKET"])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    kept.process.terminate()
    kept.ended()
    assert not path.parent.exists()


def test_a_wrong_message_is_refused_by_its_reason(kept: Kept) -> None:
    child = kept.up()
    child.notify("FDSTORE=1", "FDNAME=a:b")
    child.exit(0)
    assert "FDNAME='a:b' is no name of a descriptor" in kept.ended()[1]


def test_a_child_that_ends_in_order_ends_all(kept: Kept) -> None:
    kept.up().exit(0)
    assert kept.ended()[0] == 0


def test_a_first_start_that_fails_is_not_repeated(kept: Kept) -> None:
    kept.started().exit(2)
    assert kept.ended()[0] == 2


def test_an_exit_code_after_the_set_up_is_a_death(kept: Kept) -> None:
    first = kept.up()
    first.exit(1)
    kept.up().exit(0)
    assert f"process {first.pid} ended with exit code 1; it is started again" in kept.ended()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_ends_all(kept: Kept, number: signal.Signals) -> None:
    child = kept.up()
    child.ask("exits_on", number, 7)
    kept.process.send_signal(number)
    assert kept.ended()[0] == 7


def test_a_signal_during_a_restart_waits_until_the_child_is_set_up(kept: Kept) -> None:
    kept.up().kill()
    second = kept.started()
    second.ask("exits_on", signal.SIGTERM, 7)
    kept.process.terminate()
    time.sleep(0.3)
    assert kept.process.poll() is None
    with contextlib.suppress(ValueError):  # the signal may end it before it answers
        second.notify("READY=1")
    assert kept.ended()[0] == 7


def test_a_second_signal_during_a_restart_does_not_wait(kept: Kept) -> None:
    kept.up().kill()
    second = kept.started()
    kept.process.terminate()
    time.sleep(0.3)
    kept.process.terminate()
    assert kept.ended()[0] == -signal.SIGTERM
    assert not Path(f"/proc/{second.pid}").exists()


def test_a_child_that_a_signal_ended_on_its_way_down_is_not_started_again(kept: Kept) -> None:
    kept.up()
    kept.process.terminate()
    assert kept.ended()[0] == -signal.SIGTERM


def test_a_child_that_said_that_it_ends_is_not_started_again(kept: Kept) -> None:
    child = kept.up()
    child.notify("STOPPING=1")
    child.kill()
    assert kept.ended()[0] == -signal.SIGKILL


def test_a_child_that_does_not_end_is_killed() -> None:
    with keeper_of("STOP_S=0.3") as kept:
        child = kept.up()
        child.ask("ignores", signal.SIGTERM)
        kept.process.terminate()
        outcome, said = kept.ended()
        assert outcome == -signal.SIGKILL
        assert "did not end in time" in said


def test_a_signal_during_the_pause_ends_it(kept: Kept) -> None:
    for _ in range(6):
        kept.up().kill()
    time.sleep(0.2)
    kept.process.terminate()
    assert kept.ended()[0] == 0


def test_a_signal_during_the_pause_has_what_is_stored_ended_in_order(kept: Kept) -> None:
    first = kept.up()
    first.ask("store", "a", "content")
    first.kill()
    for _ in range(5):
        kept.up().kill()
    time.sleep(0.2)
    kept.process.terminate()
    last = kept.started()
    assert names(last) == ["a"]
    last.ask("exits_on", signal.SIGTERM, 7)
    with contextlib.suppress(ValueError):  # the signal may end it before it answers
        last.notify("READY=1")
    assert kept.ended()[0] == 7


def test_a_hung_child_is_killed_and_started_again() -> None:
    with keeper_of("WATCHDOG_S=0.5") as kept:
        first = kept.up()
        assert first.environment["WATCHDOG_USEC"] == "500000"
        assert first.environment["WATCHDOG_PID"] == str(first.pid)
        first.kill(signal.SIGSTOP)
        second = kept.up()
        second.exit(0)
        assert "has not answered for 0.5 s" in kept.ended()[1]


def test_a_child_that_answers_is_left_alone() -> None:
    with keeper_of("WATCHDOG_S=1.5") as kept:
        child = kept.up()
        for _ in range(25):
            child.notify("WATCHDOG=1")
            time.sleep(0.1)
        assert not kept.director.has_started(0)


def test_a_child_that_gets_no_processor_is_not_hung() -> None:
    """It shares one with programs that always have something to do, and comes after them."""
    processor = {min(os.sched_getaffinity(0))}
    with keeper_of("WATCHDOG_S=0.3") as kept:
        child = kept.up()
        os.sched_setaffinity(child.pid, processor)
        os.sched_setscheduler(child.pid, os.SCHED_IDLE, os.sched_param(0))
        spin = f"import os; os.sched_setaffinity(0, {processor}); exec('while True: pass')"
        spinning = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
        try:
            for _ in range(6):
                child.notify("WATCHDOG=1")
                time.sleep(0.2)
            assert not kept.director.has_started(0)
        finally:
            for each in spinning:
                each.kill()
                each.wait()
            child.notify("WATCHDOG=1")


def test_a_stop_of_the_supervisor_itself_is_no_silence_of_the_child() -> None:
    with keeper_of("WATCHDOG_S=1.0") as kept:
        child = kept.up()
        child.notify("WATCHDOG=1")
        os.kill(kept.process.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(kept.process.pid, signal.SIGCONT)
        time.sleep(0.3)
        child.notify("WATCHDOG=1")
        assert not kept.director.has_started(0)


def test_a_start_that_takes_too_long_is_killed() -> None:
    with keeper_of("START_S=0.5") as kept:
        kept.up().kill()
        second = kept.started()
        kept.up().exit(0)
        outcome, said = kept.ended()
        assert outcome == 0
        assert f"process {second.pid} did not start in time" in said


def test_a_child_that_never_comes_up_again_loses_what_is_stored_and_is_given_up(kept: Kept) -> None:
    first = kept.up()
    first.ask("store", "a", "content")
    first.kill()
    found = []
    for _ in range(6):
        child = kept.started()
        found.append(names(child))
        child.exit(5)
    outcome, said = kept.ended()
    assert outcome == 5
    assert found == [["a"], ["a"], ["a"], [], [], []]
    assert "is started without" in said


def test_orphans_of_a_dead_child_are_reaped(kept: Kept) -> None:
    first = kept.up()
    orphan = first.ask("leave_a_child")
    first.kill()
    kept.up()
    os.kill(orphan, signal.SIGKILL)
    end = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{orphan}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_next_one_is_told_of_the_end_of_the_last_one(kept: Kept) -> None:
    first = kept.up()
    assert keeper(first, kept) == Keeper(kept.process.pid, 1, "", 0, "")
    before = time.monotonic_ns()
    first.kill()
    told = keeper(kept.up(), kept)
    assert told.starts == 2
    assert told.last_end == "was killed by SIGKILL"
    assert before <= told.ended_ns <= time.monotonic_ns()


def keeper(child: Started, kept: Kept) -> Keeper:
    found = take_keeper(dict(child.environment), kept.process.pid)
    assert found is not None
    return found


def test_a_keeper_further_above_is_none(kept: Kept) -> None:
    assert take_keeper(dict(kept.up().environment), os.getpid()) is None


# -- upgrades ---------------------------------------------------------------------------------------------------------


def other_program(kept: Kept, text: str) -> str:
    path = Path(kept.director.path).with_name("other")
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_an_upgrade_starts_the_other_program_with_the_same_words(kept: Kept) -> None:
    first = kept.up()
    first.ask("store", "a", "content")
    other = other_program(
        kept, f'#!/bin/sh\nshift\nexec {sys.executable} {FAKES / "directed_program.py"} "$@" new\n'
    )
    first.notify(f"X_VNIC_UPGRADE={other}")
    first.exit(133)
    second = kept.up()
    assert second.words == ["some", "words", "new"]
    assert names(second) == ["a"]
    second.kill()
    third = kept.up()
    assert third.words == ["some", "words", "new"]
    assert keeper(third, kept).upgrade == f"done {other}"


def test_an_upgrade_that_does_not_come_up_is_gone_back_on(kept: Kept) -> None:
    first = kept.up()
    first.ask("store", "a", "content")
    other = other_program(kept, "#!/bin/sh\nexit 3\n")
    first.notify(f"X_VNIC_UPGRADE={other}")
    first.exit(133)
    second = kept.up()
    assert second.words == ["some", "words"]
    assert names(second) == ["a"]
    assert keeper(second, kept).upgrade == f"failed {other}: it ended with exit code 3"


def test_an_upgrade_to_no_program_is_gone_back_on(kept: Kept) -> None:
    first = kept.up()
    first.notify("X_VNIC_UPGRADE=/nowhere/vnic")
    first.exit(133)
    assert keeper(kept.up(), kept).upgrade == "failed /nowhere/vnic: it ended with exit code 127"


def test_an_upgrade_that_hangs_is_gone_back_on() -> None:
    with keeper_of("UPGRADE_S=0.5") as kept:
        first = kept.up()
        other = other_program(kept, "#!/bin/sh\nexec sleep 60\n")
        first.notify(f"X_VNIC_UPGRADE={other}")
        first.exit(133)
        assert keeper(kept.up(), kept).upgrade == f"failed {other}: it was killed by SIGKILL"


def test_a_sandboxed_child_can_have_no_other_program_started() -> None:
    with keeper_of("sandbox=on") as kept:
        first = kept.up()
        other = other_program(kept, f"#!/bin/sh\ntouch {kept.director.path}-escaped\n")
        first.notify(f"X_VNIC_UPGRADE={other}")
        first.exit(133)
        assert (
            keeper(kept.up(), kept).upgrade
            == f"failed {other}: -sandbox and -run-with allow no other program"
        )
        assert not Path(f"{kept.director.path}-escaped").exists()


def test_a_child_that_asked_for_an_upgrade_and_does_not_leave_is_killed() -> None:
    with keeper_of("LEAVE_S=0.3") as kept:
        kept.up().notify("X_VNIC_UPGRADE=")
        second = kept.up()
        assert keeper(second, kept).last_end == "left for its successor"


def test_a_child_that_leaves_is_followed_at_once(kept: Kept) -> None:
    for _ in range(8):
        kept.up().exit(133)
    kept.up().exit(0)
    assert kept.ended()[0] == 0
