"""Tests of flap-start, flap-stop and query-flaps: their arguments, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Client


def test_flap_is_started_listed_and_stopped(client: Client) -> None:
    arguments = {"name": "nic0", "down-ms": 200, "up-ms": 2000, "count": 3, "jitter": 20, "seed": 7}
    assert client.ask("flap-start", **arguments) == {"return": {"id": "flap-1", "seed": 7}}
    assert client.ask("query-links", name="nic0")["return"][0]["link"] == "down"
    [flap] = client.ask("query-flaps")["return"]
    assert flap.pop("remaining-ms") > 0
    assert flap == {**arguments, "id": "flap-1", "by": "QMP client test[1]", "downs": 1}
    assert client.ask("flap-stop", id="flap-1") == {"return": {}}
    assert client.ask("query-flaps") == {"return": []}
    assert client.ask("query-links", name="nic0")["return"][0]["link"] == "up"
    assert [data["cause"]["by"] for name, data in client.events] == ["flap-1", "QMP client test[1]"]


def test_only_one_time_needs_no_up(client: Client) -> None:
    started = client.ask("flap-start", name="nic0", count=1, **{"down-ms": 5000})["return"]
    assert started["id"] == "flap-1"
    assert started["seed"] in range(1 << 32)
    [flap] = client.ask("query-flaps")["return"]
    assert flap["count"] == 1


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"name": "nic0"}, "Parameter 'down-ms' is missing"),
        ({"name": "nic0", "down-ms": 10}, "Parameter 'up-ms' is missing"),
        (
            {"name": "nic0", "down-ms": 0, "up-ms": 10},
            "Parameter 'down-ms' expects a number from 1 to 86400000, not '0'",
        ),
        (
            {"name": "nic0", "down-ms": 1, "up-ms": 86400001},
            "Parameter 'up-ms' expects a number from 1 to 86400000, not '86400001'",
        ),
        (
            {"name": "nic0", "down-ms": 1, "up-ms": 1, "jitter": 101},
            "Parameter 'jitter' expects a number from 0 to 100, not '101'",
        ),
        (
            {"name": "nic0", "down-ms": 1, "count": 0, "up-ms": 1},
            "Parameter 'count' expects a number from 1 to 2147483647, not '0'",
        ),
        (
            {"name": "nic0", "down-ms": 1, "up-ms": 1, "seed": -1},
            "Parameter 'seed' expects a number from 0 to 9223372036854775807, not '-1'",
        ),
    ],
)
def test_bad_arguments_are_refused(client: Client, arguments: dict[str, Any], desc: str) -> None:
    assert client.error("flap-start", **arguments) == desc
    assert not client.events


def test_unknown_names_are_refused(client: Client) -> None:
    reply = client.ask("flap-start", name="zz", count=1, **{"down-ms": 5})
    assert reply["error"] == {"class": "DeviceNotFound", "desc": "Device 'zz' not found"}
    assert client.error("flap-stop", id="flap-9") == "flap 'flap-9' not found"
