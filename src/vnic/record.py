"""Records: the state of a unit (a ring, a register file, a parser) as plain data, without its handles.

Each unit whose state is saved has a record class and two methods:

    class XRecord(Record, frozen=True): ...  # ints, bytes, strings, booleans, lists of these, and other records
    def save(self) -> XRecord: ...
    def restore(self, record: XRecord, handles: XHandles) -> None: ...

`save` changes nothing. `restore` is called once, on a new unit made with the same configuration. It checks the whole
record before it changes anything, and raises RecordError with the name of an invalid field; after it, the unit equals
the saved one. If a unit has parts, each part has `check(record, handles)` besides `restore`, and all are checked
first. Handles (descriptors, guest memory, the attachment, the scheduler) are passed as `handles`, a NamedTuple beside
the unit, unless the constructor got them; the saved unit's own are in its property `handles`. They are the new unit's
after `restore`, and stay the caller's if that raises. For a netdev or a filter `restore` takes the place of `start` or
`setup`, which would open new ones. A unit with messages in progress has a third method, `go_on`, which carries them out
once all other units are restored. Times are stored as remaining times.

`encode` and `decode` convert records to JSON and back, with checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Final, TypeVar

import msgspec

U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
"""At most 64 bits, like every int of a record."""
Mac = Annotated[bytes, msgspec.Meta(min_length=6, max_length=6)]

_LEAST: Final = -(1 << 63)
_MOST: Final = (1 << 64) - 1
_PLACE: Final = re.compile(r" - at `\$\.?(.*)`\Z", re.DOTALL)
_NAMED: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`\Z", re.DOTALL)


class RecordError(ValueError):
    """A record is invalid. `field` is the path of the invalid field, "" for the record as a whole."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}" if field else why)
        self.field = field
        self.why = why


Older = Callable[[dict[str, Any]], dict[str, Any]]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of all records. A subclass may override `check_fields` for checks beyond the types."""

    version: ClassVar[int] = 1
    """Raised when the meaning of a field changes, also in a record that this one contains. A new field with a default
    needs no new version."""
    older: ClassVar[dict[int, Older]] = {}
    """Version → what makes the fields of a record of the version after it. Other versions are refused."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and not _LEAST <= value <= _MOST:
                raise RecordError(name, "is more than 64 bits")
        self.check_fields()

    def check_fields(self) -> None:
        """Raise RecordError if fields do not fit together; called for every record that is made."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    version: int
    state: msgspec.Raw


R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """The record with its kind and version."""
    state = msgspec.Raw(msgspec.json.encode(record))
    return msgspec.json.encode(_Envelope(kind_of(type(record)), record.version, state))


def decode(kind: type[R], data: bytes) -> R:
    """The record that `encode` converted, also that of an older version. Raises RecordError, and nothing else, for any
    other bytes."""
    envelope: _Envelope = _decode(_Envelope, data)
    if envelope.kind != kind_of(kind):
        raise RecordError("kind", f"is {envelope.kind!a}, not {kind_of(kind)!a}")
    state = bytes(envelope.state)
    if envelope.version != kind.version:
        state = _newer(kind, envelope.version, state)
    record: R = _decode(kind, state)
    return record


def _newer(kind: type[Record], version: int, state: bytes) -> bytes:
    """The fields of a record of an older version as those of this one."""
    if version not in kind.older or version > kind.version:
        raise RecordError("version", f"is {version}, not {kind.version}")
    fields: dict[str, Any] = _decode(dict[str, Any], state)
    try:
        for each in range(version, kind.version):
            fields = kind.older[each](fields)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RecordError("", f"of version {version} is malformed: {error!r}") from None
    return msgspec.json.encode(fields)


def kind_of(kind: type[Record]) -> str:
    """The name of a record's kind in its stored form."""
    return kind.__name__.removesuffix("Record")


def require(condition: object, field: str, why: str) -> None:
    """Raise RecordError for `field` unless `condition` holds."""
    if not condition:
        raise RecordError(field, why)


def left_us(until: float, now: float) -> int:
    """The microseconds from `now` to `until`, both in seconds; 0 if that has passed."""
    return max(0, round((until - now) * 1e6))


@contextmanager
def within(place: str) -> Iterator[None]:
    """Prefix the field of a RecordError with `place`: for the check of a record that is part of another."""
    try:
        yield
    except RecordError as error:
        raise RecordError(join(place, error.field), error.why) from None


def join(place: str, field: str) -> str:
    """The path of `field` inside `place`."""
    return f"{place}{field}" if not place or not field or field.startswith("[") else f"{place}.{field}"


def _decode(kind: type[Any], data: bytes) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _located(error) from None
    except (
        msgspec.DecodeError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a number of too many digits
        raise RecordError("", f"is malformed: {error}") from None


def _located(error: msgspec.ValidationError) -> RecordError:
    """msgspec's text ends with the place; a missing or unknown field is named in the text itself."""
    text, place = str(error), ""
    if found := _PLACE.search(text):
        text, place = text[: found.start()], found[1]
    if isinstance(error.__cause__, RecordError):
        return RecordError(join(place, error.__cause__.field), error.__cause__.why)
    if named := _NAMED.match(text):
        return RecordError(join(place, named[2]), "is unknown" if "unknown" in named[1] else "is missing")
    return RecordError(place, text)
