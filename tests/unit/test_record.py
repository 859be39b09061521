"""Records are decoded as they were encoded; anything else is refused with the field's path."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.record import U16, U64, Mac, Older, Record, RecordError, decode, encode, require, within


class LampRecord(Record, frozen=True):
    lit: bool
    colour: Annotated[str, msgspec.Meta(max_length=8)]
    hours: U64

    def check_fields(self) -> None:
        require(self.lit or not self.hours, "hours", "of a lamp that is off")


class HouseRecord(Record, frozen=True):
    number: U16
    mac: Mac
    lamps: list[LampRecord]


class Colour(enum.IntEnum):
    RED = 1


def test_an_enumeration_is_a_number_that_is_checked_at_once() -> None:
    """A range looks for it item by item: that would take years."""
    assert decode(LampRecord, encode(LampRecord(lit=True, colour="red", hours=Colour.RED))).hours == 1


class BarnRecord(Record, frozen=True):
    number: U16
    mac: Mac
    lamps: list[LampRecord]


class NewerHouseRecord(HouseRecord, frozen=True):
    version = 2


LAMP = LampRecord(lit=True, colour="red", hours=2**64 - 1)
HOUSE = HouseRecord(number=7, mac=b"\x02\0\0\0\0\xff", lamps=[LAMP])


def document(**changes: object) -> bytes:
    """The encoded house with some of its state replaced; None takes a field out."""
    whole = msgspec.json.decode(encode(HOUSE))
    whole["state"] = {name: value for name, value in (whole["state"] | changes).items() if value is not None}
    return msgspec.json.encode(whole)


def lamp(**changes: object) -> dict[str, object]:
    return {"lit": True, "colour": "red", "hours": 1} | changes


def test_a_record_is_decoded_as_it_was_encoded() -> None:
    assert decode(HouseRecord, encode(HOUSE)) == HOUSE
    assert encode(decode(HouseRecord, encode(HOUSE))) == encode(HOUSE)


@pytest.mark.parametrize(
    ("data", "field", "why"),
    [
        (document(number=None), "number", "is missing"),
        (document(floor=1), "floor", "is unknown"),
        (document(number=65536), "number", "Expected `int` <= 65535"),
        (document(number=-1), "number", "Expected `int` >= 0"),
        (document(number="7"), "number", "Expected `int`, got `str`"),
        (document(number=True), "number", "Expected `int`, got `bool`"),
        (document(number=7.0), "number", "Expected `int`, got `float`"),
        (document(mac="AAAA"), "mac", "Expected `bytes` of length >= 6"),
        (document(mac="?"), "mac", "Invalid base64 encoded string"),
        (document(lamps={}), "lamps", "Expected `array`, got `object`"),
        (document(lamps=[lamp(), lamp(lit=1)]), "lamps[1].lit", "Expected `bool`, got `int`"),
        (document(lamps=[lamp(watts=1)]), "lamps[0].watts", "is unknown"),
        (document(lamps=[lamp(lit=False)]), "lamps[0].hours", "of a lamp that is off"),
        (
            document(lamps=[lamp(hours=0)]).replace(b'"hours":0', b'"hours":%d' % 2**64),
            "lamps[0].hours",
            "is more than 64 bits",
        ),
        (document(lamps=[[]]), "lamps[0]", "Expected `object`, got `array`"),
        (encode(LAMP), "kind", "is 'Lamp', not 'House'"),
        (encode(BarnRecord(number=7, mac=HOUSE.mac, lamps=[])), "kind", "is 'Barn', not 'House'"),
        (encode(HOUSE).replace(b'"version":1', b'"version":2'), "version", "is 2, not 1"),
        (b"null", "", "Expected `object`, got `null`"),
        (b"{}", "kind", "is missing"),
    ],
)
def test_a_bad_record_is_refused_by_the_path_of_its_field(data: bytes, field: str, why: str) -> None:
    with pytest.raises(RecordError) as refused:
        decode(HouseRecord, data)
    assert (refused.value.field, refused.value.why) == (field, why)
    assert str(refused.value) == (f"{field}: {why}" if field else why)


def test_a_record_of_another_version_is_refused() -> None:
    data = encode(HOUSE).replace(b'"House"', b'"NewerHouse"')
    with pytest.raises(RecordError, match=r"^version: is 1, not 2$"):
        decode(NewerHouseRecord, data)


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b"[" * 100_000, b'{"kind":"Hou'], ids=repr)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        decode(HouseRecord, data)


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(RecordError):
        decode(HouseRecord, document(number=0).replace(b'"number":0', b'"number":' + b"9" * 5000))


def test_fields_are_checked_when_a_record_is_made() -> None:
    with pytest.raises(RecordError, match="hours: is more than 64 bits"):
        LampRecord(lit=True, colour="red", hours=2**64)


@given(st.data())
def test_cut_and_changed_bytes_are_refused_or_decoded(data: st.DataObject) -> None:
    good = encode(HOUSE)
    at = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(RecordError):
        decode(HouseRecord, good[:at])
    changed = bytearray(good)
    changed[at] = data.draw(st.integers(0, 255))
    try:
        decode(HouseRecord, bytes(changed))
    except RecordError:
        pass


def test_within_puts_the_place_in_front_of_the_field() -> None:
    with pytest.raises(RecordError) as refused, within("rings[3]"), within("state"):
        require(False, "size", "is odd")
    assert str(refused.value) == "rings[3].state.size: is odd"
    with pytest.raises(RecordError) as refused, within("lamps"):
        require(False, "[2]", "is odd")
    assert refused.value.field == "lamps[2]"
    with pytest.raises(RecordError) as refused, within("lamps"):
        require(False, "", "is malformed")
    assert refused.value.field == "lamps"


def _hours_came(fields: dict[str, Any]) -> dict[str, Any]:
    return {"lit": fields["on"], "hours": 0}


class CityLampRecord(Record, frozen=True):
    version = 3
    older: ClassVar[dict[int, Older]] = {1: _hours_came, 2: lambda fields: {**fields, "colour": "red"}}

    lit: bool
    hours: U64
    colour: str


def envelope(version: int, state: str) -> bytes:
    return f'{{"kind":"CityLamp","version":{version},"state":{state}}}'.encode()


def test_a_record_of_an_older_version_is_read() -> None:
    lamp = CityLampRecord(lit=True, hours=0, colour="red")
    assert decode(CityLampRecord, encode(lamp)) == lamp
    assert decode(CityLampRecord, envelope(1, '{"on":true}')) == lamp
    assert decode(CityLampRecord, envelope(2, '{"lit":true,"hours":0}')) == lamp


@pytest.mark.parametrize(
    ("version", "state", "why"),
    [
        (0, "{}", "version: is 0, not 3"),
        (4, "{}", "version: is 4, not 3"),
        (1, "{}", "of version 1 is malformed: KeyError('on')"),
        (1, "7", "Expected `object`, got `int`"),
        (2, "[]", "Expected `object`, got `array`"),
        (2, '{"lit":true,"hours":-1}', "hours: Expected `int` >= 0"),
    ],
)
def test_an_invalid_record_of_an_older_version_is_refused(version: int, state: str, why: str) -> None:
    with pytest.raises(RecordError) as refused:
        decode(CityLampRecord, envelope(version, state))
    assert str(refused.value) == why
