"""docs/schemas: a schema for each form with --json, made from the types, and valid itself."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from vnic.reference.forms import json_forms
from vnic.reference.schemas import files, main, schema
from vnic.reference.shapes import NOTES, SHAPES

FOLDER = Path(__file__).parents[3] / "docs/schemas"


def test_each_form_with_json_has_a_shape() -> None:
    missing = [form for form in json_forms() if form not in SHAPES or form not in NOTES]
    assert not missing, f"these take --json and have no row in vnic/reference/shapes.py: {missing}"
    gone = set(SHAPES) - set(json_forms())
    assert not gone, f"these have a row in vnic/reference/shapes.py, and take no --json: {gone}"
    assert list(SHAPES) == list(NOTES)


def test_the_schemas_in_docs_are_those_of_the_types() -> None:
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    stale = sorted(name for name, text in files().items() if found.get(name) != text)
    assert not stale, f"docs/schemas is older than the types ({', '.join(stale)}): make schemas"
    assert sorted(found) == sorted(files()), "docs/schemas has a file of a form that is no more: make schemas"


@pytest.mark.parametrize("form", SHAPES)
def test_a_schema_is_one(form: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(form))


def test_members_are_described_by_the_strings_below_them() -> None:
    links = schema("link show")["$defs"]["LinkInfo"]["properties"]
    assert links["datapath-reason"]["description"] == "Why Python moves its packets, with `python`."
    assert "wall-clock" in schema("log")["$defs"]["LoggedChange"]["properties"]["time"]["description"]


def test_a_file_of_a_form_that_is_no_more_is_removed(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text("{}")
    main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files())
