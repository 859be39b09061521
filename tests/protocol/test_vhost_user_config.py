"""The config space and CONFIG_CHANGE: sent when possible, once until it is read."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.vhost_user_rig import MAC, EngineRig

from vnic.lab.played.vhost_user_client import QEMU_NETDEV_PROTOCOL_FEATURES, UML_PROTOCOL_FEATURES
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.notices import ConfigNotices

NOTICE = vu.encode(vu.BACKEND_CONFIG_CHANGE)


def change(rig: EngineRig) -> bytes | None:
    """The config space changed; the message that goes out for it."""
    rig.engine.notices.changed()
    return rig.engine.take_notice()


def test_get_config_of_single_bytes_for_uml(rig: EngineRig) -> None:
    rig.client.negotiate(UML_PROTOCOL_FEATURES)
    assert b"".join(rig.client.read_config(at, 1) for at in range(6)) == MAC


def test_get_config_of_whole_space_for_qemu(rig: EngineRig) -> None:
    rig.client.negotiate()
    config = rig.client.read_config(0, 24)
    assert config[:8] == MAC + b"\1\0"
    assert len(config) == 24


def test_get_config_without_payload_bytes_is_accepted(rig: EngineRig) -> None:
    rig.client.negotiate()
    answer = rig.client.ask(vu.GET_CONFIG, struct.pack("<III", 0, 6, 0))
    assert answer == struct.pack("<III", 0, 6, 0) + MAC


@pytest.mark.parametrize(
    ("number", "payload"),
    [
        (vu.GET_CONFIG, struct.pack("<III", 0, 257, 0)),
        (vu.GET_CONFIG, struct.pack("<III", 0xFFFF_FFFF, 2, 0)),
        (vu.GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(7)),
        (vu.GET_CONFIG, bytes(11)),
        (vu.SET_CONFIG, struct.pack("<III", 0, 6, 0) + bytes(5)),
        (vu.SET_CONFIG, struct.pack("<III", 255, 2, 0) + bytes(2)),
    ],
)
def test_config_range_is_bounded(rig: EngineRig, number: int, payload: bytes) -> None:
    rig.client.negotiate()
    with pytest.raises(ProtocolError):
        rig.client.send(number, payload)


def test_set_config_does_not_change_link(rig: EngineRig) -> None:
    rig.client.negotiate()
    rig.client.send(vu.SET_CONFIG, struct.pack("<III", 6, 2, 0) + b"\0\0")
    assert rig.client.link_up()


def test_config_change_is_sent_once_until_read(rig: EngineRig) -> None:
    rig.client.start()
    assert change(rig) == NOTICE
    assert change(rig) is None
    assert rig.engine.notices.notified
    rig.client.read_config(0, 6)
    assert change(rig) is None, "reading the MAC is not reading the status"
    rig.client.link_up()
    assert change(rig) == NOTICE


def test_config_change_waits_until_rings_run(rig: EngineRig) -> None:
    """QEMU ends with SIGSEGV on a CONFIG_CHANGE before that."""
    rig.client.negotiate()
    assert change(rig) is None
    rig.client.set_memory()
    rig.client.start_rings(rig.driver.rings[:1])
    assert rig.engine.take_notice() == NOTICE


def test_driver_that_read_before_start_gets_no_config_change(rig: EngineRig) -> None:
    rig.client.negotiate()
    change(rig)
    rig.client.link_up()
    rig.client.set_memory()
    rig.client.start_rings()
    assert rig.engine.take_notice() is None


def test_next_driver_gets_config_change_not_read_before(rig: EngineRig) -> None:
    rig.client.start()
    assert change(rig) == NOTICE
    for ring in rig.driver.rings:
        rig.client.stop_ring(ring)
    assert rig.engine.take_notice() is None
    rig.client.start_rings()
    assert rig.engine.take_notice() == NOTICE


@pytest.mark.parametrize("features", [QEMU_NETDEV_PROTOCOL_FEATURES, vu.P_CONFIG, 0])
def test_client_without_config_or_channel_gets_no_config_change(rig: EngineRig, features: int) -> None:
    rig.client.start(features)
    assert change(rig) is None
    assert not rig.engine.notices.notified


def test_new_request_channel_replaces_old(rig: EngineRig) -> None:
    rig.client.start()
    before = rig.engine.request_fd
    rig.client.open_requests()
    assert rig.engine.request_fd not in (None, before)


def test_notices_coalesce_changes() -> None:
    notices = ConfigNotices()
    assert not notices.take()
    notices.changed()
    notices.changed()
    assert notices.take()
    assert not notices.take()
    notices.driver_gone()
    assert notices.take()
    notices.read()
    notices.driver_gone()
    assert not notices.take()
