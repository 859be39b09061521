"""Tests of link-fault and query-faults: each shape, what each takes, and what ends them."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Client


def faults(client: Client, **arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.ask("query-faults", **arguments)["return"]
    return found


def test_frames_of_one_direction_are_lost(client: Client) -> None:
    assert client.ask("link-fault", name="nic0", shape="one-way", direction="tx") == {"return": {}}
    assert faults(client) == [
        {
            "id": "nic0-fault",
            "name": "nic0",
            "shape": "one-way",
            "direction": "tx",
            "text": "frames in the direction tx are lost",
        }
    ]
    [entry] = client.ask("query-impairments")["return"]
    assert (entry["fault"], entry["queue"], entry["text"]) == ("one-way", "tx", "loss 100%")
    assert client.ask("query-links", name="nic0")["return"][0]["link"] == "up"


def test_a_new_fault_of_frames_replaces_the_one_before(client: Client) -> None:
    client.ask("link-fault", name="nic0", shape="dead")
    client.ask("link-fault", name="nic0", shape="black-hole", bytes=1400)
    [fault] = faults(client, name="nic0")
    assert (fault["shape"], fault["bytes"]) == ("black-hole", 1400)
    assert fault["text"] == "frames of more than 1400 bytes are lost"
    assert faults(client, name="net0")[0]["id"] == "nic0-fault"


def test_faults_of_the_link_stand_beside(client: Client) -> None:
    client.ask("link-fault", name="nic0", shape="dead")
    client.ask("link-fault", name="nic0", shape="slow-up", **{"delay-ms": 2000})
    client.ask("link-fault", name="nic0", shape="dampened", suppress=3000, **{"half-life-ms": 1000})
    found = faults(client, name="nic0")
    assert [each["shape"] for each in found] == ["dead", "slow-up", "dampened"]
    assert found[1] == {
        "id": "nic0-slow-up",
        "name": "nic0",
        "shape": "slow-up",
        "text": "comes up 2 s after nothing else holds it",
        "by": "QMP client test[1]",
        "delay-ms": 2000,
    }
    assert (found[2]["suppress"], found[2]["reuse"], found[2]["max-ms"]) == (3000, 1000, 4000)
    client.ask("link-fault", name="nic0", shape="dead", clear=True)
    assert [each["shape"] for each in faults(client)] == ["slow-up", "dampened"]
    client.ask("link-fault", name="nic0", clear=True)
    assert faults(client) == []
    assert client.error("link-fault", name="nic0", clear=True) == "'nic0' has no fault"
    assert client.error("link-fault", name="nic0", shape="dead", clear=True) == "'nic0' has no fault 'dead'"


def test_impairments_and_faults_leave_each_other_alone(client: Client) -> None:
    client.ask("link-fault", name="nic0", shape="dead")
    client.ask("link-impair", name="nic0", delay="10ms")
    client.ask("link-impair", name="nic0", clear=True)
    assert [each["shape"] for each in faults(client)] == ["dead"]
    client.ask("link-impair", name="nic0", delay="10ms")
    client.ask("link-fault", name="nic0", clear=True)
    [entry] = client.ask("query-impairments")["return"]
    assert entry["id"] == "nic0-netem"


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({}, "Parameter 'shape' is missing"),
        ({"shape": "bent"}, "Parameter 'shape' does not accept value 'bent'"),
        ({"shape": "one-way"}, "Parameter 'direction' is missing"),
        ({"shape": "one-way", "direction": "all"}, "Parameter 'direction' does not accept value 'all'"),
        ({"shape": "dead", "bytes": 5}, "Parameter 'bytes' is unexpected: a fault 'dead' does not have it"),
        ({"shape": "black-hole"}, "Parameter 'bytes' is missing"),
        (
            {"shape": "black-hole", "bytes": 13},
            "Parameter 'bytes' expects a number from 14 to 4294967295, not '13'",
        ),
        ({"shape": "slow-up"}, "Parameter 'delay-ms' is missing"),
        (
            {"shape": "slow-up", "delay-ms": 0},
            "Parameter 'delay-ms' expects a number from 1 to 86400000, not '0'",
        ),
        (
            {"shape": "dampened", "reuse": 2001},
            "Parameter 'reuse' expects at most 'suppress', 2000, not '2001'",
        ),
    ],
)
def test_bad_arguments_change_nothing(client: Client, arguments: dict[str, Any], desc: str) -> None:
    assert client.error("link-fault", name="nic0", **arguments) == desc
    assert faults(client) == []
    assert not client.events


def test_unknown_names_are_refused(client: Client) -> None:
    not_found = {"class": "DeviceNotFound", "desc": "Device 'zz' not found"}
    for arguments in ({"shape": "dead"}, {"shape": "slow-up", "delay-ms": 5}, {"clear": True}):
        assert client.ask("link-fault", name="zz", **arguments)["error"] == not_found
    assert client.ask("query-faults", name="zz")["error"] == not_found
