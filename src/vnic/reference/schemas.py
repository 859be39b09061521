"""The JSON Schemas of what the verbs print with --json, made from the types: docs/schemas.

`make schemas` runs it. A member's description is the string below it in its class.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect as types_of

from vnic.net.records import Note
from vnic.reference.answers import LoggedChange
from vnic.reference.shapes import NOTES, SHAPES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REF: Final = "#/$defs/"
HIDDEN: Final = (LoggedChange, Note)
"""Types that are named by a `Record` only."""

Schema = dict[str, Any]


def schema(words: str) -> Schema:
    """Of a form, as `link show`."""
    types = (*SHAPES[words], *HIDDEN)
    given, definitions = msgspec.json.schema_components(types, ref_template=f"{REF}{{name}}")
    shown = list(given[: len(SHAPES[words])])
    for name, each in _classes(types).items():
        _describe(definitions[name], each)
    whole: Schema = shown[0] if len(shown) == 1 else {"anyOf": shown}
    found = {"$schema": DIALECT, "title": f"vnic {words} --json", "description": NOTES[words], **whole}
    used = _reachable(found, definitions)
    return {**found, "$defs": used} if used else found


def _reachable(found: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The definitions that `found` refers to, and those that they refer to."""
    names: set[str] = set()
    pending = list(_refs(found))
    while pending:
        name = pending.pop()
        if name not in names:
            names.add(name)
            pending += _refs(definitions[name])
    return {name: definitions[name] for name in sorted(names)}


def _refs(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value.removeprefix(REF)
            else:
                yield from _refs(value)
    elif isinstance(node, list):
        for each in node:
            yield from _refs(each)


# -- descriptions ---------------------------------------------------------------------------------------------------


def _classes(types: tuple[Any, ...]) -> dict[str, type]:
    """The classes that have definitions, by name."""
    found: dict[str, type] = {}
    pending: list[object] = list(types_of.multi_type_info(types))
    while pending:
        each = pending.pop()
        if isinstance(each, types_of.StructType | types_of.DataclassType):
            if each.cls.__name__ in found:
                continue
            found[each.cls.__name__] = each.cls
            pending += [field.type for field in each.fields]
        elif isinstance(each, types_of.Type):
            for name in each.__struct_fields__:
                value = getattr(each, name)
                pending += value if isinstance(value, tuple) else [value]
    return found


def _describe(definition: Schema, cls: type) -> None:
    """Give each member the string below it in the class."""
    texts = _texts(cls)
    for name, member in definition.get("properties", {}).items():
        text = texts.get(name)
        if text is None:
            continue
        if "$ref" in member:  # beside a reference, older validators see no other key
            member["allOf"] = [{"$ref": member.pop("$ref")}]
        member.setdefault("description", text)


def _texts(cls: type) -> dict[str, str]:
    """The strings below the fields of a class and of those that it inherits from, by the names on the wire."""
    attributes: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if each.__module__.startswith("vnic."):
            attributes.update(_own_texts(each))
    wire = {name: name for name in attributes}
    if issubclass(cls, msgspec.Struct):
        wire = {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    return {wire[name]: text for name, text in attributes.items() if name in wire}


@functools.cache
def _own_texts(cls: type) -> Mapping[str, str]:
    texts: dict[str, str] = {}
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    for field, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(below.value.value).replace("\n", " ")
    return texts


# -- files ----------------------------------------------------------------------------------------------------------


def files() -> dict[str, str]:
    """All of docs/schemas, by name."""
    return {f"{words.replace(' ', '-')}.json": _text(schema(words)) for words in SHAPES}


def _text(found: Schema) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def main(folder: Path) -> None:
    """Write them, and remove those of forms that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    made = files()
    for path in folder.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
