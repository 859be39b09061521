"""A lifecycle: the state of an object as an enum, and one table of the moves that it may make.

Attachments, sessions, engines and back-ends declare theirs as `state = Lifecycle(State.CLOSED, MOVES)` in the class; a
ring whose state is read for each packet keeps it in a plain attribute and sets it through `moved`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar, overload

S = TypeVar("S", bound=enum.Enum)

Moves = Mapping[S, frozenset[S]]
"""By state: the states that may follow it. It may always be set again as it is."""


class WrongMove(RuntimeError):
    """A state was set that cannot follow the present one: a mistake in this program."""


def moved(owner: object, moves: Moves[S], before: S, after: S) -> S:
    """`after`; WrongMove if the table does not have the move from `before` to it."""
    if after is not before and after not in moves[before]:
        raise WrongMove(f"{type(owner).__name__} cannot go from {before.name} to {after.name}")
    return after


class Lifecycle(Generic[S]):
    """An attribute that holds a state and refuses, with WrongMove, a move that the table does not have."""

    def __init__(self, first: S, moves: Moves[S]) -> None:
        """`first` is the state of a new object; `moves` has a row for each state."""
        self.first = first
        self.moves = moves
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> S: ...

    def __get__(self, instance: object | None, owner: type) -> S | Self:
        if instance is None:
            return self
        state: S = instance.__dict__.get(self._name, self.first)
        return state

    def __set__(self, instance: Any, state: S) -> None:
        before = self.__get__(instance, type(instance))
        instance.__dict__[self._name] = moved(instance, self.moves, before, state)

    def restore(self, instance: object, state: S) -> None:
        """Give a new object the state of a record, which may be one that no single move leads to."""
        instance.__dict__[self._name] = state
