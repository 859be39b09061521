"""Validates what a verb printed with --json by its schema in docs/schemas, in which nothing may be unnamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def validate(words: str, text: str) -> Any:
    """What was printed by `vnic WORDS --json`; it may have no member that the schema does not name."""
    path = SCHEMAS / f"{words.replace(' ', '-')}.json"
    assert path.exists(), (
        f"vnic {words} --json has no schema: give it a row in vnic/reference/shapes.py, make schemas"
    )
    found = json.loads(text)
    jsonschema.validate(found, _closed(json.loads(path.read_text())))
    return found


def _closed(node: Any) -> Any:
    """The schema, in which objects have no members but those that it names."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed
