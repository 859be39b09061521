"""The published JSON Schema is current, and says what is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnic.cli.main import main
from vnic.lab.file import clab
from vnic.lab.file.schema import schema, schema_text
from vnic.lab.file.types import KEYS_OF, NodeKeys

DOCS = Path(__file__).parents[4] / "docs"


def test_the_published_schema_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "schema"]) == 0
    assert capsys.readouterr().out == schema_text() == (DOCS / "lab.schema.json").read_text()


def test_it_has_containerlabs_keys() -> None:
    node = schema()["$defs"]["NodeKeys"]
    assert node["additionalProperties"] is False
    assert node["properties"].keys() >= clab.NODE


def test_each_key_of_a_node_belongs_to_a_kind() -> None:
    assert frozenset().union(*KEYS_OF.values()) == set(NodeKeys.__struct_encode_fields__) - {"kind"}
