"""What a killed control had at vnic-wire comes to its successor, whatever it was and wherever that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.loops import open_fds, run_for
from tests.fakes.wire_lab import Guest, WireLab, frame, real_program
from tests.fakes.wire_successor import Controls, KilledMeanwhile, controls

from vnic.backend.dgram import DgramBackend, DgramHandles
from vnic.backend.options import DgramOptions
from vnic.dataplane.wire import recall as recalling
from vnic.dataplane.wire.process import ProgramState
from vnic.dataplane.wire.recall import Recall
from vnic.filter import object_add
from vnic.filter.netem import Netem
from vnic.filter.options import NetemOptions
from vnic.net.filter_set import find_filter
from vnic.net.filters import Direction
from vnic.sockets.address import FdAddress


@pytest.fixture
def made() -> Iterator[Controls]:
    with controls(real_program()) as made:
        yield made


class _OneFd:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def take(self, name: str) -> int:
        return self.fd

    take_socket = take


class Datagrams:
    """A NIC on a dgram netdev, whose far end the test has."""

    def __init__(self, made: Controls, room: int = 64) -> None:
        self.made = made
        ours, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.settimeout(30)
        self.guest: Guest

        def build(lab: WireLab) -> None:
            lab.sockets.append(self.far)
            lab.context.fds = _OneFd(ours.detach())
            lab.netdev("dgram", "net0", local={"type": "fd", "str": "sock"})
            self.guest = lab.guest("nic0", "net0")
            self.guest.plug(room)

        made.start(build)

    def backend(self, lab: WireLab) -> DgramBackend:
        endpoint = lab.netdev_client("net0").endpoint
        assert isinstance(endpoint, DgramBackend)
        return endpoint

    def again(self, before: WireLab | None = None) -> Callable[[WireLab], None]:
        """What restores it in the next control."""
        before = before or self.made.lab
        old = self.backend(before)
        record, sock = old.save(), old.handles.sock
        assert sock is not None

        def build(lab: WireLab) -> None:
            backend = DgramBackend(lab.context, DgramOptions(id="net0", local=FdAddress(text="sock")))
            lab.network.add_netdev("net0", "dgram", backend, start=lambda: None)
            backend.restore(record, DgramHandles(sock.dup(), None))
            self.guest = self.made.guest_again(lab, self.guest, "net0")

        return build

    def on_wire(self) -> None:
        self.made.lab.until(lambda: self.guest.on_wire)

    def received(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        self.made.lab.until(lambda: self.made.lab._took(found, self.guest) >= count)
        return found


def frames(first: int, end: int) -> list[bytes]:
    return [frame(number) for number in range(first, end)]


def test_the_program_and_the_frames_go_on(made: Controls) -> None:
    it = Datagrams(made)
    it.on_wire()
    pid = made.lab.engine.program.pid
    for number in range(10):
        it.far.send(frame(number))
    lab = made.start(it.again())
    assert lab.engine.program.state is ProgramState.RUNNING
    it.far.send(frame(10))
    it.on_wire()
    it.far.send(frame(11))
    assert it.received(12) == frames(0, 12)
    it.guest.driver.send(frame(1))
    assert it.far.recv(2000) == frame(1)
    assert (lab.engine.program.pid, lab.engine.program.restarts) == (pid, 0)


def test_no_descriptor_stays_behind(made: Controls) -> None:
    """At vnic-wire and at the keeper."""
    it = Datagrams(made)
    it.on_wire()
    pid = made.lab.engine.program.pid
    assert pid is not None
    counts = set()
    for _ in range(4):
        made.start(it.again())
        it.on_wire()
        made.lab.settle()
        counts.add((open_fds(pid), len(made.keeper.files)))
    assert len(counts) == 1


def test_frames_that_found_no_room_come_before_the_next_ones(made: Controls) -> None:
    it = Datagrams(made, room=4)
    it.on_wire()
    for number in range(40):
        it.far.send(frame(number))
    found = it.received(4)
    made.start(it.again())
    it.far.send(frame(40))
    it.guest.driver.fill_rx(60)
    assert found + it.received(37) == frames(0, 41)


def test_counters_are_neither_lost_nor_added_twice(made: Controls) -> None:
    it = Datagrams(made)
    it.on_wire()
    for number in range(10):
        it.far.send(frame(number))
    assert len(it.received(10)) == 10
    for _ in range(3):
        made.start(it.again())
        traffic = made.lab.netdev_client("net0").traffic
        assert (traffic.wire.frames_in, made.lab.netdev_client("net0").dropped) == (10, 0)
        it.on_wire()
        for number in range(10):
            it.far.send(frame(number))
        assert len(it.received(10)) == 10


@pytest.mark.parametrize("step", range(26))
def test_killed_again_at_any_step_of_the_recall(
    made: Controls, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each control is killed one step later than the one before: no frame is lost or doubled."""
    it = Datagrams(made, room=4)
    it.on_wire()
    for number in range(12):
        it.far.send(frame(number))
    found = it.received(4)
    again, left = it.again(), step

    def at_a_step(name: str, after: bool) -> None:
        plain = getattr(Recall, name)

        def stepping(self: Recall, *given: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                raise KilledMeanwhile
            result = plain(self, *given)
            if left < 0:
                raise KilledMeanwhile
            return result

        monkeypatch.setattr(Recall, name, stepping)

    at_a_step("_keep_answer", after=False)
    at_a_step("_consume", after=False)
    for _ in range(3):
        try:
            made.start(again)
            break
        except KilledMeanwhile:
            left = step + 1
    else:
        monkeypatch.undo()
        made.start(again)
    monkeypatch.undo()
    it.far.send(frame(12))
    it.guest.driver.fill_rx(20)
    assert found + it.received(9) == frames(0, 13)


def test_a_program_that_hangs_is_killed(
    made: Controls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recalling, "PATIENCE_S", 0.2)
    it = Datagrams(made)
    it.on_wire()
    pid = made.lab.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    lab = made.start(it.again())
    assert time.monotonic() - begin < 5
    assert (
        "vnic-wire of the process before: it did not answer within 0.2 s; starting it again"
        in caplog.messages
    )
    it.on_wire()
    assert (lab.engine.program.pid != pid, lab.engine.program.restarts) == (True, 1)
    it.far.send(frame(1))
    assert it.received(1) == [frame(1)]


def test_both_are_killed_at_once(made: Controls) -> None:
    it = Datagrams(made)
    it.on_wire()
    pid = made.lab.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    lab = made.start(it.again())
    it.on_wire()
    assert lab.engine.program.restarts == 1
    it.far.send(frame(1))
    assert it.received(1) == [frame(1)]


def test_one_that_speaks_another_version_is_killed(
    made: Controls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    it = Datagrams(made)
    it.on_wire()
    monkeypatch.setattr(recalling, "VERSION", 3)
    made.start(it.again())
    assert any("it speaks version 2, and cannot be asked" in line for line in caplog.messages)
    it.on_wire()


def test_one_of_another_build_gives_all_back_and_is_replaced(made: Controls, tmp_path: Path) -> None:
    it = Datagrams(made, room=4)
    it.on_wire()
    pid = made.lab.engine.program.pid
    for number in range(12):
        it.far.send(frame(number))
    found = it.received(4)
    made.command = [str(shutil.copy(made.command[0], tmp_path / "vnic-wire"))]
    if not os.access(made.command[0], os.X_OK):
        pytest.skip("no program can be started from TMPDIR")
    lab = made.start(it.again())
    it.guest.driver.fill_rx(20)
    assert found + it.received(8) == frames(0, 12)
    it.on_wire()
    assert lab.engine.program.pid != pid
    lab.until(lambda: len(lab.engine.program._children) == 1)


def test_a_record_that_names_another_process_is_refused(
    made: Controls, caplog: pytest.LogCaptureFixture
) -> None:
    it = Datagrams(made)
    it.on_wire()
    program = made.lab.engine.program
    plain = program.save_kept
    record, handles = plain()
    program.save_kept = lambda: (msgspec.structs.replace(record, pid=1), handles)  # type: ignore[method-assign]
    program.kept.changed()
    made.lab.turn()
    made.lab.engine.program._channel._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # it runs
    made.start(it.again())
    assert any("what was kept of process 1 is refused" in line for line in caplog.messages)
    it.on_wire()


WORDS: dict[str, Any] = {"loss": "30%", "duplicate": "20%"}


def netem(lab: WireLab, **words: Any) -> Netem:
    object_add(lab.context, NetemOptions(id="n0", netdev="net0", **words), "test")
    found = find_filter(lab.network, "n0")
    assert isinstance(found, Netem)
    return found


def with_netem(it: Datagrams, **words: Any) -> Callable[[WireLab], None]:
    """The netem goes on from its record, too."""
    old = find_filter(it.made.lab.network, "n0")
    assert isinstance(old, Netem)
    record, again = old.save(), it.again()

    def build(lab: WireLab) -> None:
        again(lab)
        netem(lab, **words).restore(record)

    return build


def test_frames_under_way_in_a_netem_arrive_in_time(made: Controls) -> None:
    it = Datagrams(made)
    netem(made.lab, delay="300ms", queue=Direction.ALL)
    it.on_wire()
    made.lab.settle()
    begin = time.monotonic()
    for number in range(20):
        it.far.send(frame(number))
    run_for(made.lab.loop, 0.05)
    build = with_netem(it, delay="300ms", queue=Direction.ALL)
    made.start(build)
    it.on_wire()
    unit = find_filter(made.lab.network, "n0")
    assert isinstance(unit, Netem)
    assert unit.lines[Direction.TX].waiting == 20
    assert it.received(20) == frames(0, 20)
    assert 0.29 < time.monotonic() - begin < 20
    counted: list[bool] = []
    made.lab.engine.count_impaired(lambda: counted.append(True))
    made.lab.until(lambda: counted)
    assert (unit.lines[Direction.TX].counts.passed, unit.lines[Direction.TX].waiting) == (20, 0)


def test_the_fate_of_frames_is_the_seeds_across_a_restart(made: Controls) -> None:
    """As in test_impairments, with restarts in the place of changes of the path."""
    from tests.unit.dataplane_wire.test_impairments import expected

    words = {**WORDS, "seed": 7, "queue": Direction.TX}
    it = Datagrams(made)
    netem(made.lab, **words)
    it.on_wire()
    made.lab.settle()
    sent: list[bytes] = []
    found: list[bytes] = []
    for turn in range(5):
        news = frames(20 * turn, 20 * turn + 20)
        sent += news
        for each in news:
            it.far.send(each)
        wanted, counts = expected({key: WORDS[key] for key in WORDS}, 7, Direction.TX, sent)
        found += it.received(len(wanted) - len(found))
        assert found == wanted
        it.guest.driver.fill_rx(40)
        made.start(with_netem(it, **words))
        it.on_wire()
    unit = find_filter(made.lab.network, "n0")
    assert isinstance(unit, Netem)
    assert unit.lines[Direction.TX].counts == counts
