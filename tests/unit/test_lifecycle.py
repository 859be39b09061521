"""Lifecycles: the moves of a table are made, all others are refused; the tables in use are whole."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from vnic.attach.attachment import VmAttachment
from vnic.attach.session import Session
from vnic.backend.passt.process import PasstKeeper
from vnic.backend.stream import StreamBackend
from vnic.backend.vhost_user import VhostUserBackend
from vnic.chardev.socket import ChardevSocket
from vnic.lifecycle import Lifecycle, Moves, WrongMove
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vhost_user.frontend import FrontendEngine
from vnic.protocol.vhost_user.notices import ConfigNotices
from vnic.protocol.vhost_user.ring import Ring
from vnic.virtio import queue_state
from vnic.virtio.device import VirtioDevice
from vnic.virtio.queue_state import QueueState


class Door(enum.Enum):
    SHUT = enum.auto()
    OPEN = enum.auto()
    GONE = enum.auto()


class House:
    door = Lifecycle(
        Door.SHUT,
        {
            Door.SHUT: frozenset({Door.OPEN}),
            Door.OPEN: frozenset({Door.SHUT, Door.GONE}),
            Door.GONE: frozenset(),
        },
    )


def test_moves_of_the_table_are_made_by_each_object_for_itself() -> None:
    one, other = House(), House()
    one.door = Door.OPEN
    assert one.door is Door.OPEN
    assert other.door is Door.SHUT
    one.door = Door.OPEN
    one.door = Door.GONE
    assert one.door is Door.GONE


def test_other_moves_are_refused_and_change_nothing() -> None:
    house = House()
    with pytest.raises(WrongMove, match="House cannot go from SHUT to GONE"):
        house.door = Door.GONE
    assert house.door is Door.SHUT


def test_a_record_gives_a_new_object_any_state() -> None:
    house = House()
    House.door.restore(house, Door.GONE)
    assert house.door is Door.GONE
    with pytest.raises(WrongMove):
        house.door = Door.OPEN


LIFECYCLES: list[Lifecycle[Any]] = [
    *(House.door, VmAttachment.state, Session.state, ChardevSocket.state),
    *(VhostUserBackend.state, StreamBackend.state, PasstKeeper.state),
    *(FrontendEngine.phase, Server.state, Ring.state, ConfigNotices.state, VirtioDevice.datapath),
]
TABLES: list[tuple[Any, Any]] = [
    *((each.first, each.moves) for each in LIFECYCLES),
    (QueueState.STOPPED, queue_state.MOVES),
]


@pytest.mark.parametrize(("first", "moves"), TABLES, ids=lambda each: type(each).__name__)
def test_a_table_has_a_row_for_each_state_and_reaches_all(first: enum.Enum, moves: Moves[Any]) -> None:
    states = set(type(first))
    assert set(moves) == states
    reached, new = {first}, {first}
    while new:
        new = {state for before in new for state in moves[before]} - reached
        reached |= new
    assert reached == states
