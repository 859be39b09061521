"""The QAPI type of a Python type: the model that argument checking and introspection share.

`shape_of` reads msgspec's view of a Struct; `unions` makes the unions whose branches depend on the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect

from vnic.net.errors import NetError

Shape: TypeAlias = "Builtin | Integer | Enumeration | Array | Object | Union"


@dataclass(frozen=True, slots=True)
class Builtin:
    """A type that QAPI has built in: str, bool, number, size, any, null."""

    name: str


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer from `low` to `high`; `name` is the C type in QEMU's error texts, if there is one."""

    low: int
    high: int
    name: str | None

    @property
    def unsigned(self) -> bool:
        return self.low >= 0


@dataclass(frozen=True, slots=True)
class Enumeration:
    """Strings of a fixed set; `make` returns the value for the Struct."""

    values: tuple[str, ...]
    make: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Array:
    element: Shape


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: its name on the wire, the Struct's attribute, and whether it is required."""

    name: str
    attribute: str
    shape: Shape
    required: bool


@dataclass(frozen=True, slots=True)
class Object:
    """A Struct; `make` takes its attributes as keywords."""

    make: Callable[..., object]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """Structs that the member `tag` distinguishes.

    `base` names their common members, which are checked before the branch is known.
    """

    tag: str
    branches: Mapping[str, Object]
    base: tuple[Member, ...] = ()
    tag_last: bool = False
    """Whether the tag follows the base's members in QEMU's schema, which determines the first error."""
    lenient: bool = False
    """Whether members may be strings where another type is expected, and `outer.inner` beside the others."""
    older: frozenset[str] = frozenset()
    """Branches whose option strings QEMU reads with its older visitor, which has other texts."""
    unknown: Callable[[str], NetError] | None = None
    """The error for a tag without a branch, instead of QAPI's for an enumeration."""
    unexpected: Callable[[str, str], NetError] | None = None
    """The error for a member that the branch does not have, from the tag and its name."""


INT64 = Integer(-(1 << 63), (1 << 63) - 1, "int64")
_BY_BOUNDS = {
    (shape.low, shape.high): shape
    for bits in (8, 16, 32, 64)
    for shape in (
        Integer(0, (1 << bits) - 1, f"uint{bits}_t"),
        Integer(-(1 << bits - 1), (1 << bits - 1) - 1, f"int{bits}_t"),
    )
}


@functools.cache
def shape_of(python_type: Any) -> Shape:
    """The shape of a Python type; TypeError if QAPI has no equivalent."""
    return _shape(inspect.type_info(python_type))


def object_of(struct: type[msgspec.Struct]) -> Object:
    """The shape of one Struct, whatever its tag."""
    shape = shape_of(struct)
    if isinstance(shape, Union):
        (branch,) = shape.branches.values()
        return branch
    assert isinstance(shape, Object)
    return shape


def _shape(info: inspect.Type) -> Shape:
    match info:
        case inspect.Metadata():
            # Meta(extra={"qapi": "size"}) marks a number of bytes, which in strings may have a suffix (64k);
            # "wrapped" a union whose members are in a member `data`, as in QAPI's older ones.
            if (info.extra or {}).get("qapi") == "size":
                return Builtin("size")
            if (info.extra or {}).get("qapi") == "wrapped":
                return _wrapped(_shape(info.type))
            return _shape(info.type)
        case inspect.StrType():
            return Builtin("str")
        case inspect.BoolType():
            return Builtin("bool")
        case inspect.FloatType():
            return Builtin("number")
        case inspect.AnyType() | inspect.DictType():
            return Builtin("any")
        case inspect.NoneType():
            return Builtin("null")
        case inspect.IntType():
            return _integer(info)
        case inspect.EnumType():
            return Enumeration(tuple(str(member.value) for member in info.cls), info.cls)
        case inspect.LiteralType():
            return Enumeration(tuple(str(value) for value in info.values), str)
        case inspect.ListType() | inspect.VarTupleType():
            return Array(_shape(info.item_type))
        case inspect.StructType():
            branch = Object(info.cls, tuple(_members(info)))
            if info.tag_field is None:
                return branch
            return Union(info.tag_field, {str(info.tag): branch})
        case inspect.UnionType():
            return _union([each for each in info.types if not isinstance(each, inspect.NoneType)])
    raise TypeError(f"QAPI has no type like {info!r}")


def _integer(info: inspect.IntType) -> Integer:
    if info.ge is None and info.gt is None and info.le is None and info.lt is None:
        return INT64
    unbounded_low = info.ge is None and info.gt is None
    low = info.ge if info.ge is not None else info.gt + 1 if info.gt is not None else INT64.low
    ceiling = INT64.high if unbounded_low or low < 0 else (1 << 64) - 1
    high = info.le if info.le is not None else info.lt - 1 if info.lt is not None else ceiling
    return _BY_BOUNDS.get((low, high)) or Integer(low, high, None)


def _members(info: inspect.StructType) -> Iterable[Member]:
    for field in info.fields:
        yield Member(field.encode_name, field.name, _shape(field.type), field.required)


def _union(infos: list[inspect.Type]) -> Shape:
    """`X | None` is an optional X; several tagged Structs are a QAPI union."""
    if len(infos) == 1:
        return _shape(infos[0])
    shapes = [_shape(info) for info in infos]
    branches: dict[str, Object] = {}
    for shape in shapes:
        if not isinstance(shape, Union):
            raise TypeError(f"only tagged Structs make a QAPI union, not {infos!r}")
        branches.update(shape.branches)
    classes = [info.cls for info in infos if isinstance(info, inspect.StructType)]
    first = shapes[0]
    assert isinstance(first, Union)
    return Union(first.tag, branches, base_members(branches, _common_fields(classes)))


def wrapped(branches: Mapping[str, Object], tag: str = "type") -> Union:
    """A union each of whose branches is wrapped in a member `data`."""
    return Union(
        tag,
        {name: Object(_unwrap, (Member("data", "data", shape, True),)) for name, shape in branches.items()},
    )


def _wrapped(shape: Shape) -> Union:
    assert isinstance(shape, Union)
    return wrapped(shape.branches, shape.tag)


def _unwrap(data: object) -> object:
    return data


def _common_fields(classes: list[type]) -> frozenset[str]:
    """The attributes of the nearest common base Struct of `classes`."""
    for ancestor in classes[0].__mro__[1:]:
        if ancestor is msgspec.Struct:
            break
        if issubclass(ancestor, msgspec.Struct) and all(issubclass(cls, ancestor) for cls in classes):
            return frozenset(ancestor.__struct_fields__)
    return frozenset()


def base_members(branches: Mapping[str, Object], attributes: Iterable[str]) -> tuple[Member, ...]:
    """The members of those attributes, as the first branch has them."""
    first = next(iter(branches.values()), None)
    if first is None:
        return ()
    return tuple(member for member in first.members if member.attribute in frozenset(attributes))
