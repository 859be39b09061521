"""Records that earlier versions of vnic wrote are still read: an upgrade takes them up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.fakes.trips import ALL, golden

from vnic.record import Record, RecordError, decode, kind_of

FILES = sorted(golden.FOLDER.glob("records-*.jsonl"))
REMEDY = "raise its version and convert it in `older`, or, before the release, run `python -m tests.fakes.trips.golden`"


class Envelope(msgspec.Struct):
    kind: str


def kinds() -> dict[str, list[type[Record]]]:
    """All record classes of vnic by their kinds."""
    golden.load()
    found: dict[str, list[type[Record]]] = {}
    todo: list[type[Record]] = [Record]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__.startswith("vnic."):
            found.setdefault(kind_of(kind), []).append(kind)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_records_of_an_earlier_version_are_read(path: Path) -> None:
    classes = kinds()
    lines = path.read_bytes().splitlines()
    for line in lines:
        name = msgspec.json.decode(line, type=Envelope).kind
        assert name in classes, f"{name} is gone"
        refusals = [refusal for kind in classes[name] if (refusal := refused(kind, line))]
        assert len(refusals) < len(classes[name]), f"{name}: {refusals[0]}; {REMEDY}"


def refused(kind: type[Record], data: bytes) -> str:
    """Why, or "" if the record is read."""
    try:
        decode(kind, data)
    except RecordError as error:
        return str(error)
    return ""


def test_there_are_records_of_a_version() -> None:
    assert FILES
    golden.load()
    assert len(FILES[-1].read_bytes().splitlines()) >= len(ALL) // 2
