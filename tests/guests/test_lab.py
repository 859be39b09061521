"""`vnic lab` with real kernels: the ring of examples/ring.yml, up, pulled, explained, changed, gone without a trace."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.process import COMMAND, PATIENCE_S, Place, new_place, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.needs("uml")


RING = str(EXAMPLES / "ring.yml")


@pytest.fixture(scope="module")
def one_place() -> Iterator[Place]:
    """The ring, up once for all tests."""
    with new_place() as made:
        try:
            said = verb(made, "lab", "up", RING)
            assert said.splitlines()[-1] == "lab ring is up; `vnic lab show ring` shows it"
            yield made
        finally:
            ended = made.command("lab", "down")
        assert ended.returncode == 0, ended.stderr
        assert made.files() == []


@pytest.fixture
def place(one_place: Place) -> Place:
    """The ring as its file has it, whatever the test before did."""
    verb(one_place, "lab", "up", RING)
    return one_place


def changed(folder: Path, *changes: tuple[str, str]) -> str:
    """The path of a changed file of the ring."""
    text = Path(RING).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "changed.yml"
    path.write_text(text)
    return str(path)


def verb(place: Place, *words: str) -> str:
    done = place.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def guest(place: Place, node: str, command: str) -> str:
    return verb(place, "lab", "exec", node, command).strip()


def shown(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(verb(place, "lab", "show", "--json"))
    return found


def pids(place: Place) -> dict[str, int]:
    return {node["name"]: node.get("pid") for node in shown(place)["nodes"]}


def test_frames_go_all_around(place: Place) -> None:
    assert {link["state"] for link in shown(place)["links"]} == {"up"}
    for node, address in (("a", "10.0.1.2"), ("b", "10.0.2.2"), ("c", "10.0.3.2")):
        assert " 0% packet loss" in guest(place, node, f"ping -c 1 -W 10 {address}")


def test_a_cable_is_pulled_at_one_end_and_seen_at_the_other(place: Place) -> None:
    verb(place, "link", "set", "a.eth1", "down", "--wait", "10")
    assert guest(place, "b", "wait_carrier eth1 0 30; cat /sys/class/net/eth1/carrier") == "0"
    assert guest(place, "b", "cat /sys/class/net/eth2/carrier") == "1"
    why = verb(place, "why", "b.eth1")
    assert "held by far-end on b.eth1-end: a.eth1 at the other end of cable a.eth1--b.eth1 is held" in why
    verb(place, "link", "set", "a.eth1", "up", "--wait", "10")
    guest(place, "b", "wait_carrier eth1 1 30")


def test_a_changed_file_changes_what_differs(place: Place, tmp_path: Path) -> None:
    before = pids(place)
    pulled = ('"c:eth1"]', '"c:eth1"]\n    state: down')
    said = verb(place, "lab", "up", changed(tmp_path, pulled, ("c: {kind", "c: {memory: 96, kind")))
    assert "c: ending its guest" in said
    after = pids(place)
    assert (after["a"], after["b"]) == (before["a"], before["b"])
    assert after["c"] != before["c"]
    assert [link["state"] for link in shown(place)["links"]] == ["up", "down", "up"]
    assert guest(place, "b", "wait_carrier eth2 0 30; cat /sys/class/net/eth2/carrier") == "0"


def test_a_killed_guest_is_seen_at_its_neighbours_and_comes_back(place: Place) -> None:
    process = os.pidfd_open(pids(place)["a"])
    signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)
    guest(place, "b", "wait_carrier eth1 0 30")
    wait_for(lambda: pids(place)["a"] is None)
    assert "a: it has ended" in verb(place, "lab", "up", RING)
    guest(place, "b", "wait_carrier eth1 1 30")


def test_commands_pass_their_status_on(place: Place) -> None:
    assert place.command("lab", "exec", "a", "exit 7").returncode == 7
    assert verb(place, "lab", "exec", "a", "echo", "two  words", "$HOME") == "two  words $HOME\n"


def test_a_failing_command_of_the_file_is_named_and_the_lab_stays(place: Place, tmp_path: Path) -> None:
    before = pids(place)
    bad = changed(tmp_path, ("b: {kind", "b: {exec: [echo out of luck; false], kind"))
    done = place.command("lab", "up", bad)
    assert done.returncode == 1
    assert "node 'b': `echo out of luck; false` ended with status 1: out of luck" in done.stderr
    after = pids(place)
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert after["b"] is not None
    assert shown(place)["file"] == RING


def test_the_console_is_a_shell_that_goes_on(place: Place) -> None:
    for _ in range(2):
        child, terminal = pty.fork()
        if child == 0:
            os.environ.update(place.environment)
            os.execv(COMMAND[0], [*COMMAND, "lab", "console", "a"])
        try:
            expect(terminal, b"a# ")
            os.write(terminal, b"echo $((6 * 7))\r")
            expect(terminal, b"42")
            os.write(terminal, b"\x1d")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            os.close(terminal)


def expect(terminal: int, what: bytes) -> None:
    got = b""
    until = time.monotonic() + PATIENCE_S
    while what not in got:
        ready, _, _ = select.select([terminal], [], [], until - time.monotonic())
        assert ready, got
        got += os.read(terminal, 4096)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_start_that_is_broken_off_leaves_no_guest(number: signal.Signals) -> None:
    with new_place() as place:
        folder = place.folder / "vnic" / "ring.lab"
        starting = place.start("lab", "up", RING)
        wait_for(lambda: list(folder.glob("*.ctl")) or starting.poll() is not None)
        starting.send_signal(number)
        starting.communicate(timeout=PATIENCE_S)
        wait_for(lambda: not list(folder.glob("*.ctl")))
        if number == signal.SIGKILL:
            verb(place, "lab", "down", "ring")
        assert place.files() == []
