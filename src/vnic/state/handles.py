"""Handles in stored form: plain data with a name in the place of each descriptor.

Handles are descriptors (ints; -1 for none) and sockets, None, strings, and sequences, dicts and NamedTuples of these.
What a unit passes besides, such as its guest memory, is left out, and has to have a default in its NamedTuple.
"""

from __future__ import annotations

import collections.abc
import functools
import socket
import types
import typing
from collections.abc import Callable
from typing import Any, Protocol

from vnic.record import RecordError, join, require

NameOf = Callable[[int], str]


def to_names(value: object, name_of: NameOf) -> Any:
    """The stored form. Raises OSError for a closed descriptor, TypeError for what cannot be stored."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise TypeError("a bool is no handle")
    if isinstance(value, int):
        return -1 if value == -1 else name_of(value)
    if isinstance(value, socket.socket):
        return name_of(value.fileno())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _fields_to_names(value, name_of)
    if isinstance(value, dict):
        return {str(key): to_names(each, name_of) for key, each in value.items()}
    if isinstance(value, collections.abc.Sequence):
        return [to_names(each, name_of) for each in value]
    raise TypeError(f"{type(value).__name__} is no handle")


def _fields_to_names(value: Any, name_of: NameOf) -> dict[str, Any]:
    found = {}
    for field, each in zip(value._fields, value, strict=True):
        try:
            found[field] = to_names(each, name_of)
        except TypeError:
            if field not in value._field_defaults:
                raise
    return found


def names_in(stored: Any) -> set[str]:
    """All strings of the stored form, and so all its names of descriptors."""
    if isinstance(stored, str):
        return {stored}
    items = stored.values() if isinstance(stored, dict) else stored if isinstance(stored, list) else ()
    return {name for each in items for name in names_in(each)}


class Opener(Protocol):
    """Makes handles from names. All raise RecordError's cause: KeyError for an unknown name, OSError."""

    def descriptor(self, name: str) -> int:
        """A descriptor for the file of that name."""

    def socket(self, name: str) -> socket.socket | None:
        """A socket for it."""


def from_names(kind: Any, stored: Any, opener: Opener, place: str = "handles") -> Any:
    """Handles of type `kind`. Raises RecordError with the field's name."""
    origin = typing.get_origin(kind)
    if kind is None or kind is types.NoneType:
        require(stored is None, place, "is not empty")
        return None
    if origin in (typing.Union, types.UnionType):
        return _one_of(typing.get_args(kind), stored, opener, place)
    if kind is str:
        require(isinstance(stored, str), place, "is no string")
        return stored
    if kind is int and stored == -1:
        return -1
    if kind is int or kind is socket.socket:
        require(isinstance(stored, str), place, "is no descriptor")
        return _opened(opener.descriptor if kind is int else opener.socket, stored, place)
    if hasattr(kind, "_fields"):
        return _named_tuple(kind, stored, opener, place)
    if origin is dict:
        return _dict(typing.get_args(kind), stored, opener, place)
    if origin in (list, tuple, collections.abc.Sequence):
        return _sequence(origin, typing.get_args(kind), stored, opener, place)
    raise RecordError(place, "is of a type that cannot be stored")


def _opened(opened: Callable[[str], Any], name: str, place: str) -> Any:
    try:
        return opened(name)
    except KeyError:
        raise RecordError(place, f"is {name!a}, which the keeper has not passed") from None
    except OSError as error:
        raise RecordError(place, error.strerror or str(error)) from None


def _one_of(kinds: tuple[Any, ...], stored: Any, opener: Opener, place: str) -> Any:
    if stored is None and types.NoneType in kinds:
        return None
    others = [each for each in kinds if each is not types.NoneType]
    require(len(others) == 1, place, "is of a type that cannot be stored")
    return from_names(others[0], stored, opener, place)


@functools.cache
def _types_of(kind: Any) -> dict[str, Any]:
    """The types of a NamedTuple's fields. Python evaluates them from text each time that it is asked."""
    return typing.get_type_hints(kind)


def _named_tuple(kind: Any, stored: Any, opener: Opener, place: str) -> Any:
    require(isinstance(stored, dict), place, "is no object")
    hints = _types_of(kind)
    for field in stored:
        require(field in kind._fields, join(place, field), "is unknown")
    values = {}
    for field in kind._fields:
        if field in stored:
            values[field] = from_names(hints[field], stored[field], opener, join(place, field))
        else:
            require(field in kind._field_defaults, join(place, field), "is missing")
    return kind(**values)


def _dict(kinds: tuple[Any, ...], stored: Any, opener: Opener, place: str) -> dict[Any, Any]:
    require(isinstance(stored, dict), place, "is no object")
    key_kind, each_kind = kinds
    found: dict[Any, Any] = {}
    for key, each in stored.items():
        if key_kind is int:
            require(key.isascii() and key.isdigit() and len(key) < 20, join(place, key), "is no number")
        found[key_kind(key)] = from_names(each_kind, each, opener, join(place, key))
    return found


def _sequence(
    origin: Any, kinds: tuple[Any, ...], stored: Any, opener: Opener, place: str
) -> list[Any] | tuple[Any, ...]:
    require(isinstance(stored, list), place, "is no list")
    of_one_kind = origin is not tuple or kinds[1:] == (Ellipsis,)
    each_kind = [kinds[0]] * len(stored) if of_one_kind else list(kinds)
    require(len(each_kind) == len(stored), place, f"has {len(stored)} items")
    found = [
        from_names(kind, each, opener, f"{place}[{at}]")
        for at, (kind, each) in enumerate(zip(each_kind, stored, strict=True))
    ]
    return tuple(found) if origin is tuple else found
