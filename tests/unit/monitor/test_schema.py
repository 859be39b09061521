"""Tests of Structs as QAPI types: conversion of JSON and of option strings, QEMU's texts, and the unions."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.schema import (
    convert,
    convert_to_shape,
    device_options,
    netdev_options,
    object_options,
)
from vnic.monitor.schema.shapes import shape_of
from vnic.net.errors import NetError


class Color(enum.StrEnum):
    RED = "red"
    DARK_BLUE = "dark-blue"


class Cat(msgspec.Struct, tag_field="kind", tag="cat", rename="kebab"):
    name: str
    nine_lives: bool = True


class Dog(msgspec.Struct, tag_field="kind", tag="dog"):
    name: str
    tricks: list[str] = []


class Options(msgspec.Struct, rename="kebab", kw_only=True):
    text: str = ""
    on: bool = False
    plain: int = 0
    small: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    signed: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    big: Annotated[int, msgspec.Meta(ge=0)] = 0
    rounds: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    size: Annotated[int, msgspec.Meta(extra={"qapi": "size"})] = 0
    ratio: float = 0.0
    color: Color = Color.RED
    word: Literal["a", "b"] | None = None
    pet: Cat | Dog | None = None
    some_pets: list[Cat | Dog] = []
    anything: Any = None


def refused(data: object, strings: bool = False) -> str:
    with pytest.raises(NetError) as caught:
        convert(Options, data, strings=strings)
    assert caught.value.error_class == "GenericError"
    return caught.value.desc


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, Options()),
        ({"text": "x", "on": True, "plain": -5}, Options(text="x", on=True, plain=-5)),
        (
            {"small": 255, "signed": -128, "big": (1 << 64) - 1},
            Options(small=255, signed=-128, big=(1 << 64) - 1),
        ),
        ({"ratio": 1, "size": 4096}, Options(ratio=1.0, size=4096)),
        ({"color": "dark-blue", "word": "b"}, Options(color=Color.DARK_BLUE, word="b")),
        ({"pet": {"kind": "cat", "name": "t", "nine-lives": False}}, Options(pet=Cat("t", False))),
        (
            {"some-pets": [{"kind": "dog", "name": "r", "tricks": ["x"]}]},
            Options(some_pets=[Dog("r", ["x"])]),
        ),
        ({"anything": {"x": [1, None]}}, Options(anything={"x": [1, None]})),
    ],
)
def test_json(data: object, expected: Options) -> None:
    assert convert(Options, data) == expected


@pytest.mark.parametrize(
    ("data", "desc"),
    [
        ([], "Invalid parameter type for '<anonymous>', expected: object"),
        ({"text": 1}, "Invalid parameter type for 'text', expected: string"),
        ({"text": None}, "Invalid parameter type for 'text', expected: string"),
        ({"on": 1}, "Invalid parameter type for 'on', expected: boolean"),
        ({"plain": True}, "Invalid parameter type for 'plain', expected: integer"),
        ({"plain": 1.5}, "Invalid parameter type for 'plain', expected: integer"),
        ({"plain": 1 << 63}, "Invalid parameter type for 'plain', expected: integer"),
        ({"small": "1"}, "Parameter 'small' expects uint64"),
        ({"small": 256}, "Parameter 'small' expects uint8_t"),
        ({"small": -1}, "Parameter 'small' expects uint8_t"),
        ({"signed": 128}, "Parameter 'signed' expects int8_t"),
        ({"rounds": 10}, "Parameter 'rounds' expects a value from 1 to 9"),
        ({"ratio": "x"}, "Invalid parameter type for 'ratio', expected: number"),
        ({"color": "mauve"}, "Parameter 'color' does not accept value 'mauve'"),
        ({"pet": 1}, "Invalid parameter type for 'pet', expected: object"),
        ({"pet": {}}, "Parameter 'pet.kind' is missing"),
        ({"pet": {"kind": "cow"}}, "Parameter 'kind' does not accept value 'cow'"),
        ({"pet": {"kind": "cat"}}, "Parameter 'pet.name' is missing"),
        ({"pet": {"kind": "cat", "name": "t", "tricks": []}}, "Parameter 'pet.tricks' is unexpected"),
        ({"some-pets": {}}, "Invalid parameter type for 'some-pets', expected: array"),
        ({"some-pets": [1]}, "Invalid parameter type for 'some-pets[0]', expected: object"),
        (
            {"some-pets": [{"kind": "dog", "name": "r", "tricks": ["x", 2]}]},
            "Invalid parameter type for 'some-pets[0].tricks[1]', expected: string",
        ),
        ({"some_pets": []}, "Parameter 'some_pets' is unexpected"),
    ],
)
def test_json_refused(data: object, desc: str) -> None:
    assert refused(data) == desc


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"on": "on"}, Options(on=True)),
        ({"on": "no"}, Options()),
        ({"plain": "-0x10", "small": "010"}, Options(plain=-16, small=8)),
        ({"plain": " 7", "big": "0"}, Options(plain=7)),
        ({"size": "64k"}, Options(size=65536)),
        ({"size": "1.5M"}, Options(size=3 << 19)),
        ({"ratio": "1e3"}, Options(ratio=1000.0)),
        ({"pet": {"kind": "cat", "name": "t", "nine-lives": "off"}}, Options(pet=Cat("t", False))),
        ({"some-pets": [{"kind": "dog", "name": "r"}]}, Options(some_pets=[Dog("r")])),
        ({"on": True, "plain": 3, "text": False}, Options(on=True, plain=3, text="off")),
    ],
)
def test_strings(data: object, expected: Options) -> None:
    assert convert(Options, data, strings=True) == expected


@pytest.mark.parametrize(
    ("data", "desc"),
    [
        ({"on": "maybe"}, "Parameter 'on' expects 'on' or 'off'"),
        ({"plain": ""}, "Parameter 'plain' expects integer"),
        ({"plain": "1x"}, "Parameter 'plain' expects integer"),
        ({"plain": "08"}, "Parameter 'plain' expects integer"),
        ({"plain": "9" * 30}, "Parameter 'plain' expects integer"),
        ({"plain": "9" * 5000}, "Parameter 'plain' expects integer"),
        ({"small": "-1"}, "Parameter 'small' expects uint8_t"),
        ({"size": "1q"}, "Parameter 'size' expects size"),
        ({"size": "16E"}, "Parameter 'size' expects size"),
        ({"ratio": "nan"}, "Parameter 'ratio' expects number"),
        ({"text": {"a": "b"}}, "Parameters 'text.*' are unexpected"),
        ({"some-pets": "x"}, "Invalid parameter type for 'some-pets', expected: array"),
        ({"some-pets": [{"kind": "dog"}]}, "Parameter 'some-pets.0.name' is missing"),
        (
            {"some-pets": [{"kind": "dog", "name": "r", "tricks": [{}]}]},
            "Parameters 'some-pets.0.tricks.0.*' are unexpected",
        ),
    ],
)
def test_strings_refused(data: object, desc: str) -> None:
    assert refused(data, strings=True) == desc


def test_type_without_qapi_equivalent_is_refused() -> None:
    with pytest.raises(TypeError, match="QAPI has no type like"):
        shape_of(set[int])
    with pytest.raises(TypeError, match="only tagged Structs"):
        shape_of(int | str)


# -- unions over what the machine has ---------------------------------------------------------------------------


def test_netdev_checks_id_before_type() -> None:
    shape = netdev_options(FakeMachine().netdev_types)
    with pytest.raises(NetError, match="'id' is missing"):
        convert_to_shape(shape, {"type": "bogus"})
    with pytest.raises(NetError, match="'type' is missing"):
        convert_to_shape(shape, {"id": "a"})


def test_object_checks_type_before_id() -> None:
    shape = object_options(FakeMachine().object_types)
    with pytest.raises(NetError, match="does not accept value 'bogus'"):
        convert_to_shape(shape, {"qom-type": "bogus"})
    with pytest.raises(NetError, match="does not accept value 'filter-dump'"):
        convert_to_shape(object_options({}), {"qom-type": "filter-dump", "id": "a"})


class Inner(msgspec.Struct):
    path: str
    server: bool = True


class Card(msgspec.Struct, tag_field="driver", tag="card"):
    id: str | None = None
    attach: Inner | None = None


CARDS = device_options({"card": Card})


@pytest.mark.parametrize(
    "attach",
    [
        {"attach": {"path": "s", "server": False}},
        {"attach.path": "s", "attach.server": "off"},
        {"attach": {"path": "s"}, "attach.server": False},
    ],
)
def test_device_accepts_members_of_option_string(attach: dict[str, object]) -> None:
    """`attach.path=s`, as for -device, may be copied into device_add's JSON."""
    given = {"driver": "card", "id": "a", **attach}
    before = dict(given)
    assert convert_to_shape(CARDS, given) == Card("a", Inner("s", False))
    assert given == before


@pytest.mark.parametrize(
    ("attach", "desc"),
    [
        ({"attach": {"path": "s"}, "attach.path": "s"}, "Property 'card.attach.path' not found"),
        ({"attach": "s", "attach.path": "s"}, "Invalid parameter type for 'attach', expected: object"),
        ({"other.path": "s"}, "Property 'card.other.path' not found"),
        ({"attach.no": "s"}, "Parameter 'attach.path' is missing"),
        ({"attach.path": "s", "attach.no": "s"}, "Parameter 'attach.no' is unexpected"),
        ({"attach.": "s", "attach.path": "s"}, "Parameter 'attach.' is unexpected"),
    ],
)
def test_bad_members_of_option_string_are_refused(attach: dict[str, object], desc: str) -> None:
    with pytest.raises(NetError) as caught:
        convert_to_shape(CARDS, {"driver": "card", **attach})
    assert caught.value.desc == desc
