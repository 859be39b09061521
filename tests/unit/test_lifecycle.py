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
from vnic.lifecycle import Lifecycle, WrongMove


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


@pytest.mark.parametrize(
    "owner", [House, VmAttachment, Session, VhostUserBackend, StreamBackend, PasstKeeper, ChardevSocket]
)
def test_a_table_has_a_row_for_each_state_and_reaches_all(owner: Any) -> None:
    lifecycle: Lifecycle[Any] = owner.door if owner is House else owner.state
    first: enum.Enum = lifecycle.first
    states = set(type(first))
    assert set(lifecycle.moves) == states
    reached, new = {first}, {first}
    while new:
        new = {state for before in new for state in lifecycle.moves[before]} - reached
        reached |= new
    assert reached == states
