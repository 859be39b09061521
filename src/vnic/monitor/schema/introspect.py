"""query-qmp-schema: the implemented commands and types, as QEMU's SchemaInfo (qapi/introspect.json).

`commands.control` calls it. It is derived from the command table, Structs and events that serve the requests, so that
it always matches them. As in QEMU, types that are not built in have numbers as names: clients follow them, and do not
know them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from vnic.monitor.schema.shapes import (
    Array,
    Builtin,
    Enumeration,
    Integer,
    Object,
    Shape,
    Union,
)

SchemaInfo: TypeAlias = dict[str, object]

_JSON_TYPES = {
    "str": "string",
    "int": "int",
    "number": "number",
    "bool": "boolean",
    "null": "null",
    "any": "value",
}


class Introspection:
    """Makes SchemaInfos; one type has one name."""

    def __init__(self) -> None:
        self._types: dict[str, SchemaInfo] = {}
        self._names: dict[str, str] = {}

    def command(self, name: str, arguments: Shape | None, returns: Shape | None) -> SchemaInfo:
        """A command's entry; None stands for no arguments, and for nothing returned."""
        return {
            "name": name,
            "meta-type": "command",
            "arg-type": self._name(arguments or _EMPTY),
            "ret-type": self._name(returns or _EMPTY),
        }

    def event(self, name: str, data: Shape | None) -> SchemaInfo:
        return {"name": name, "meta-type": "event", "arg-type": self._name(data or _EMPTY)}

    def types(self) -> list[SchemaInfo]:
        """The entries of all types that the others named."""
        return list(self._types.values())

    # -- types --------------------------------------------------------------------------------------------------

    def _name(self, shape: Shape) -> str:
        match shape:
            case Builtin("size") | Integer():
                return self._builtin("int")
            case Builtin(name):
                return self._builtin(name)
            case Array():
                element = self._name(shape.element)
                return self._add(f"[{element}]", {"meta-type": "array", "element-type": element})
            case Enumeration():
                return self._enum(shape.values)
            case Object():
                return self._typed({"meta-type": "object", "members": self._members(shape)})
            case Union():
                return self._union(shape)

    def _builtin(self, name: str) -> str:
        return self._add(name, {"meta-type": "builtin", "json-type": _JSON_TYPES[name]})

    def _enum(self, values: Iterable[str]) -> str:
        values = list(values)
        members = [{"name": value} for value in values]
        return self._typed({"meta-type": "enum", "members": members, "values": values})

    def _members(self, shape: Object, without: frozenset[str] = frozenset()) -> list[SchemaInfo]:
        members = []
        for member in shape.members:
            if member.name in without:
                continue
            info: SchemaInfo = {"name": member.name, "type": self._name(member.shape)}
            if not member.required:
                info["default"] = None  # SchemaInfoObjectMember: "null" is "optional, default unspecified"
            members.append(info)
        return members

    def _union(self, shape: Union) -> str:
        base = frozenset(member.name for member in shape.base)
        tag: SchemaInfo = {"name": shape.tag, "type": self._enum(shape.branches)}
        members = [tag, *self._members(Object(dict, shape.base))]
        variants = [
            {
                "case": case,
                "type": self._typed({"meta-type": "object", "members": self._members(branch, base)}),
            }
            for case, branch in shape.branches.items()
        ]
        return self._typed(
            {"meta-type": "object", "members": members, "tag": shape.tag, "variants": variants}
        )

    def _typed(self, info: SchemaInfo) -> str:
        """The number of a type; a new type gets the next one."""
        key = repr(info)
        name = self._names.setdefault(key, str(len(self._names)))
        return self._add(name, info)

    def _add(self, name: str, info: SchemaInfo) -> str:
        self._types.setdefault(name, {"name": name, **info})
        return name


_EMPTY = Object(dict, ())
