"""vnic-wire itself, as the engine uses it: who is on which path, moves between paths, and the program's death."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.wire_ends import unread
from tests.fakes.wire_lab import WireLab, frame, real_program, wire_lab

from vnic.dataplane.wire.ports import LentPort
from vnic.dataplane.wire.rings import RingPort
from vnic.filter import object_add, object_del
from vnic.filter.options import BufferOptions, DumpOptions
from vnic.net.filters import Direction
from vnic.net.records import HoldKind
from vnic.nic.virtio_net.features import OF_THE_RINGS, names
from vnic.virtio.features import EVENT_IDX


@pytest.fixture
def lab() -> Iterator[WireLab]:
    with wire_lab(real_program()) as lab:
        yield lab


def test_two_guests_of_a_hub(lab: WireLab) -> None:
    first, second = lab.hub(2)
    lab.until(lambda: first.on_wire and second.on_wire)
    lab.exchange(first, [second], [frame(number) for number in range(20)])
    lab.exchange(second, [first], [frame(number, 1514) for number in range(20)])


def test_three_guests_of_a_hub_and_one_leaves(lab: WireLab) -> None:
    guests = lab.hub(3)
    lab.until(lambda: all(guest.on_wire for guest in guests))
    lab.exchange(guests[0], guests[1:], [frame(1), frame(2)])
    guests[2].driver.unplug()
    lab.until(lambda: guests[2].path == "none")
    lab.exchange(guests[0], [guests[1]], [frame(3)])
    lab.until(lambda: guests[0].on_wire)


def test_a_link_that_is_down_takes_its_end_out(lab: WireLab) -> None:
    guests = lab.hub(3)
    lab.until(lambda: all(guest.on_wire for guest in guests))
    lab.network.set_link("nic1", False, "test")
    lab.until(lambda: guests[1].device.datapath.value == "discard")
    assert guests[1].path == "none"
    lab.exchange(guests[0], [guests[2]], [frame(1)])
    assert not guests[1].driver.received()
    lab.network.set_link("nic1", True, "test")
    lab.until(lambda: guests[1].on_wire)
    lab.exchange(guests[0], guests[1:], [frame(2)])


def stream_pair(lab: WireLab, name: str) -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    lab.sockets.append(theirs)
    number = os.dup(ours.fileno())
    ours.close()
    lab.context.fds = _OneFd(number)
    lab.netdev("stream", name, addr={"type": "fd", "str": "sock"})
    return theirs


class _OneFd:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def take(self, name: str) -> int:
        return self.fd

    take_socket = take


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def read_frames(lab: WireLab, sock: socket.socket, count: int) -> list[bytes]:
    found = bytearray()
    frames: list[bytes] = []

    def whole() -> bool:
        lab.kick()
        try:
            found.extend(sock.recv(1 << 16))
        except BlockingIOError:
            pass
        while len(found) >= 4 and len(found) >= 4 + int.from_bytes(found[:4], "big"):
            size = int.from_bytes(found[:4], "big")
            frames.append(bytes(found[4 : 4 + size]))
            del found[: 4 + size]
        return len(frames) >= count

    lab.until(whole)
    return frames


def test_a_stream_and_a_filter_that_comes_and_goes(lab: WireLab) -> None:
    """A half-sent frame crosses from one path to the other."""
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    guest.driver.send(frame(1))
    assert read_frames(lab, far, 1) == [frame(1)]
    whole = framed(frame(2, 1000))
    far.send(whole[:500])
    object_add(lab.context, BufferOptions(id="f0", netdev="net0", interval=1000, status="on"))
    lab.until(lambda: guest.device.datapath.value == "local")
    assert (guest.path, guest.reason) == ("python", "filter-buffer f0 sees every frame")
    far.send(whole[500:])
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, guest))
    assert found == [frame(2, 1000)]
    far.send(framed(frame(3))[:10])
    object_del(lab.context, "f0")
    lab.until(lambda: guest.on_wire)
    far.send(framed(frame(3))[10:])
    found.clear()
    lab.until(lambda: lab._took(found, guest))
    assert found == [frame(3)]


@contextmanager
def stopped(lab: WireLab) -> Iterator[int]:
    """The program stands still meanwhile; its process id."""
    pid = lab.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    status = Path(f"/proc/{pid}/stat")
    lab.until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
    yield pid
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("forward", [True, False])
def test_a_frame_that_comes_while_a_wire_ends_is_not_lost(lab: WireLab, forward: bool) -> None:
    """The program gets the requests that end the wire one after the other, and frames come in between."""
    ends = [stream_pair(lab, name) for name in ("net0", "net1")]
    for number, netdev in enumerate(("net0", "net1")):
        lab.netdev("hubport", f"port{number}", hubid=0, netdev=netdev)
    left, right = ends if forward else reversed(ends)

    def path() -> str:
        return next(lab.network.query_links("net0")).datapath

    sent: list[bytes] = []
    for turn in range(20):
        lab.until(lambda: path() == "wire" and all(each.started for each in lab.engine._ports.values()))
        object_add(lab.context, BufferOptions(id="f0", netdev="net0", interval=1, status="on"))
        for number in range(20):
            sent.append(frame(turn * 20 + number))
            left.send(framed(sent[-1]))
        lab.until(lambda: path() == "python")
        object_del(lab.context, "f0")
    assert read_frames(lab, right, len(sent)) == sent


def test_an_end_is_not_lent_again_before_it_is_returned(lab: WireLab) -> None:
    """A filter comes and goes while the program stands still, so that its answer to the first move is late."""
    left, right = (stream_pair(lab, name) for name in ("net0", "net1"))
    for number, netdev in enumerate(("net0", "net1")):
        lab.netdev("hubport", f"port{number}", hubid=0, netdev=netdev)

    def path() -> str:
        return next(lab.network.query_links("net0")).datapath

    lab.until(lambda: path() == "wire")
    left.send(framed(frame(1, 1000))[:500])
    lab.until(lambda: unread(left) == 0)
    with stopped(lab):
        object_add(lab.context, BufferOptions(id="f0", netdev="net0", interval=1000, status="on"))
        lab.until(lambda: path() == "python")
        object_del(lab.context, "f0")
        left.send(framed(frame(1, 1000))[500:] + framed(frame(2)))
        for _ in range(10):
            lab.turn()
    lab.until(lambda: path() == "wire")
    left.send(framed(frame(3)))
    assert read_frames(lab, right, 3) == [frame(1, 1000), frame(2), frame(3)]


def test_what_waits_for_the_guest_is_not_lost_by_a_move_to_python(lab: WireLab) -> None:
    """vnic-wire has read datagrams, and the guest has no buffers for them when a filter takes the wire away."""
    ours, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    lab.sockets.append(far)
    lab.context.fds = _OneFd(os.dup(ours.fileno()))
    ours.close()
    lab.netdev("dgram", "net0", local={"type": "fd", "str": "sock"})
    guest = lab.guest("nic0", "net0")
    guest.plug(room=2)
    lab.until(lambda: guest.on_wire)
    sent = [frame(number, 100) for number in range(6)]
    with stopped(lab):  # so that it reads all of them at once
        for each in sent:
            far.send(each)
    lab.until(lambda: unread(far) == 0)
    object_add(lab.context, BufferOptions(id="f0", netdev="net0", interval=1, status="on"))
    lab.until(lambda: guest.device.datapath.value == "local")
    for each in (frame(6, 100), frame(7, 100)):
        far.send(each)
    found: list[bytes] = []
    buffers = iter([2] * 8)  # a few at a time

    def all_there() -> bool:
        guest.driver.fill_rx(next(buffers, 0))
        return lab._took(found, guest) >= 8

    lab.until(all_there)
    assert found == [*sent, frame(6, 100), frame(7, 100)]


def test_a_stream_outlives_the_program(lab: WireLab) -> None:
    """Killed within a frame, in both directions; the link does not change, and the connection is the same."""
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    changes = guest.nic.carrier_up_changes + guest.nic.carrier_down_changes
    found: list[bytes] = []
    for number in range(3):
        whole = framed(frame(number, 1000))
        far.send(whole[:500])
        lab.until(lambda: unread(far) == 0)
        guest.driver.send(frame(number))
        assert read_frames(lab, far, 1) == [frame(number)]
        pid = lab.engine.program.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        lab.until(lambda number=number: lab.engine.program.restarts == number + 1)  # type: ignore[misc]
        far.send(whole[500:])
        lab.until(lambda number=number: lab._took(found, guest) == number + 1)  # type: ignore[misc]
        guest.driver.fill_rx(1)
        lab.until(lambda: guest.on_wire)
    assert found == [frame(number, 1000) for number in range(3)]
    assert guest.nic.carrier_up_changes + guest.nic.carrier_down_changes == changes


def test_a_stream_whose_state_is_no_state_is_closed(lab: WireLab, caplog: pytest.LogCaptureFixture) -> None:
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    port = lab.engine._ports[lab.netdev_client("net0")]
    assert isinstance(port, LentPort)
    assert port._memory is not None
    with stopped(lab) as pid:
        os.pwrite(port._memory.fd, b"\xff" * 8, 0)
        os.kill(pid, signal.SIGKILL)
    lab.until(lambda: HoldKind.DISCONNECTED in lab.netdev_client("net0").holds)
    assert far.recv(1) == b""
    errors = [record.getMessage() for record in caplog.records if "left no state" in record.getMessage()]
    assert errors == ["net0: vnic-wire left no state of the stream: turn 4294967295"]


def test_killed_in_the_middle_of_traffic(lab: WireLab) -> None:
    first, second = lab.hub(2)
    lab.until(lambda: first.on_wire and second.on_wire)
    changes = [guest.nic.carrier_up_changes + guest.nic.carrier_down_changes for guest in (first, second)]
    for round_number in range(3):
        first.driver.send(*[frame(number) for number in range(10)])
        pid = lab.engine.program.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        lab.until(lambda before=round_number: lab.engine.program.restarts == before + 1)  # type: ignore[misc]
        lab.until(lambda: first.on_wire and second.on_wire)
        second.driver.received()
        second.driver.fill_rx(20)
        lab.exchange(first, [second], [frame(100 + round_number)])
    after = [guest.nic.carrier_up_changes + guest.nic.carrier_down_changes for guest in (first, second)]
    assert changes == after


def test_a_dump_is_written_by_the_program(lab: WireLab, tmp_path: Path) -> None:
    """queue=rx has what the guest sent, and so the netdev received."""
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    for queue in ("rx", "tx", "all"):
        options = DumpOptions(id=queue, netdev="net0", queue=Direction(queue), file=str(tmp_path / queue))
        object_add(lab.context, options)
    lab.until(lambda: [len(dumps) for dumps in lab.engine._dumps._at.values()] == [3])
    lab.settle()
    lab.until(lambda: guest.on_wire)
    guest.driver.send(frame(1))
    assert read_frames(lab, far, 1) == [frame(1)]
    far.send(framed(frame(2, 100)))
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, guest))
    sizes = {"rx": 24 + 16 + 60, "tx": 24 + 16 + 100, "all": 24 + 2 * 16 + 160}
    lab.until(lambda: {name: (tmp_path / name).stat().st_size for name in sizes} == sizes)
    assert (tmp_path / "rx").read_bytes().endswith(frame(1))
    object_del(lab.context, "tx")
    lab.settle()
    far.send(framed(frame(3)))
    found.clear()
    lab.until(lambda: lab._took(found, guest))
    assert (tmp_path / "tx").stat().st_size == sizes["tx"]
    lab.until(lambda: guest.on_wire)


def test_an_end_that_is_in_python_takes_the_whole_segment_there(lab: WireLab) -> None:
    first, second = lab.hub(2)
    lab.until(lambda: first.on_wire and second.on_wire)
    lab.netdev("hubport", "port9", hubid=1)
    lab.netdev("echo", "echo0")
    lab.network.connect(lab.netdev_client("port9"), lab.netdev_client("echo0"))
    lab.until(lambda: first.device.datapath.value == second.device.datapath.value == "local")
    assert first.reason == "echo0: frames of echo pass through Python"
    lab.exchange(first, [second], [frame(1)])
    lab.network.delete_netdev("port9", "test")
    lab.until(lambda: first.on_wire and second.on_wire)
    lab.exchange(second, [first], [frame(2)])


def test_the_receive_filter_is_that_of_the_driver(lab: WireLab) -> None:
    first, second = lab.hub(2)
    lab.until(lambda: first.on_wire and second.on_wire)
    assert second.driver.command(0, 0, b"\0") == 0, "promisc off"
    to_others = bytes.fromhex("020000000077") + frame(1)[6:]
    to_second = second.nic.mac + frame(2)[6:]
    lab.settle()
    first.driver.send(to_others, to_second)
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, second))
    assert found == [to_second]
    stats: list[tuple[str, dict[str, int]]] = []
    lab.engine.stats(lambda all_: stats.extend((client.name, each.drops) for client, each in all_))
    lab.until(lambda: stats)
    assert dict(stats)["nic1"] == {"filtered": 1}


def test_a_broken_ring_needs_a_reset(lab: WireLab) -> None:
    first, second = lab.hub(2)
    lab.until(lambda: first.on_wire and second.on_wire)
    first.driver.rings[1].offer(9999)
    first.driver.rings[1].publish()
    lab.until(lambda: first.driver.reset_notices)
    lab.until(lambda: first.path == "none" or first.device.datapath.value == "local")
    first.driver.start()
    first.driver.fill_rx(8)
    lab.until(lambda: first.on_wire and second.on_wire)
    lab.exchange(first, [second], [frame(1)])


def test_a_deleted_netdev_leaves_the_program(lab: WireLab) -> None:
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    lab.network.delete_netdev("net0", "test")
    gone = lab.engine.leaving()
    assert gone is not None
    lab.until(gone.done)
    assert far.recv(1) == b"", "the program has closed its descriptor, too"
    assert guest.path == "none"


def test_the_far_end_of_a_stream_goes(lab: WireLab) -> None:
    """The program reports it, and the netdev finds it by itself."""
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    far.send(framed(frame(1)))
    far.close()
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, guest))
    assert found == [frame(1)]
    lab.until(lambda: not guest.nic.link_up)
    assert "peer closed the connection" in lab.netdev_client("net0").holds[HoldKind.DISCONNECTED].text


def test_several_queue_pairs(lab: WireLab) -> None:
    first = lab.guest("nic0", None, pairs=2)
    second = lab.guest("nic1", None, pairs=2)
    for guest in (first, second):
        guest.nic.holds.clear()
    lab.network.connect(first.nic, second.nic)
    for guest in (first, second):
        guest.device.link_status_changed()
        guest.plug()
        guest.driver.fill_rx(16, pair=1)
        assert guest.driver.command(4, 0, b"\2\0") == 0
    lab.until(lambda: first.on_wire and second.on_wire)
    first.driver.send(frame(1), pair=1)
    lab.until(lambda: second.driver.rings[2].used_idx)
    assert second.driver.received(1) == [frame(1)]


def test_datagrams(lab: WireLab, tmp_path: Path) -> None:
    far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    lab.sockets.append(far)
    far.bind(str(tmp_path / "far"))
    far.setblocking(False)
    local, remote = ({"type": "unix", "path": str(tmp_path / name)} for name in ("near", "far"))
    lab.netdev("dgram", "net0", local=local, remote=remote)
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    guest.driver.send(frame(1))
    got: list[bytes] = []

    def came() -> bool:
        try:
            got.append(far.recv(2048))
        except BlockingIOError:
            return False
        return True

    lab.until(came)
    assert got == [frame(1)]
    far.sendto(frame(2), str(tmp_path / "near"))
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, guest))
    assert found == [frame(2)]


def test_a_program_that_dies_too_often_leaves_all_to_python() -> None:
    with wire_lab(["false"]) as lab:
        first, second = lab.hub(2)
        lab.until(lambda: first.reason == "vnic-wire was restarted too often")
        lab.exchange(first, [second], [frame(1)])


def test_a_frame_of_this_process_goes_out_at_the_program(lab: WireLab) -> None:
    """An announcement of announce-self, and a frame for a guest whose rings are there."""
    far = stream_pair(lab, "net0")
    guest = lab.guest("nic0", "net0")
    guest.plug()
    lab.until(lambda: guest.on_wire)
    assert guest.nic.send(0, frame(1))
    assert read_frames(lab, far, 1) == [frame(1)]
    assert lab.netdev_client("net0").send(0, frame(2))
    found: list[bytes] = []
    lab.until(lambda: lab._took(found, guest))
    assert found == [frame(2)]


def test_the_program_has_all_features_that_may_be_offered(lab: WireLab) -> None:
    """So what a guest is offered does not depend on the path."""
    first, _ = lab.hub(2)
    lab.until(lambda: first.on_wire)
    port = lab.engine._ports[first.nic]
    assert isinstance(port, RingPort)
    assert port.ring_features is not None
    assert names(OF_THE_RINGS & ~port.ring_features) == ""


def test_event_idx_on_both_paths(lab: WireLab) -> None:
    guests = [lab.guest(f"nic{number}", None) for number in range(2)]
    for guest in guests:
        guest.nic.holds.clear()
        guest.device.transport_features = EVENT_IDX
    lab.network.connect(guests[0].nic, guests[1].nic)
    for guest in guests:
        guest.device.link_status_changed()
        guest.plug()
        assert guest.device.driver_features & EVENT_IDX
    first, second = guests
    lab.exchange(first, [second], [frame(number) for number in range(5)])
    lab.until(lambda: first.on_wire and second.on_wire)
    for number in range(10):
        lab.exchange(first, [second], [frame(number), frame(100 + number)])
        second.driver.fill_rx(2)
    pid = lab.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    lab.until(lambda: lab.engine.program.restarts)
    lab.exchange(second, [first], [frame(7)])
    lab.until(lambda: first.on_wire and second.on_wire)
    lab.exchange(second, [first], [frame(8)])
