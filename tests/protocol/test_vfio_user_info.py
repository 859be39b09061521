"""vfio-user DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO and DEVICE_RESET."""

from __future__ import annotations

import pytest
from tests.fakes.vfio_user_device import ask, message, serving

from vnic.lab.played.vfio_user_client import Reply
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError


def test_device_info() -> None:
    server, _ = serving()
    reply = ask(server, m.DEVICE_GET_INFO, m.DEVICE_INFO.pack(16, 0, 0, 0))
    assert reply == Reply(0, m.DEVICE_INFO.pack(16, 3, 9, 5))


def test_refusal_is_reported_in_reply_to_device_info() -> None:
    server, device = serving()
    device.refuse = True
    assert ask(server, m.DEVICE_GET_INFO, m.DEVICE_INFO.pack(16, 0, 0, 0)) == Reply(95, b"")


@pytest.mark.parametrize(
    ("index", "size", "flags"), [(0, 4096, 3), (1, 0, 0), (6, 0, 0), (7, 256, 3), (8, 0, 0)]
)
def test_region_info(index: int, size: int, flags: int) -> None:
    server, _ = serving()
    reply = ask(server, m.DEVICE_GET_REGION_INFO, m.REGION_INFO.pack(32, 0, index, 0, 0, 0))
    assert reply == Reply(0, m.REGION_INFO.pack(32, flags, index, 0, size, 0))


@pytest.mark.parametrize(("index", "count", "flags"), [(0, 1, 7), (1, 1, 1), (2, 4, 1), (3, 0, 0), (4, 0, 0)])
def test_irq_info(index: int, count: int, flags: int) -> None:
    server, _ = serving()
    reply = ask(server, m.DEVICE_GET_IRQ_INFO, m.IRQ_INFO.pack(16, 0, index, 0))
    assert reply == Reply(0, m.IRQ_INFO.pack(16, flags, index, count))


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (m.DEVICE_GET_INFO, m.DEVICE_INFO.pack(15, 0, 0, 0)),
        (m.DEVICE_GET_REGION_INFO, m.REGION_INFO.pack(31, 0, 0, 0, 0, 0)),
        (m.DEVICE_GET_REGION_INFO, m.REGION_INFO.pack(32, 0, 9, 0, 0, 0)),
        (m.DEVICE_GET_IRQ_INFO, m.IRQ_INFO.pack(0, 0, 0, 0)),
        (m.DEVICE_GET_IRQ_INFO, m.IRQ_INFO.pack(16, 0, 5, 0)),
    ],
)
def test_small_argsz_or_unknown_index_is_refused(command: int, payload: bytes) -> None:
    server, _ = serving()
    assert ask(server, command, payload) == Reply(22, b"")


@pytest.mark.parametrize("command", [m.DEVICE_GET_INFO, m.DEVICE_GET_REGION_INFO, m.DEVICE_GET_IRQ_INFO])
def test_short_request_ends_connection(command: int) -> None:
    server, _ = serving()
    with pytest.raises(ProtocolError, match="the least"):
        server.receive(message(command, b"\x20\0\0\0"))


def test_reset() -> None:
    server, device = serving()
    assert ask(server, m.DEVICE_RESET) == Reply(0, b"")
    assert device.calls == ["reset"]
