"""Starting, enabling and stopping rings, in the orders that real front-ends use."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path

import pytest
from tests.fakes.loops import no_fd_leak
from tests.fakes.vhost_user_rig import EngineRig

from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.backend import PROTOCOL_FEATURES
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.ring import RingState

FRAME = bytes(range(64)) * 2


def transmit(rig: EngineRig, frame: bytes = FRAME) -> list[bytes]:
    """Send through the TX ring, delivering the kick only if it is being watched; returns what came out."""
    rig.sink.frames.clear()
    rig.driver.send(frame)
    if 1 in rig.kicks:
        os.eventfd_read(rig.kicks[1])
        rig.device.kick(1)
    rig.scheduler.run_soon()
    return rig.sink.frames


def test_ring_starts_with_kick_and_carries_frames(rig: EngineRig) -> None:
    rig.client.negotiate()
    rig.client.set_memory()
    tx = rig.driver.rings[1]
    rig.client.set_up_ring(tx)
    rig.client.enable(tx)
    assert rig.engine.rings[1].state is RingState.STOPPED
    rig.client.send_u64(vu.SET_VRING_KICK, 1, [tx.kick_fd])
    assert rig.engine.rings[1].running
    assert list(rig.kicks) == [1]
    rig.client.start_rings()
    assert transmit(rig) == [FRAME]


def test_ring_set_up_messages_may_come_in_any_order(rig: EngineRig) -> None:
    """QEMU enables before it sets features, memory and rings; others kick before they tell the addresses."""
    for ring in rig.driver.rings:
        rig.client.enable(ring)
        rig.client.send_u64(vu.SET_VRING_KICK, ring.index, [ring.kick_fd])
        rig.client.set_up_ring(ring)
    rig.client.negotiate()
    assert rig.kicks == {}
    rig.client.set_memory()
    assert sorted(rig.kicks) == [0, 1, 2]
    assert transmit(rig) == [FRAME]


def test_get_vring_base_of_unused_ring_is_answered(rig: EngineRig) -> None:
    """virtio-user, reconnecting, disables and stops rings of a connection that has seen nothing yet."""
    for ring in rig.driver.rings[:2]:
        rig.client.enable(ring, False)
        assert rig.client.stop_ring(ring) == 0
    rig.client.start()
    assert transmit(rig) == [FRAME]


def test_rings_without_protocol_features_start_enabled(rig: EngineRig) -> None:
    rig.client.send_u64(vu.SET_FEATURES, rig.device.host_features)
    rig.client.set_memory()
    for ring in rig.driver.rings:
        rig.client.set_up_ring(ring)
        rig.client.send_u64(vu.SET_VRING_KICK, ring.index, [ring.kick_fd])
    assert rig.engine.running
    assert transmit(rig) == [FRAME]


def test_packets_of_disabled_ring_are_discarded(rig: EngineRig) -> None:
    """Specification, "Ring states": without side effects, which for a network device is to drop what it sends."""
    rig.client.start()
    rig.client.enable(rig.driver.rings[1], False)
    assert rig.engine.running
    assert transmit(rig) == []
    assert rig.driver.rings[1].take_used()
    rig.client.enable(rig.driver.rings[1])
    assert transmit(rig) == [FRAME]


def test_disabled_rx_ring_means_interface_down(rig: EngineRig) -> None:
    def guest() -> tuple[bool, bool]:
        return rig.nic.guest.driver_ok, rig.nic.guest.admin_down

    rig.nic.report.guest_attached()
    rig.client.start()
    assert guest() == (True, False), "rings start disabled, which is not the guest's word"
    rig.client.enable(rig.driver.rings[0], False)
    assert guest() == (True, True)
    rig.client.enable(rig.driver.rings[0])
    assert guest() == (True, False)
    rig.client.enable(rig.driver.rings[0], False)
    rig.client.enable(rig.driver.rings[1], False)
    rig.client.enable(rig.driver.rings[2], False)
    assert guest() == (False, False)


def test_all_rings_disabled_means_no_driver(rig: EngineRig) -> None:
    """UML says no more than that when it lets go of its rings: they are not touched."""
    rig.client.start()
    for ring in rig.driver.rings:
        rig.client.enable(ring, False)
    assert not rig.engine.running
    assert not rig.nic.guest.driver_ok
    assert transmit(rig) == []
    assert rig.driver.rings[1].used_idx == 0


def test_stop_returns_base_and_restart_resumes(rig: EngineRig) -> None:
    rig.client.start()
    for _ in range(3):
        transmit(rig)
    assert [rig.client.stop_ring(ring) for ring in rig.driver.rings[:2]] == [0, 3]
    assert sorted(rig.kicks) == [2]
    assert rig.client.stop_ring(rig.driver.rings[1]) == 3, "asked again, the base is the same"
    assert transmit(rig) == []
    rig.client.start_rings(rig.driver.rings[:2])
    rig.scheduler.run_soon()
    assert rig.sink.frames == [FRAME], "what was sent meanwhile goes out"
    assert transmit(rig) == [FRAME]


def test_used_idx_overrides_stale_base(rig: EngineRig) -> None:
    """After a reconnect QEMU may tell a base from before the cut; used.idx is the truth."""
    rig.client.start()
    for _ in range(3):
        transmit(rig)
    tx = rig.driver.rings[1]
    rig.client.stop_ring(tx)
    rig.client.start_ring(tx, base=1)
    assert rig.device.queues[1].last_avail == 3
    assert transmit(rig) == [FRAME]


def test_disabled_ring_may_be_set_up_again_without_stop(rig: EngineRig) -> None:
    """No GET_VRING_BASE comes: the rings are freed, and perhaps allocated at the same place again."""
    rig.client.start()
    for _ in range(3):
        transmit(rig)
    for ring in rig.driver.rings:
        rig.client.enable(ring, False)
    rig.client.ask(vu.GET_FEATURES)
    freed = b"\xaa" * 8
    tx = rig.driver.rings[1]
    rig.memory.write(tx.used, freed)
    rig.client.send_state(vu.SET_VRING_NUM, 1, tx.size)
    assert rig.memory.read(tx.used, 8) == freed, "freed memory is not written to"
    for ring in rig.driver.rings:
        ring.restart()
    rig.client.start_rings()
    assert transmit(rig) == [FRAME]


def test_call_and_kick_are_replaced_on_a_running_ring(rig: EngineRig) -> None:
    rig.client.start()
    kick, call = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    for _ in range(3):
        rig.client.send_u64(vu.SET_VRING_CALL, 1, [call])
    rig.client.send_u64(vu.SET_VRING_KICK, 1, [kick])
    watched = rig.engine.rings[1].kick_fd
    assert rig.kicks[1] == watched
    assert watched is not None
    os.eventfd_write(kick, 1)
    assert os.eventfd_read(watched) == 1
    rig.client.send_u64(vu.SET_VRING_CALL, 1 | vu.VRING_NOFD)
    assert rig.engine.rings[1].call_fd is None
    os.close(kick)
    os.close(call)


def test_error_descriptor_is_kept_open(rig: EngineRig) -> None:
    rig.client.send_u64(vu.SET_VRING_ERR, 0, [rig.driver.rings[0].call_fd])
    assert rig.engine.rings[0].err_fd is not None
    rig.client.send_u64(vu.SET_VRING_ERR, 0 | vu.VRING_NOFD)
    assert rig.engine.rings[0].err_fd is None


STATE = struct.Struct("<II")
USER = 0x7F12_3456_0000


@pytest.mark.parametrize(
    ("number", "payload", "fds"),
    [
        (vu.SET_VRING_NUM, STATE.pack(3, 256), 0),
        (vu.SET_VRING_NUM, STATE.pack(0, 0), 0),
        (vu.SET_VRING_NUM, STATE.pack(0, 100), 0),
        (vu.SET_VRING_NUM, STATE.pack(0, 1 << 16), 0),
        (vu.SET_VRING_BASE, STATE.pack(7, 0), 0),
        (vu.SET_VRING_BASE, STATE.pack(0, 1 << 16), 0),
        (vu.GET_VRING_BASE, STATE.pack(200, 0), 0),
        (vu.SET_VRING_ENABLE, STATE.pack(0, 2), 0),
        (vu.SET_VRING_ENABLE, STATE.pack(3, 1), 0),
        (vu.SET_VRING_ADDR, struct.pack("<IIQQQQ", 9, 0, 0, 0, 0, 0), 0),
        (vu.SET_VRING_ADDR, bytes(39), 0),
        (vu.SET_VRING_KICK, (3).to_bytes(8, "little"), 1),
        (vu.SET_VRING_KICK, (0).to_bytes(8, "little"), 0),
        (vu.SET_VRING_KICK, (0).to_bytes(8, "little"), 2),
        (vu.SET_VRING_KICK, (vu.VRING_NOFD).to_bytes(8, "little"), 0),
        (vu.SET_VRING_KICK, (vu.VRING_NOFD).to_bytes(8, "little"), 1),
        (vu.SET_VRING_CALL, (1 << 9).to_bytes(8, "little"), 1),
        (vu.GET_FEATURES, b"", 1),
        (vu.SET_BACKEND_REQ_FD, b"", 0),
        (vu.SET_BACKEND_REQ_FD, b"", 1),
    ],
)
def test_invalid_ring_message_is_refused(rig: EngineRig, number: int, payload: bytes, fds: int) -> None:
    with pytest.raises(ProtocolError):
        rig.client.send(number, payload, [rig.driver.rings[0].kick_fd] * fds)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("wrong", [0, 0x1000, USER - 64, USER + (8 << 20) - 8, (1 << 64) - 1])
def test_rings_outside_of_memory_are_refused(rig: EngineRig, part: int, wrong: int) -> None:
    rig.client.negotiate()
    rig.client.set_memory()
    addresses = [rig.memory.to_user(a) for a in (rig.driver.rings[0].desc, 0, 0)]
    addresses[1:] = [
        rig.memory.to_user(rig.driver.rings[0].used),
        rig.memory.to_user(rig.driver.rings[0].avail),
    ]
    addresses[part] = wrong
    rig.client.send_state(vu.SET_VRING_NUM, 0, 256)
    rig.client.send(vu.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *addresses, 0))
    with pytest.raises(ProtocolError, match="user address"):
        rig.client.send_u64(vu.SET_VRING_KICK, 0, [rig.driver.rings[0].kick_fd])


def test_a_misaligned_ring_is_refused(rig: EngineRig) -> None:
    rig.client.negotiate()
    rig.client.set_memory()
    ring = rig.driver.rings[0]
    user = rig.memory.to_user
    rig.client.send_state(vu.SET_VRING_NUM, 0, ring.size)
    rig.client.send(
        vu.SET_VRING_ADDR,
        struct.pack("<IIQQQQ", 0, 0, user(ring.desc) + 1, user(ring.used), user(ring.avail), 0),
    )
    with pytest.raises(ProtocolError, match="ring 0 cannot be used"):
        rig.client.send_u64(vu.SET_VRING_KICK, 0, [ring.kick_fd])


def test_descriptor_that_cannot_signal_is_refused(rig: EngineRig) -> None:
    for number in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
        with (
            tempfile.TemporaryFile() as file,
            pytest.raises(ProtocolError, match="no eventfd, pipe or socket"),
        ):
            rig.client.send_u64(number, 0, [file.fileno()])
        directory = os.open("/", os.O_RDONLY)
        with pytest.raises(ProtocolError, match="no eventfd, pipe or socket"):
            rig.client.send_u64(number, 0, [directory])
        os.close(directory)


@pytest.mark.parametrize("number", [vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_BACKEND_REQ_FD])
def test_o_path_descriptor_is_refused(rig: EngineRig, number: int, tmp_path: Path) -> None:
    """One opened with O_PATH looks like its pipe or socket, and can nothing."""
    rig.client.negotiate()
    path = tmp_path / "path"
    if number == vu.SET_BACKEND_REQ_FD:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        os.mkfifo(path)
    fd = os.open(path, os.O_PATH)
    payload = b"" if number == vu.SET_BACKEND_REQ_FD else bytes(8)
    with pytest.raises(ProtocolError, match="with a descriptor that is no"):
        rig.client.send(number, payload, [fd])
    os.close(fd)


def test_notifier_descriptors_are_nonblocking(rig: EngineRig) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rig.client.send_u64(vu.SET_VRING_KICK, 0, [theirs.fileno()])
        rig.client.send_u64(vu.SET_VRING_CALL, 0, [theirs.fileno()])
        for fd in (rig.engine.rings[0].kick_fd, rig.engine.rings[0].call_fd):
            assert fd is not None
            assert not os.get_blocking(fd)


@pytest.mark.parametrize("number", [vu.SET_STATUS, vu.RESET_DEVICE])
def test_bases_survive_reset(number: int) -> None:
    """QEMU stops with SET_STATUS 0 and asks for the bases only then."""
    with no_fd_leak():
        rig = EngineRig()
        rig.client.negotiate(PROTOCOL_FEATURES)
        rig.client.set_memory()
        rig.client.start_rings()
        rig.client.send_u64(vu.SET_STATUS, 15)
        for _ in range(3):
            assert transmit(rig) == [FRAME]
        rig.client.send(number, bytes(8) if number == vu.SET_STATUS else b"")
        assert rig.client.stop_ring(rig.driver.rings[1]) == 3
        rig.client.send_u64(vu.SET_FEATURES, rig.client.features)
        rig.client.start_rings()
        rig.client.send_u64(vu.SET_STATUS, 15)
        assert transmit(rig) == [FRAME]
        rig.close()
