"""Converts arguments to Structs, with QEMU's error texts: QAPI's qobject-input-visitor over `shapes`.

QMP commands pass JSON values; the command line's key=value options and HMP pass strings (`strings=True`: `on`, `0x10`,
`64k`). The result is an instance of the option's Struct, or a NetError.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeAlias, TypeVar, cast

from vnic.monitor.schema.shapes import (
    Array,
    Builtin,
    Enumeration,
    Integer,
    Member,
    Object,
    Shape,
    Union,
    shape_of,
)
from vnic.net.errors import NetError
from vnic.protocol.keyval import Repeated

T = TypeVar("T")
Visit: TypeAlias = Callable[[Any, str], object]
"""Checks and converts one value; the second argument is its full name, "" for the root."""


class Form(Enum):
    """The form of the leaves."""

    JSON = auto()
    STRINGS = auto()
    """Strings, as on a command line."""
    OPTS = auto()
    """The same, with the texts of QEMU's older visitor (qapi/opts-visitor.c)."""
    LENIENT = auto()
    """As JSON, but a string in the form of the command line is accepted, too; errors have the texts for JSON."""

    @property
    def strings(self) -> bool:
        return self in (Form.STRINGS, Form.OPTS)


def convert(target: type[T], data: object, *, strings: bool = False) -> T:
    """Check `data` against a Struct and make an instance of it.

    With `strings`, the leaves are strings as on a command line. Raises NetError as QEMU's visitor would.
    """
    return cast(T, _compiled(cast(Any, target), strings)(data, ""))


def convert_to_shape(shape: Shape, data: object, *, strings: bool = False) -> object:
    """The same for a shape, as `unions` makes them; returns an instance of the branch's Struct."""
    return compile_shape(shape, strings)(data, "")


@functools.cache
def _compiled(target: type, strings: bool) -> Visit:
    return compile_shape(shape_of(target), strings)


def compile_shape(shape: Shape, strings: bool = False) -> Visit:
    """Make the function that checks and converts values of that shape."""
    return _compile(shape, Form.STRINGS if strings else Form.JSON)


def _compile(shape: Shape, form: Form) -> Visit:
    match shape:
        case Object():
            return _object(shape, form)
        case Union():
            return _union(shape, Form.LENIENT if shape.lenient and form is Form.JSON else form)
        case Array():
            return _array(shape.element, form)
        case Enumeration():
            return _enumeration(shape, _text if form.strings else _str)
        case Integer():
            return _leaf(_integer(shape, _int(shape)), _integer(shape, _parse_int(shape, form)), form)
        case Builtin(name):
            strings = _OPTS if form is Form.OPTS else _STRINGS
            return _leaf(_JSON[name], strings[name], form)


def _leaf(json_: Visit, string: Visit, form: Form) -> Visit:
    if form is not Form.LENIENT or string is _text:
        return string if form.strings else json_

    def visit(value: object, name: str) -> object:
        if isinstance(value, str):
            try:
                return string(value, name)
            except NetError:
                pass
        return json_(value, name)

    return visit


# -- errors (qapi/qobject-input-visitor.c, include/qapi/qmp/qerror.h) -------------------------------------------


def _missing(name: str) -> NetError:
    return NetError(f"Parameter '{name}' is missing")


def _wrong_type(name: str, expected: str) -> NetError:
    return NetError(f"Invalid parameter type for '{name or '<anonymous>'}', expected: {expected}")


def _expects(name: str, what: str) -> NetError:
    return NetError(f"Parameter '{name}' expects {what}")


def _last(name: str) -> str:
    """The last part of the name, as in the texts of enumerations and of integer ranges."""
    last = name.rpartition(".")[2]
    return "null" if last.endswith("]") or last.isdigit() else last


# -- JSON values ------------------------------------------------------------------------------------------------


def _str(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    raise _wrong_type(name, "string")


def _bool(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong_type(name, "boolean")


def _number(value: object, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _wrong_type(name, "number")


def _null(value: object, name: str) -> None:
    if value is not None:
        raise _wrong_type(name, "null")


def _any(value: object, name: str) -> object:
    return value


def _int(shape: Integer) -> Callable[[object, str], int]:
    def visit(value: object, name: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and (shape.unsigned or value < 1 << 63):
            return value
        raise _expects(name, "uint64") if shape.unsigned else _wrong_type(name, "integer")

    return visit


# -- strings ----------------------------------------------------------------------------------------------------


def _text(value: object, name: str) -> str:
    """A leaf as a string; JSON scalars are accepted in their text form (qemu_opts_from_qdict)."""
    match value:
        case str():
            return value
        case bool():
            return "on" if value else "off"
        case int():
            return str(value)
        case float():
            return f"{value:.17g}"
        case None:
            raise _wrong_type(name, "string")
    raise NetError(f"Parameters '{name}.*' are unexpected")


_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})


def _parse_bool(value: object, name: str) -> bool:
    text = _text(value, name)
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _expects(name, "'on' or 'off'")


# strtoll's base 0: 0x10 and 010 are 16 and 8.
_C_INTEGER = re.compile(r"\s*([+-]?)(?:(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")


def _parse_int(shape: Integer, form: Form) -> Callable[[object, str], int]:
    low, high = (0, (1 << 64) - 1) if shape.unsigned else (-(1 << 63), (1 << 63) - 1)
    what, lowest = "integer", -(1 << 63)  # the newer visitor leaves the sign to the range check
    if form is Form.OPTS:
        what, lowest = "a uint64 value" if shape.unsigned else "an int64 value", low

    def visit(value: object, name: str) -> int:
        match = _C_INTEGER.fullmatch(_text(value, name))
        if match is None or len(match[0]) > 64:
            raise _expects(name, what)
        sign, hexadecimal, octal, decimal = match.groups()
        number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
        number = -number if sign == "-" else number
        if not lowest <= number <= high:
            raise _expects(name, what)
        return number

    return visit


_SIZE = re.compile(r"\s*\+?([0-9]+(?:\.[0-9]+)?)([bkmgtpe]?)", re.IGNORECASE)


def _parse_size(what: str) -> Visit:
    """Bytes, with an optional suffix of 1024s (qemu_strtosz)."""

    def visit(value: object, name: str) -> int:
        match = _SIZE.fullmatch(_text(value, name))
        if match is None or len(match[0]) > 64:
            raise _expects(name, what)
        suffix = match[2].lower() or "b"
        if "." in match[1] and suffix == "b":
            raise _expects(name, what)
        whole = float(match[1]) if "." in match[1] else int(match[1])
        size = int(whole * 1024 ** "bkmgtpe".index(suffix))
        if size >= 1 << 64:
            raise _expects(name, what)
        return size

    return visit


def _parse_number(value: object, name: str) -> float:
    try:
        number = float(_text(value, name))
    except ValueError:
        raise _expects(name, "number") from None
    if not math.isfinite(number):
        raise _expects(name, "number")
    return number


_UINT64 = Integer(0, (1 << 64) - 1, "uint64_t")

_JSON: dict[str, Visit] = {
    "str": _str,
    "bool": _bool,
    "number": _number,
    "any": _any,
    "null": _null,
    "size": _int(_UINT64),
}
_STRINGS: dict[str, Visit] = {
    "str": _text,
    "bool": _parse_bool,
    "number": _parse_number,
    "any": _any,
    "null": _null,
    "size": _parse_size("size"),
}
_OPTS = {**_STRINGS, "size": _parse_size("a size value")}


# -- composed ---------------------------------------------------------------------------------------------------


def _integer(shape: Integer, leaf: Callable[[object, str], int]) -> Visit:
    low, high = shape.low, shape.high
    what = shape.name or f"a value from {low} to {high}"

    def visit(value: object, name: str) -> int:
        number = leaf(value, name)
        if low <= number <= high:
            return number
        raise _expects(_last(name), what)

    return visit


def _enumeration(shape: Enumeration, leaf: Callable[[object, str], str]) -> Visit:
    values, make = frozenset(shape.values), shape.make

    def visit(value: object, name: str) -> object:
        text = leaf(value, name)
        if text not in values:
            raise NetError(f"Parameter '{_last(name)}' does not accept value '{text}'")
        return make(text)

    return visit


def _array(shape: Shape, form: Form) -> Visit:
    element = _compile(shape, form)
    child = "{}.{}" if form.strings else "{}[{}]"
    # QAPI's String: in an option string its only member is the item itself (qapi/opts-visitor.c).
    members = shape.members if isinstance(shape, Object) else ()
    fat = form.strings and [member.shape for member in members] == [Builtin("str")]

    def visit(value: object, name: str) -> object:
        if fat and isinstance(value, str):
            texts = value.all if isinstance(value, Repeated) else (value,)
            value = [{members[0].name: text} for text in texts]
        if not isinstance(value, list):
            raise _wrong_type(name, "array")
        return [element(item, child.format(name, index)) for index, item in enumerate(value)]

    return visit


_Members: TypeAlias = list[tuple[str, str, bool, Visit]]


def _members(members: tuple[Member, ...], form: Form) -> _Members:
    return [
        (member.name, member.attribute, member.required, _compile(member.shape, form)) for member in members
    ]


def _visit_members(members: _Members, data: dict[str, object], prefix: str, into: dict[str, object]) -> int:
    """Convert the given members in the schema's order; returns their number."""
    found = 0
    for name, attribute, required, visit in members:
        if name in data:
            found += 1
            into[attribute] = visit(data[name], prefix + name)
        elif required:
            raise _missing(prefix + name)
    return found


def _dict(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong_type(name, "object")
    return value


def _object(shape: Object, form: Form) -> Visit:
    members, make = _members(shape.members, form), shape.make

    def visit(value: object, name: str) -> object:
        if not isinstance(value, dict):
            raise _wrong_type(name, "object")
        prefix = name + "." if name else ""
        attributes: dict[str, object] = {}
        if _visit_members(members, value, prefix, attributes) != len(value):
            known = {member[0] for member in members}
            raise _unexpected(prefix, next(key for key in value if key not in known))
        return make(**attributes)

    return visit


def _unexpected(prefix: str, key: str) -> NetError:
    return NetError(f"Parameter '{prefix}{key}' is unexpected")


def _union(shape: Union, form: Form) -> Visit:
    tag_name = shape.tag
    base = _members(shape.base, form)
    own = {member.name for member in shape.base}
    rest = {
        tag: _members(
            tuple(m for m in branch.members if m.name not in own),
            Form.OPTS if form is Form.STRINGS and tag in shape.older else form,
        )
        for tag, branch in shape.branches.items()
    }

    def tag_of(data: dict[str, object], prefix: str) -> str:
        given = data.get(tag_name)
        if tag_name not in data or (shape.lenient and not isinstance(given, str)):
            raise _missing(prefix + tag_name)
        tag = (_text if form.strings else _str)(given, prefix + tag_name)
        if tag in shape.branches:
            return tag
        if shape.unknown is not None:
            raise shape.unknown(tag)
        raise NetError(f"Parameter '{tag_name}' does not accept value '{tag}'")

    heads = own.union(*([member[0] for member in members] for members in rest.values()))

    def visit(value: object, name: str) -> object:
        data = _dict(value, name)
        if form is Form.LENIENT:
            data = _nested(data, heads)
        prefix = name + "." if name else ""
        attributes: dict[str, object] = {}
        tag = None if shape.tag_last else tag_of(data, prefix)
        found = _visit_members(base, data, prefix, attributes)
        tag = tag_of(data, prefix) if tag is None else tag
        found += _visit_members(rest[tag], data, prefix, attributes)
        if found + 1 != len(data):
            known = {tag_name, *own, *(member[0] for member in rest[tag])}
            key = next(key for key in data if key not in known)
            raise shape.unexpected(tag, key) if shape.unexpected is not None else _unexpected(prefix, key)
        return shape.branches[tag].make(**attributes)

    return visit


def _nested(data: dict[str, object], heads: set[str]) -> dict[str, object]:
    """Convert "a.b": c, where `a` is a member, to "a": {"b": c}, because clients copy members from option strings."""
    nested: dict[str, object] = {}
    inners: dict[str, dict[str, object]] = {}
    for key, value in data.items():
        head, dot, tail = key.partition(".")
        if dot and head in heads:
            inners.setdefault(head, {})[tail] = value
        else:
            nested[key] = value
    for head, inner in inners.items():
        given = nested.get(head, {})
        if not isinstance(given, dict) or given.keys() & inner.keys():
            return data  # given twice
        nested[head] = {**given, **inner}
    return nested
