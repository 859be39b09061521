"""Every unit that is saved and restored: it goes on as the one before it, and takes no record but its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.trips import ALL, Trip, golden

from vnic.record import Record, RecordError, decode, encode

golden.load()


@pytest.fixture(params=sorted(ALL), scope="module")
def trip(request: pytest.FixtureRequest) -> Iterator[Trip]:
    with ExitStack() as stack:
        yield ALL[request.param](stack)


@pytest.fixture(scope="module")
def saved(trip: Trip) -> bytes:
    """The unit's record, saved once: a unit may go on whenever the loop that it shares with others runs."""
    return encode(trip.unit.save())


def test_a_restored_unit_is_as_the_saved_one(trip: Trip) -> None:
    record = trip.unit.save()
    seen = trip.observe(trip.unit)
    assert trip.unit.save() == record  # neither saving nor looking changed it

    with ExitStack() as stack:
        fresh = trip.make(stack)
        trip.restore(fresh, decode(trip.kind, encode(record)))
        assert trip.observe(fresh) == seen
        assert fresh.save() == record


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Of all units."""
    with ExitStack() as stack:
        return [build(stack).unit.save() for build in ALL.values()]


def test_a_record_of_another_unit_is_refused_by_its_kind(trip: Trip, records: list[Record]) -> None:
    for record in records:
        if type(record) is not trip.kind:
            with pytest.raises(RecordError, match=r"^kind: "):
                decode(trip.kind, encode(record))


def test_a_record_that_was_cut_is_refused(trip: Trip) -> None:
    data = encode(trip.unit.save())
    for end in {0, 1, len(data) // 3, len(data) // 2, len(data) - 1}:
        with pytest.raises(RecordError):
            decode(trip.kind, data[:end])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all fields and list items of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.sampled_from(
        [0, 1, 0xFF, 0xFFFF, 0x10000, 2**32, 2**63, 2**64 - 1, "", "running", "taken", "AAAA", [], {}]
    ),
    st.text(max_size=4),
).map(copy.deepcopy)  # a list or dict becomes part of a document, in which it is changed in turn


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_a_changed_record_is_taken_or_refused_by_name(trip: Trip, saved: bytes, data: st.DataObject) -> None:
    """Whatever is changed in it, nothing but RecordError is raised, and a unit that refuses is as it was before."""
    document = json.loads(saved)
    paths = list(places(document))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths))
        change(document, path, data, paths)
    text = json.dumps(document).encode()
    with ExitStack() as stack:
        fresh = trip.make(stack)
        before = fresh.save()
        try:
            trip.restore(fresh, decode(trip.kind, text))
        except RecordError:
            assert fresh.save() == before


def change(document: Any, path: tuple[Any, ...], data: st.DataObject, paths: list[tuple[Any, ...]]) -> None:
    """Replace, remove, add, or swap with another place."""
    try:
        holder = reach(document, path[:-1])
        old = holder[path[-1]]
    except (LookupError, TypeError):
        return  # went with the change before
    if not isinstance(holder, dict | list):
        return  # became a string with it
    how = data.draw(st.sampled_from(["replace", "remove", "add", "swap"]))
    if how == "replace":
        holder[path[-1]] = data.draw(VALUES)
    elif how == "remove":
        del holder[path[-1]]
    elif how == "add" and isinstance(old, dict):
        old["surplus"] = data.draw(VALUES)
    elif how == "add" and isinstance(old, list):
        old.append(copy.deepcopy(old[0]) if old else data.draw(VALUES))
    elif how == "swap":
        other = data.draw(st.sampled_from(paths))
        try:
            holder[path[-1]] = copy.deepcopy(reach(document, other))
        except (LookupError, TypeError):
            return


def reach(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document
