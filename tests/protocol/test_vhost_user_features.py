"""Features, acknowledgements, status and reset, as the device's engine answers them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import pytest
from tests.fakes.loops import no_fd_leak
from tests.fakes.vhost_user_rig import EngineRig

from vnic.lab.played.vhost_user_client import (
    NEW_UML_PROTOCOL_FEATURES,
    QEMU_NETDEV_PROTOCOL_FEATURES,
    UML_PROTOCOL_FEATURES,
)
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.backend import PROTOCOL_FEATURES
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.ring import RingState


@contextlib.contextmanager
def engine_rig(pairs: int = 1) -> Iterator[EngineRig]:
    with no_fd_leak():
        made = EngineRig(pairs)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def rig() -> Iterator[EngineRig]:
    with engine_rig() as made:
        yield made


def test_get_features_offers_device_and_protocol_features(rig: EngineRig) -> None:
    offered = rig.client.ask_u64(vu.GET_FEATURES)
    assert offered == rig.device.host_features | vu.F_PROTOCOL_FEATURES
    assert not offered & vu.F_LOG_ALL
    assert rig.client.ask_u64(vu.GET_PROTOCOL_FEATURES) == PROTOCOL_FEATURES
    assert not PROTOCOL_FEATURES & (vu.P_LOG_SHMFD | vu.P_INBAND_NOTIFICATIONS)


def test_set_features_reaches_the_device_without_the_protocol_bit(rig: EngineRig) -> None:
    rig.client.negotiate()
    assert rig.device.driver_features == rig.device.host_features
    assert rig.choices == 1


def test_unoffered_features_are_refused(rig: EngineRig) -> None:
    with pytest.raises(ProtocolError, match="SET_FEATURES with 0x4000000, which was not offered"):
        rig.client.send_u64(vu.SET_FEATURES, vu.F_LOG_ALL)
    with pytest.raises(ProtocolError, match="SET_PROTOCOL_FEATURES"):
        rig.client.send_u64(vu.SET_PROTOCOL_FEATURES, vu.P_LOG_SHMFD)


def test_set_protocol_features_itself_is_acknowledged(rig: EngineRig) -> None:
    """UML asks for the acknowledgement in the very message that negotiates it."""
    assert rig.client.acked(vu.SET_PROTOCOL_FEATURES, UML_PROTOCOL_FEATURES.to_bytes(8, "little")) == 0
    assert rig.client.acked(vu.SET_OWNER) == 0


def test_no_acknowledgement_without_reply_ack(rig: EngineRig) -> None:
    rig.client.send(vu.SET_OWNER, flags=vu.FLAG_NEED_REPLY)
    assert rig.wire.answered == b""


def test_need_reply_does_not_duplicate_reply(rig: EngineRig) -> None:
    rig.client.negotiate()
    rig.client.ask(vu.GET_FEATURES, flags=vu.FLAG_NEED_REPLY)
    assert rig.wire.answered == b""


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize(
    ("protocol_features", "counts_pairs"),
    [
        (QEMU_NETDEV_PROTOCOL_FEATURES, True),
        (QEMU_NETDEV_PROTOCOL_FEATURES | vu.P_CONFIG, False),
        (NEW_UML_PROTOCOL_FEATURES, False),
        (vu.P_MQ | vu.P_CONFIGURE_MEM_SLOTS | vu.P_REPLY_ACK, False),
    ],
    ids=["QEMU's netdev", "QEMU's vhost-user-device", "UML", "Cloud Hypervisor"],
)
def test_queue_num_counts_as_front_end_does(pairs: int, protocol_features: int, counts_pairs: bool) -> None:
    with engine_rig(pairs) as rig:
        rig.client.negotiate(protocol_features)
        rings = 2 * pairs + 1  # the control queue is the last
        assert rig.client.ask_u64(vu.GET_QUEUE_NUM) == (pairs if counts_pairs else rings)


@pytest.mark.parametrize(
    ("number", "payload"),
    [(vu.SET_LOG_BASE, bytes(16)), (vu.SET_LOG_FD, b""), (vu.NET_SET_MTU, bytes(8)), (28, b""), (200, b"")],
    ids=["SET_LOG_BASE", "SET_LOG_FD", "an MTU of 0", "POSTCOPY_ADVISE", "unknown"],
)
def test_unserved_requests_are_refused(number: int, payload: bytes) -> None:
    """With an answer where the client asked for one; else the connection ends, for it would wait or err on."""
    with engine_rig() as rig:
        rig.client.negotiate()
        assert rig.client.acked(number, payload) == 1
        assert rig.client.acked(vu.SET_OWNER) == 0
        with pytest.raises(ProtocolError):
            rig.client.send(number, payload)


def test_request_with_reply_flag_is_refused(rig: EngineRig) -> None:
    with pytest.raises(ProtocolError, match="marked as a reply"):
        rig.client.send(vu.GET_FEATURES, flags=vu.FLAG_REPLY)


def test_set_mtu_is_accepted(rig: EngineRig) -> None:
    rig.client.negotiate()
    assert rig.client.acked(vu.NET_SET_MTU, (9000).to_bytes(8, "little")) == 0


@pytest.mark.parametrize("number", [vu.RESET_DEVICE, vu.RESET_OWNER])
def test_reset_stops_rings_and_keeps_link(number: int) -> None:
    with engine_rig() as rig:
        rig.client.start()
        rig.set_link(False)
        rig.client.send(number)
        assert {ring.state for ring in rig.engine.rings} == {RingState.STOPPED}
        assert rig.kicks == {}
        assert rig.device.status == 0
        assert not rig.nic.guest.driver_ok
        assert not rig.client.link_up()
        rig.client.negotiate()
        rig.client.start_rings()
        assert rig.nic.guest.driver_ok, "a client that resets the device starts it again"


def test_set_features_resets_state_of_earlier_driver(rig: EngineRig) -> None:
    """UML lets a driver go with ENABLE 0 alone, and the next one begins with SET_FEATURES."""
    client = rig.client
    client.start(UML_PROTOCOL_FEATURES)
    rig.driver.device = rig.device
    assert rig.driver.command(1, 1, bytes.fromhex("525400aabbcc")) == 0
    assert rig.driver.command(0, 0, b"\0") == 0
    rig.driver.device = None
    client.send_u64(vu.SET_FEATURES, client.features)
    assert client.read_config(0, 6).hex(":") == "52:54:00:aa:bb:cc", "while it is in use nothing is reset"
    for ring in rig.driver.rings:
        client.enable(ring, False)
    client.send_u64(vu.SET_FEATURES, client.features)
    assert client.read_config(0, 6) == rig.nic.mac
    assert rig.device.filter.promisc
    for ring in rig.driver.rings:
        ring.restart()
    client.start_rings()
    assert rig.nic.guest.driver_ok
    assert rig.device.driver_features == client.features & ~vu.F_PROTOCOL_FEATURES


def test_client_with_status_sets_device_status(rig: EngineRig) -> None:
    client = rig.client
    client.negotiate(PROTOCOL_FEATURES)
    for status in (0, 1, 3, 11):
        client.send_u64(vu.SET_STATUS, status)
        assert client.ask_u64(vu.GET_STATUS) == status
    client.set_memory()
    client.start_rings()
    client.send_u64(vu.SET_STATUS, 15)
    assert (rig.engine.running, rig.nic.guest.driver_ok) == (True, True)
    client.send_u64(vu.SET_STATUS, 0)
    assert (rig.engine.running, rig.nic.guest.driver_ok) == (False, False)
    assert client.ask_u64(vu.GET_STATUS) == 0
    with pytest.raises(ProtocolError, match="SET_STATUS"):
        client.send_u64(vu.SET_STATUS, 0x100)


def test_running_rings_imply_driver_ok(rig: EngineRig) -> None:
    """QEMU's vhost-user-test-device says FEATURES_OK and no more."""
    rig.client.negotiate(PROTOCOL_FEATURES)
    rig.client.send_u64(vu.SET_STATUS, 8)
    rig.client.set_memory()
    rig.client.start_rings()
    assert rig.nic.guest.driver_ok
    rig.client.send_u64(vu.SET_STATUS, 8)
    assert rig.nic.guest.driver_ok


def test_status_follows_rings_without_status_feature(rig: EngineRig) -> None:
    rig.client.start()
    assert rig.nic.guest.driver_ok
    for ring in rig.driver.rings:
        rig.client.stop_ring(ring)
    assert not rig.nic.guest.driver_ok


def test_messages_may_arrive_in_any_pieces(rig: EngineRig) -> None:
    message = struct.pack("<IIIQ", vu.SET_FEATURES, 1, 8, rig.device.host_features)
    for at in range(len(message)):
        assert rig.engine.pending == (at > 0)
        assert rig.engine.feed(message[at : at + 1]) == b""
    assert rig.device.driver_features == rig.device.host_features
