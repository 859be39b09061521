"""What a killed control had at vnic-wire comes to its successor, whatever it was and wherever that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.loops import open_fds, run_for
from tests.fakes.ports import free_ports
from tests.fakes.tunnel_peer import NOT_PRESENT, UP, Ccm, is_ccm
from tests.fakes.wire_ends import unread
from tests.fakes.wire_lab import Guest, WireLab, frame, real_program
from tests.fakes.wire_successor import Controls, KilledMeanwhile, controls

from vnic.backend import netdev_structs
from vnic.backend.dgram import DgramBackend, DgramHandles
from vnic.backend.options import DgramOptions
from vnic.backend.tunnel.backend import TunnelBackend
from vnic.dataplane.wire import recall as recalling
from vnic.dataplane.wire.process import ProgramState
from vnic.dataplane.wire.recall import Recall
from vnic.filter import object_add
from vnic.filter.netem import Netem
from vnic.filter.options import NetemOptions
from vnic.monitor.schema import convert_to_shape, netdev_options
from vnic.net.filter_set import find_filter
from vnic.net.filters import Direction
from vnic.net.records import ShownBy
from vnic.protocol.cfm.mep import Heard
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


class Tunnel:
    """A NIC on a tunnel, whose far end the test plays with a socket."""

    def __init__(self, made: Controls, **options: Any) -> None:
        self.made = made
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.bind(("127.0.0.1", 0))
        self.far.settimeout(30)
        [self.port] = free_ports(socket.SOCK_DGRAM, 1)
        self.options = {
            "vni": 7,
            "local": f"127.0.0.1:{self.port}",
            "remote": f"127.0.0.1:{self.far.getsockname()[1]}",
            **options,
        }

        def build(lab: WireLab) -> None:
            lab.sockets.append(self.far)
            lab.netdev("tunnel", "net0", **self.options)
            self.guest = lab.guest("nic0", "net0")
            self.guest.nic.report.guest_attached(ShownBy.DEVICE)
            self.guest.plug()

        made.start(build)

    def backend(self, lab: WireLab) -> TunnelBackend:
        endpoint = lab.netdev_client("net0").endpoint
        assert isinstance(endpoint, TunnelBackend)
        return endpoint

    def again(self) -> None:
        old = self.backend(self.made.lab)
        record, handles = old.save(), old.handles
        assert handles.receiving is not None
        assert handles.sending is not None
        receiving, sending = handles.receiving.dup(), handles.sending.dup()

        def build(lab: WireLab) -> None:
            given = convert_to_shape(
                netdev_options(netdev_structs()),
                {"type": "tunnel", "id": "net0", **self.options},
                strings=False,
            )
            backend = TunnelBackend(lab.context, given)  # type: ignore[arg-type]  # of that shape
            lab.network.add_netdev("net0", "tunnel", backend, start=lambda: None)
            backend.restore(record, type(handles)(receiving, sending))
            self.guest = self.made.guest_again(lab, self.guest, "net0")
            self.guest.nic.report.guest_attached(ShownBy.DEVICE)

        self.made.start(build)

    def send(self, data: bytes) -> None:
        self.far.sendto(struct.pack(">II", 0x08000000, 7 << 8) + data, ("127.0.0.1", self.port))

    def next(self, wanted: Callable[[bytes], object]) -> bytes:
        """The next frame of that kind, behind its VXLAN header."""
        while True:
            data = self.far.recv(3000)[8:]
            if wanted(data):
                return data


def test_a_tunnel_numbers_its_datagrams_on(made: Controls) -> None:
    """With a key: a counter that was used before would be refused by the far end, and one that comes from there again
    is refused here."""
    it = Tunnel(made, ccm="off", key="secret")
    made.lab.until(lambda: it.guest.on_wire)
    counters = []
    for _ in range(3):
        it.guest.driver.send(frame(1))
        data = it.next(lambda data: True)
        assert data[: len(frame(1))] == frame(1)
        counters.append(int.from_bytes(data[len(frame(1)) + 4 :][:8], "big"))
        it.again()
        made.lab.until(lambda: it.guest.on_wire)
    assert counters == [counters[0], counters[0] + 1, counters[0] + 2]


def test_a_tunnel_goes_on_with_its_continuity_checks(made: Controls) -> None:
    """The CCMs' numbers go on, none says that the end is not present, and the far end's counts as heard all the
    time."""
    it = Tunnel(made, interval=100.0)
    backend = it.backend(made.lab)
    port = backend._port
    assert port is not None
    theirs = Ccm(sequence=1000, mep=3 - port.mep_id, interval_us=100_000, maid=port.config.maid)
    it.send(theirs.frame())
    made.lab.until(lambda: it.guest.on_wire)
    numbers = []
    it.next(lambda data: is_ccm(data) and Ccm.parse(data).status == UP)
    for turn in range(4):
        ccm = Ccm.parse(it.next(is_ccm))
        assert ccm.status != NOT_PRESENT
        numbers.append(ccm.sequence)
        it.again()
        here = it.backend(made.lab)._port
        assert here is not None
        far = here.far_state()
        assert far is not None
        assert (far.mep.heard, made.lab.netdev_client("net0").holds) == (Heard.YES, {})
        made.lab.until(lambda: it.guest.on_wire)
        it.send(theirs._replace(sequence=1001 + turn).frame())
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] < 40
    told: list[bool] = []
    made.lab.engine.refresh_tunnels(lambda: told.append(True))
    made.lab.until(lambda: told)
    counters = it.backend(made.lab).tunnel_info().counters
    assert counters.ccm_received >= 1
    assert counters.old_sequence == 0


class Streams:
    """Two streams on a hub. All that the far ends send and get is compared byte by byte."""

    def __init__(self, made: Controls) -> None:
        self.made = made
        self.fars: list[socket.socket] = []
        self.got = [bytearray(), bytearray()]

        def build(lab: WireLab) -> None:
            for number in range(2):
                ours, far = socket.socketpair()
                far.setblocking(False)
                self.fars.append(far)
                lab.sockets.append(far)
                lab.context.fds = _OneFd(ours.detach())
                lab.netdev("stream", f"s{number}", addr={"type": "fd", "str": "sock"})
                lab.netdev("hubport", f"port{number}", hubid=0, netdev=f"s{number}")

        made.start(build)

    def again(self) -> None:
        def build(lab: WireLab) -> None:
            for number in range(2):
                lab.netdev_again("stream", f"s{number}", addr={"type": "fd", "str": "sock"})
                lab.netdev_again("hubport", f"port{number}", hubid=0, netdev=f"s{number}")

        self.made.start(build)

    def on_wire(self) -> None:
        lab = self.made.lab
        client = lab.netdev_client("s0")
        lab.until(lambda: lab.network.wires.path(client).path == "wire" and client in lab.engine._members)

    def read(self, number: int, most: int = 1 << 20) -> None:
        try:
            self.got[number] += self.fars[number].recv(most)
        except BlockingIOError:
            pass

    def await_bytes(self, number: int, wanted: bytes) -> None:
        def whole() -> bool:
            self.read(number)
            return len(self.got[number]) >= len(wanted)

        self.made.lab.until(whole)
        assert self.got[number] == wanted


def stream_of(numbers: range) -> bytes:
    """Frames of many sizes, each behind its length."""
    each = (frame(number, 60 + number * 37 % 1400) for number in numbers)
    return b"".join(len(data).to_bytes(4, "big") + data for data in each)


def test_streams_go_on_at_the_very_byte(made: Controls) -> None:
    """The far ends send pieces that end anywhere in a frame, and read little, so that frames are half sent."""
    it = Streams(made)
    data = stream_of(range(400))
    sent = 0
    for turn in range(12):
        if turn % 3:
            it.on_wire()
        while sent < len(data) * (turn + 1) // 12:
            try:
                sent += it.fars[0].send(data[sent : sent + 1777])
            except BlockingIOError:
                break
            made.lab.turn()
            it.read(1, 700)
        it.again()
    it.on_wire()
    while sent < len(data):
        sent += it.fars[0].send(data[sent:])
        made.lab.turn()
        it.read(1)
    it.await_bytes(1, data)


def test_a_stream_goes_on_when_both_programs_were_killed(made: Controls) -> None:
    """vnic-wire had read half a frame. The link of the netdev stays up."""
    it = Streams(made)
    it.on_wire()
    data = stream_of(range(3))
    it.fars[0].send(data[:150])
    it.await_bytes(1, data[:64])
    made.lab.until(lambda: not unread(it.fars[0]))
    pid = made.lab.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    it.again()
    it.fars[0].send(data[150:])
    it.await_bytes(1, data)
    assert made.lab.netdev_client("s0").holds == {}
