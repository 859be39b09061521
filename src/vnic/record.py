"""Records: the state of a unit (a ring, a register file, a parser) as plain data, apart from its handles.

Each unit that outlives something has its record beside it, and two methods:

    class XRecord(Record, frozen=True): ...  # ints, bytes, strings, booleans, lists of these, and other records
    def save(self) -> XRecord: ...
    def restore(self, record: XRecord, handles: XHandles) -> None: ...

`save` changes nothing. `restore` is called once, on a new unit that was made with the same configuration; it checks
the whole record before it changes anything, raises RecordError with the field that cannot be, and leaves the unit as
if it had lived on. Where a unit consists of others, they have `check(record, handles)` apart from `restore`, and all
are checked first. What cannot be written down (descriptors, guest memory, the attachment, the scheduler) is passed
as `handles`, a NamedTuple beside the unit, where it was not given to the constructor. Times are what remains of them.

`encode` and `decode` make bytes of a record and check them; both are JSON, so that a record can be read by people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Final, TypeVar

import msgspec

U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
"""At most 64 bits, like every int of a record."""
Mac = Annotated[bytes, msgspec.Meta(min_length=6, max_length=6)]

_INTS: Final = range(-(1 << 63), 1 << 64)
_PLACE: Final = re.compile(r" - at `\$\.?(.*)`\Z", re.DOTALL)
_NAMED: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`\Z", re.DOTALL)


class RecordError(ValueError):
    """A record that cannot be taken. `field` is the path of what is wrong, "" for the record as a whole."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}" if field else why)
        self.field = field
        self.why = why


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all records derive from. A subclass may check in `check_fields` what types cannot say."""

    version: ClassVar[int] = 1
    """Raised when the meaning of a field changes: records of another version are refused."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value not in _INTS:
                raise RecordError(name, "is more than 64 bits")
        self.check_fields()

    def check_fields(self) -> None:
        """Raise RecordError where fields do not go together; it is called for every record that is made."""


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
    """The record that `encode` made bytes of. Raises RecordError, and nothing else, for any other bytes."""
    envelope: _Envelope = _decode(_Envelope, data)
    if envelope.kind != kind_of(kind):
        raise RecordError("kind", f"is {envelope.kind!a}, not {kind_of(kind)!a}")
    if envelope.version != kind.version:
        raise RecordError("version", f"is {envelope.version}, not {kind.version}")
    record: R = _decode(kind, bytes(envelope.state))
    return record


def kind_of(kind: type[Record]) -> str:
    """What a record is called where it is stored."""
    return kind.__name__.removesuffix("Record")


def require(condition: object, field: str, why: str) -> None:
    """Raise RecordError for `field` unless `condition` holds."""
    if not condition:
        raise RecordError(field, why)


@contextmanager
def within(place: str) -> Iterator[None]:
    """Put `place` in front of the field of a RecordError: for the checks of a record that is part of another."""
    try:
        yield
    except RecordError as error:
        raise RecordError(join(place, error.field), error.why) from None


def join(place: str, field: str) -> str:
    """The path of `field` in what stands at `place`."""
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
