"""`vnic run --keep`: control is started again when it dies, and all ends together."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.json_shapes import validate
from tests.integration.kept_vnic import controls_of
from tests.integration.process import COMMAND, Place, Running, guest_on, is_listening, wait_for
from tests.processes import is_alive

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
OPTIONS = ("-netdev", "echo,id=net0", "-device", NIC)
WATCHED = [sys.executable, str(Path(__file__).parents[1] / "fakes" / "watched_vnic.py")]


def control_of(supervisor: int) -> int | None:
    """The pid of control, once it is there."""
    found = controls_of(supervisor)
    return found[0] if found else None


def control(running: Running) -> int:
    pid = control_of(running.process.pid)
    assert pid is not None
    return pid


def await_another(running: Running, before: int) -> int:
    """Wait until another control answers; its pid."""
    wait_for(lambda: control_of(running.process.pid) not in (None, before) and answers(running))
    return control(running)


def answers(running: Running) -> bool:
    return is_listening(running.qmp_path) and running.place.verb("ps", "--json").stdout != "[]\n"


def test_a_killed_control_is_started_again_and_all_end_together(place: Place) -> None:
    running = place.run("--keep", *OPTIONS, "-pidfile", "pid")
    assert Path(place.path("pid")).read_text() == f"{running.process.pid}\n"
    first = control(running)
    os.kill(first, signal.SIGKILL)
    second = await_another(running, first)
    assert Path(place.path("pid")).read_text() == f"{running.process.pid}\n"
    code, stderr = running.end()
    assert code == 0
    assert not is_alive(second)
    assert f"process {first} was killed by SIGKILL; it is started again" in stderr
    assert "pid" not in place.files()


def test_quit_of_a_monitor_ends_all(place: Place) -> None:
    running = place.run("--keep", *OPTIONS)
    assert place.verb("hmp", "quit").returncode == 0
    assert running.ended() == (0, "")


def test_stop_returns_when_all_have_ended(place: Place) -> None:
    running = place.run("--keep", *OPTIONS, name="lab")
    pid = control(running)
    assert place.verb("stop", "lab").returncode == 0
    assert running.ended() == (0, "")
    assert not is_alive(pid)


def test_stop_names_a_vnic_that_does_not_run(place: Place) -> None:
    result = place.verb("stop", "lab")
    assert result.returncode == 1
    assert "no vnic named 'lab' is running" in result.stderr


def test_options_come_from_a_file_too(place: Place) -> None:
    Path(place.path("lab.conf")).write_text(f"# the lab\n-netdev echo,id=net0\n-device {NIC}\n")
    with place.run("--keep", f"@{place.path('lab.conf')}") as running:
        assert control(running)
        assert place.verb("link", "show", "nic0").returncode == 0


def test_an_upgrade_without_a_keeper_is_refused(place: Place) -> None:
    with place.run(*OPTIONS):
        result = place.verb("upgrade")
        assert result.returncode == 1
        assert "nothing keeps this vnic" in result.stderr


def test_a_usage_error_is_passed_on_at_once(place: Place) -> None:
    result = place.command("run", "--keep", "-nonsense")
    assert result.returncode == 2
    assert result.stderr == "vnic: -nonsense: invalid option\n"


def test_a_refused_option_is_passed_on_at_once(place: Place) -> None:
    result = place.command("run", "-keep", "-netdev", "nonsense,id=a", "-pidfile", "pid")
    assert result.returncode == 1
    assert "nonsense" in result.stderr
    assert "pid" not in place.files()


def test_a_locked_pidfile_is_refused(place: Place) -> None:
    with place.run("--keep", "-pidfile", "pid", name="a"):
        result = place.command("run", "--keep", "-name", "b", "-pidfile", "pid")
    assert result.returncode == 1
    assert result.stderr.startswith("vnic: cannot create PID file: Could not lock 'pid'")


def test_a_hung_control_is_killed_and_started_again(place: Place) -> None:
    running = place.run("--keep", *OPTIONS, command=WATCHED)
    wait_for(lambda: answers(running))  # the first start may take as long as it likes
    first = control(running)
    os.kill(first, signal.SIGSTOP)
    await_another(running, first)
    code, stderr = running.end()
    assert code == 0
    assert "has not answered for 3 s: killing it" in stderr


def test_a_control_with_nothing_to_do_is_no_hung_one(place: Place) -> None:
    running = place.run("--keep", *OPTIONS, command=WATCHED)
    first = control(running)
    time.sleep(4.5)
    assert control(running) == first
    assert running.end() == (0, "")


def test_control_ends_in_order_when_its_supervisor_is_killed(place: Place) -> None:
    running = place.run("--keep", *OPTIONS)
    pid = control(running)
    running.process.kill()
    wait_for(lambda: not is_alive(pid))
    wait_for(lambda: [name for name in place.files() if not name.endswith(".lock")] == [])
    assert "Traceback" not in running.ended()[1]


def test_in_the_background_the_supervisor_has_the_pidfile_and_writes_into_the_log(place: Place) -> None:
    result = place.command("run", "--keep", "-daemonize", "-pidfile", "pid", *OPTIONS, "-name", "lab")
    assert (result.returncode, result.stderr) == (0, "")
    supervisor = int(Path(place.path("pid")).read_text())
    try:
        first = control_of(supervisor)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        log = place.folder / "vnic" / "lab.log"
        wait_for(lambda: f"process {first} was killed by SIGKILL" in log.read_text())
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+ vnic: warning: keeper: process", log.read_text())
        wait_for(lambda: is_listening(place.qmp_path("lab")))
    finally:
        os.kill(supervisor, signal.SIGTERM)
        wait_for(lambda: not is_alive(supervisor))
    assert place.files() == ["lab.log"]


def test_a_start_in_the_background_that_fails_has_its_exit_code(place: Place) -> None:
    result = place.command("run", "--keep", "-daemonize", "-pidfile", "pid", "-netdev", "nonsense,id=a")
    assert result.returncode == 1
    assert "nonsense" in result.stderr
    assert place.files() == ["vnic.log"]


def test_the_log_of_d_has_the_lines_of_the_keeper(place: Place) -> None:
    with place.run("--keep", *OPTIONS, "-D", "log") as running:
        first = control(running)
        os.kill(first, signal.SIGKILL)
        await_another(running, first)
    assert f"keeper: process {first} was killed by SIGKILL" in Path(place.path("log")).read_text()


# -- upgrades ---------------------------------------------------------------------------------------------------------


def other_program(place: Place, text: str) -> str:
    path = Path(place.path("other-vnic"))
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.needs("exec-tmp")
def test_an_upgrade_goes_on_with_the_guest(place: Place) -> None:
    running = place.run("--keep", *OPTIONS)
    first = control(running)
    with guest_on(place.path("nic0.sock")) as guest:
        other = other_program(place, f'exec {" ".join(COMMAND)} "$@"')
        result = place.verb("upgrade", "vnic", "--to", other)
        assert (result.returncode, result.stderr) == (0, "")
        assert re.search(
            rf"process {first} → vnic [\d.]+, process {control(running)}, after \d+ ms", result.stdout
        )
        assert not guest.gone.is_set()
        assert guest.sees_up()
        assert place.verb("link", "set", "nic0", "down", "--wait", "20").returncode == 0
        assert json.loads(place.verb("ps", "--json").stdout)[0]["keeper"]["upgrade"] == f"done {other}"
    assert running.end()[0] == 0


@pytest.mark.needs("exec-tmp")
def test_an_upgrade_that_does_not_come_up_is_taken_back(place: Place) -> None:
    running = place.run("--keep", *OPTIONS)
    with guest_on(place.path("nic0.sock")) as guest:
        other = other_program(place, "exit 3")
        result = place.verb("upgrade", "--to", other)
        assert result.returncode == 1
        assert f"{other}: it ended with exit code 3; vnic " in result.stderr
        assert f"goes on as process {control(running)}" in result.stderr
        assert not guest.gone.is_set()
        assert guest.sees_up()
    assert running.end()[0] == 0


def test_an_upgrade_to_the_program_itself_starts_it_again(place: Place) -> None:
    running = place.run("--keep", *OPTIONS)
    first = control(running)
    result = place.verb("upgrade", "--json")
    assert result.returncode == 0
    assert validate("upgrade", result.stdout)["pid"] == control(running) != first
    assert running.end()[0] == 0


def test_an_upgrade_to_what_is_no_program_is_refused_by_its_name(place: Place) -> None:
    with place.run("--keep", *OPTIONS) as running:
        first = control(running)
        for path, why in (
            (place.path("nothing"), "No such file or directory"),
            (place.path("."), "Permission denied"),
        ):
            result = place.verb("upgrade", "--to", path)
            assert result.returncode == 1
            assert why in result.stderr
        assert control(running) == first


def test_signal_to_leave_has_the_successor_go_on(place: Place) -> None:
    """As systemd sends it for `systemctl restart`."""
    running = place.run("--keep", *OPTIONS)
    first = control(running)
    with guest_on(place.path("nic0.sock")) as guest:
        os.kill(first, signal.SIGUSR2)
        await_another(running, first)
        assert not guest.gone.is_set()
        assert guest.sees_up()
    assert running.end()[0] == 0


def test_signal_to_leave_is_an_end_where_nothing_is_kept(place: Place) -> None:
    running = place.run(*OPTIONS)
    assert running.end(signal.SIGUSR2) == (0, "")


# -- terminals --------------------------------------------------------------------------------------------------------


class Terminal:
    """A session on a terminal of its own, as a shell's in which vnic is the foreground job."""

    def __init__(self, place: Place, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(place.folder)
            os.execve(COMMAND[0], [*COMMAND, *words], place.environment)

    def await_text(self, text: str) -> None:
        seen = ""
        end = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([self.fd], [], [], 0.1)[0]:
                seen += os.read(self.fd, 4096).decode(errors="replace")

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def ended(self) -> int:
        """Wait for the end; its exit code."""
        result: list[int] = []

        def look() -> bool:
            with contextlib.suppress(OSError):  # the terminal is hung up
                if select.select([self.fd], [], [], 0)[0]:
                    os.read(self.fd, 4096)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                result.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        wait_for(look)
        return result[0]


@pytest.fixture
def terminal(place: Place) -> Iterator[Terminal]:
    made = Terminal(place, "run", "--keep", "-monitor", "stdio", *OPTIONS)
    try:
        made.await_text("(qemu) ")
        yield made
    finally:
        with contextlib.suppress(OSError):
            os.kill(made.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(made.pid, 0)
        os.close(made.fd)


def test_a_monitor_at_the_terminal_works_before_and_after_a_death(terminal: Terminal) -> None:
    terminal.write("info name\r")
    terminal.await_text("(qemu) ")
    first = control_of(terminal.pid)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    terminal.await_text("(qemu) ")
    terminal.write("quit\r")
    assert terminal.ended() == 0


def test_ctrl_c_ends_all_once(terminal: Terminal) -> None:
    terminal.write("\x03")
    assert terminal.ended() == 0


def test_ctrl_c_twice_ends_all_as_well(terminal: Terminal) -> None:
    terminal.write("\x03\x03")
    assert terminal.ended() == 0


def test_a_killed_control_leaves_the_terminal_as_it_was(terminal: Terminal, place: Place) -> None:
    wait_for(lambda: not terminal.echoes())
    pid = control_of(terminal.pid)
    assert pid is not None
    os.kill(terminal.pid, signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)
    terminal.ended()
    assert terminal.echoes()


def test_a_terminal_that_hangs_up_ends_all(terminal: Terminal) -> None:
    pid = control_of(terminal.pid)
    assert pid is not None
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.ended() == 0
    wait_for(lambda: not is_alive(pid))


def test_a_control_that_was_just_started_ends_with_a_supervisor_that_is_killed(place: Place) -> None:
    process = place.start("run", "--keep", *OPTIONS)
    wait_for(lambda: is_listening(place.qmp_path()))
    (first,) = controls_of(process.pid)
    os.kill(first, signal.SIGKILL)
    found: list[int] = []

    def another() -> bool:
        found[:] = [pid for pid in controls_of(process.pid) if pid != first]
        return bool(found)

    wait_for(another)
    second = found[0]
    process.kill()
    process.communicate()  # control had its stderr, too
    wait_for(lambda: not is_alive(second))  # files are closed before a process has ended
