"""The JSON Schema of lab files, made from their types; `vnic lab schema` prints it, and docs/lab.schema.json is it."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from vnic.lab.file import clab
from vnic.lab.file.types import FileKeys

_IGNORED: Final = {
    "FileKeys": clab.TOP,
    "NodeKeys": clab.NODE,
    "LinkKeys": clab.LINK,
    "EndpointKeys": clab.ENDPOINT,
}
_NAMES: Final = {"FileKeys": "File"}


def schema() -> dict[str, Any]:
    """For editors: containerlab's keys that are ignored are in it, too, and say so."""
    found = msgspec.json.schema(FileKeys)
    definitions = found["$defs"]
    for name, ignored in _IGNORED.items():
        for key in sorted(ignored - definitions[name]["properties"].keys()):
            definitions[name]["properties"][key] = {"description": "containerlab's; ignored by vnic"}
    definitions["NodeKeys"]["properties"]["group"] = {
        "type": "string",
        "description": "the group to inherit from",
    }
    definitions["FileKeys"]["anyOf"] = [{"required": ["topology"]}, {"required": ["nodes"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a lab of vnic",
        **found,
    }


def schema_text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
