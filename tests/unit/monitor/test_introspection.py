"""Tests of query-qmp-schema: it is well-formed for clients that follow it, and matches the accepted arguments."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

from vnic.monitor.commands.table import COMMANDS
from vnic.monitor.events import EVENTS

from .conftest import Client

Schema: TypeAlias = dict[str, dict[str, Any]]


@pytest.fixture
def schema(client: Client) -> Schema:
    entries = client.ask("query-qmp-schema")["return"]
    by_name = {entry["name"]: entry for entry in entries}
    assert len(by_name) == len(entries), "names are unique"
    return by_name


def members(schema: Schema, type_name: str) -> dict[str, dict[str, Any]]:
    return {member["name"]: member for member in schema[type_name]["members"]}


def test_all_commands_and_events_are_listed(schema: Schema) -> None:
    by_kind: dict[str, set[str]] = {}
    for entry in schema.values():
        by_kind.setdefault(entry["meta-type"], set()).add(entry["name"])
    assert by_kind["command"] == set(COMMANDS)
    assert by_kind["event"] == set(EVENTS)
    assert set(by_kind) <= {"command", "event", "object", "array", "enum", "builtin"}


def test_every_reference_resolves(schema: Schema) -> None:
    for entry in schema.values():
        names = [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]
        names += [member["type"] for member in entry.get("members", ()) if "type" in member]
        names += [variant["type"] for variant in entry.get("variants", ())]
        assert all(name in schema for name in names), entry
        if "tag" in entry:
            tag = next(member for member in entry["members"] if member["name"] == entry["tag"])
            cases = {variant["case"] for variant in entry["variants"]}
            assert cases == set(schema[tag["type"]]["values"])


def test_set_link(schema: Schema) -> None:
    command = schema["set_link"]
    assert "allow-oob" not in command, "QEMU leaves out what is false"
    told = members(schema, command["arg-type"])
    assert told == {"name": {"name": "name", "type": "str"}, "up": {"name": "up", "type": "bool"}}
    assert schema[command["ret-type"]]["members"] == []
    assert schema["str"] == {"name": "str", "meta-type": "builtin", "json-type": "string"}
    assert schema["bool"]["json-type"] == "boolean"


def test_optional_members_have_a_default(schema: Schema) -> None:
    told = members(schema, schema["query-link-log"]["arg-type"])
    assert set(told) == {"name", "limit", "after-id"}
    assert all(member["default"] is None for member in told.values())


def test_netdev_add_lists_built_netdevs(schema: Schema) -> None:
    union = schema[schema["netdev_add"]["arg-type"]]
    assert union["tag"] == "type"
    told = members(schema, union["name"])
    assert set(told) == {"id", "type"}
    assert schema[told["type"]["type"]]["values"] == ["stream", "hubport"]
    (stream,) = [variant["type"] for variant in union["variants"] if variant["case"] == "stream"]
    assert set(members(schema, stream)) == {"addr", "server", "reconnect-ms"}
    addr = schema[members(schema, stream)["addr"]["type"]]
    assert {variant["case"] for variant in addr["variants"]} == {"unix", "inet"}


def test_chardev_add_wraps_its_branches(schema: Schema) -> None:
    told = members(schema, schema["chardev-add"]["arg-type"])
    backend = schema[told["backend"]["type"]]
    (branch,) = backend["variants"]
    assert set(members(schema, branch["type"])) == {"data"}


def test_results(schema: Schema) -> None:
    assert schema["query-links"]["ret-type"].startswith("[")
    element = schema[schema["query-links"]["ret-type"]]["element-type"]
    assert {"link", "holds", "guest", "last-change"} <= set(members(schema, element))
    assert schema["human-monitor-command"]["ret-type"] == "str"
