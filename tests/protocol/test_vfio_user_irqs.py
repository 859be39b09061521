"""vfio-user DEVICE_SET_IRQS: every form that QEMU uses, and invalid ones."""

from __future__ import annotations

import pytest
from tests.fakes.vfio_user_device import ask, is_open, memfd, message, serving

from vnic.lab.played.vfio_user_client import Reply
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError, SetIrqs

NONE, BOOL, EVENTFD = m.IRQ_DATA_NONE, m.IRQ_DATA_BOOL, m.IRQ_DATA_EVENTFD
MASK, UNMASK, TRIGGER = m.IRQ_ACTION_MASK, m.IRQ_ACTION_UNMASK, m.IRQ_ACTION_TRIGGER


def set_irqs(flags: int, index: int, start: int, count: int, data: bytes = b"", *, argsz: int = 20) -> bytes:
    return m.SET_IRQS.pack(argsz, flags, index, start, count) + data


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (set_irqs(NONE | TRIGGER, 2, 0, 0), SetIrqs(2, 0, 0, TRIGGER, NONE)),  # disable
        (set_irqs(EVENTFD | TRIGGER, 2, 1, 3), SetIrqs(2, 1, 3, TRIGGER, EVENTFD)),  # no descriptors: -1
        (set_irqs(NONE | UNMASK, 0, 0, 1), SetIrqs(0, 0, 1, UNMASK, NONE)),
        (set_irqs(NONE | MASK, 0, 0, 1), SetIrqs(0, 0, 1, MASK, NONE)),
        (set_irqs(BOOL | TRIGGER, 2, 0, 2, b"\x01\x00"), SetIrqs(2, 0, 2, TRIGGER, BOOL, b"\x01\x00")),
    ],
)
def test_set_irqs_without_descriptors_reaches_device(payload: bytes, request_: SetIrqs) -> None:
    server, device = serving()
    assert ask(server, m.DEVICE_SET_IRQS, payload) == Reply(0, b"")
    assert device.calls == [(request_, 0)]


def test_set_irqs_with_descriptors_reaches_device() -> None:
    server, device = serving()
    fds = [memfd() for _ in range(4)]
    assert ask(server, m.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, 2, 0, 4), fds) == Reply(0, b"")
    assert device.calls == [(SetIrqs(2, 0, 4, TRIGGER, EVENTFD), 4)]
    assert device.fds == fds
    assert all(map(is_open, fds))
    device.close()


@pytest.mark.parametrize(
    "payload",
    [
        set_irqs(0, 0, 0, 1),
        set_irqs(NONE | BOOL | TRIGGER, 0, 0, 1),
        set_irqs(NONE, 0, 0, 1),
        set_irqs(NONE | MASK | UNMASK, 0, 0, 1),
        set_irqs(NONE | TRIGGER | 0x40, 0, 0, 1),
        set_irqs(NONE | TRIGGER, 5, 0, 0),
        set_irqs(NONE | TRIGGER, 3, 0, 1),
        set_irqs(NONE | TRIGGER, 2, 4, 1),
        set_irqs(NONE | TRIGGER, 2, 0xFFFFFFFF, 0xFFFFFFFF),
        set_irqs(BOOL | TRIGGER, 2, 0, 2, b"\x01"),
        set_irqs(NONE | TRIGGER, 2, 0, 0, argsz=19),
    ],
)
def test_refused(payload: bytes) -> None:
    server, device = serving()
    assert ask(server, m.DEVICE_SET_IRQS, payload) == Reply(22, b"")
    assert device.calls == []


@pytest.mark.parametrize(("flags", "count", "fds"), [(EVENTFD, 2, 1), (EVENTFD, 1, 2), (NONE, 1, 1)])
def test_set_irqs_with_wrong_number_of_descriptors_ends_connection(flags: int, count: int, fds: int) -> None:
    server, _ = serving()
    opened = [memfd() for _ in range(fds)]
    with pytest.raises(ProtocolError, match="descriptors"):
        server.receive(message(m.DEVICE_SET_IRQS, set_irqs(flags | TRIGGER, 2, 0, count), opened))
    assert not any(map(is_open, opened))


def test_descriptors_of_refused_set_irqs_are_closed() -> None:
    server, _ = serving()
    fd = memfd()
    assert ask(server, m.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, 2, 4, 1), [fd]) == Reply(22, b"")
    assert not is_open(fd)
