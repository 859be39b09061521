"""A lifecycle: the state of an object as an enum, and one table of the moves that it may make.

Attachments, sessions, engines and back-ends declare theirs as `state = Lifecycle(State.CLOSED, MOVES)` in the class; a
ring whose state is read for each packet keeps it in a plain attribute and sets it through `moved`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Self, TypeVar, overload

S = TypeVar("S", bound=enum.Enum)

Moves = Mapping[S, frozenset[S]]
"""By state: the states that may follow it. It may always be set again as it is."""


class WrongMove(RuntimeError):
    """A state was set that cannot follow the present one: a mistake in this program."""


def moved(owner: object, moves: Moves[S], before: S, after: S) -> S:
    """`after`; WrongMove if the table does not have the move from `before` to it."""
    if after is not before and after not in moves[before]:
        raise _wrong(owner, before, after)
    return after


def _wrong(owner: object, before: enum.Enum, after: enum.Enum) -> WrongMove:
    return WrongMove(f"{type(owner).__name__} cannot go from {before.name} to {after.name}")


class Lifecycle(property, Generic[S]):
    """An attribute that holds a state and refuses, with WrongMove, a move that the table does not have.

    It is a property whose getter is written in C: states are read for each packet and on the way of each interrupt.
    """

    def __init__(self, first: S, moves: Moves[S], told: str = "") -> None:
        """`first` is the state of a new object; `moves` has a row for each state. `told` is the name of a method of the
        object that is called after each move."""
        super().__init__()
        self.first = first
        self.moves = moves
        self._told = told
        # Names, because an Enum computes its hash in Python.
        self._names = {state._name_: {each._name_ for each in after} for state, after in moves.items()}
        self._kept = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._kept = f"_{name}_of_lifecycle"
        setattr(owner, self._kept, self.first)  # found where an object has none of its own
        super().__init__(attrgetter(self._kept), self._move)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...

        @overload
        def __get__(self, instance: object, owner: type | None = None) -> S: ...

        def __get__(self, instance: object | None, owner: type | None = None) -> S | Self: ...

        def __set__(self, instance: object, value: S) -> None: ...

    def _move(self, instance: object, state: S) -> None:
        before: S = getattr(instance, self._kept)
        if state is not before and state._name_ not in self._names[before._name_]:
            raise _wrong(instance, before, state)
        setattr(instance, self._kept, state)
        if self._told:
            getattr(instance, self._told)()

    def restore(self, instance: object, state: S) -> None:
        """Give a new object the state of a record, which may be one that no single move leads to."""
        setattr(instance, self._kept, state)
