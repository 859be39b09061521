"""Tests of link-impair and query-impairments: which objects they make, change and delete, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Client


def shown(client: Client, **arguments: object) -> list[tuple[str, str, str]]:
    found = client.ask("query-impairments", **arguments)["return"]
    return [(each["id"], each["queue"], each["text"]) for each in found]


def test_impairments_are_made_changed_and_cleared(client: Client) -> None:
    assert client.ask("link-impair", name="nic0", delay="10ms", seed=7) == {"return": {}}
    assert shown(client) == [("nic0-netem", "all", "delay 10ms")]
    client.ask("link-impair", name="net0", loss="0.5%", **{"max-frame": 1400})
    assert shown(client, name="nic0") == [("nic0-netem", "all", "delay 10ms, loss 0.5%, max-frame 1400")]
    client.ask("link-impair", name="nic0", clear=True, rate="10mbit")
    assert shown(client, name="net0") == [("nic0-netem", "all", "rate 10mbit")]
    [entry] = client.ask("query-impairments", name="nic0")["return"]
    assert (entry["netdev"], entry["nic"], entry["on"]) == ("net0", "nic0", True)
    assert entry["parameters"]["seed"] == 7
    assert entry["parameters"]["rate"] == "10mbit"
    assert [each["direction"] for each in entry["directions"]] == ["rx", "tx"]
    client.ask("link-impair", name="nic0", clear=True)
    assert shown(client) == []
    assert [data["by"] for name, data in client.events] == ["QMP client test[1]"] * 8


def test_one_direction_is_divided_from_both(client: Client) -> None:
    client.ask("link-impair", name="nic0", delay="10ms")
    client.ask("link-impair", name="nic0", direction="tx", loss="1%")
    assert shown(client) == [
        ("nic0-netem", "rx", "delay 10ms"),
        ("nic0-netem-tx", "tx", "delay 10ms, loss 1%"),
    ]
    client.ask("link-impair", name="nic0", direction="tx", loss="2%")
    client.ask("link-impair", name="nic0", delay="20ms")
    assert shown(client) == [
        ("nic0-netem", "rx", "delay 20ms"),
        ("nic0-netem-tx", "tx", "delay 20ms, loss 2%"),
    ]
    client.ask("link-impair", name="nic0", direction="rx", clear=True)
    assert shown(client) == [("nic0-netem-tx", "tx", "delay 20ms, loss 2%")]
    client.ask("link-impair", name="nic0", delay="5ms")
    assert shown(client) == [
        ("nic0-netem-tx", "tx", "delay 5ms, loss 2%"),
        ("nic0-netem-rx", "rx", "delay 5ms"),
    ]
    client.ask("link-impair", name="nic0", clear=True)
    assert shown(client) == []


def test_clear_of_one_direction_leaves_the_other(client: Client) -> None:
    client.ask("link-impair", name="nic0", delay="10ms")
    client.ask("link-impair", name="nic0", direction="tx", clear=True)
    assert shown(client) == [("nic0-netem", "rx", "delay 10ms")]


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"name": "nic0"}, "nothing is to be changed: give an impairment, or clear"),
        ({"name": "nic0", "loss": "x"}, "Parameter 'loss' expects a percentage from 0% to 100%, not 'x'"),
        ({"name": "nic0", "limit": 0}, "Parameter 'limit' expects a number from 1 to 1000000, not '0'"),
        ({"name": "nic0", "gap": 3}, "Parameter 'gap' needs 'delay'"),
        ({"name": "nic0", "distribution": "flat"}, "Parameter 'distribution' does not accept value 'flat'"),
        ({"name": "nic0", "direction": "up"}, "Parameter 'direction' does not accept value 'up'"),
        ({"name": "nic0", "seed": -1, "loss": "1%"}, "Parameter 'seed' expects uint64_t"),
    ],
)
@pytest.mark.parametrize("before", [{}, {"delay": "0", "loss": "1%"}], ids=["first", "later"])
def test_bad_values_change_nothing(
    client: Client, arguments: dict[str, Any], desc: str, before: dict[str, Any]
) -> None:
    if before:
        client.ask("link-impair", name="nic0", **before)
    client.events.clear()
    present = shown(client)
    assert client.error("link-impair", **arguments) == desc
    assert shown(client) == present
    assert not client.events


def test_a_bad_change_of_one_direction_does_not_divide(client: Client) -> None:
    client.ask("link-impair", name="nic0", loss="1%")
    assert client.error("link-impair", name="nic0", direction="tx", gap=3) == "Parameter 'gap' needs 'delay'"
    assert shown(client) == [("nic0-netem", "all", "loss 1%")]


def test_unknown_names_are_refused(client: Client) -> None:
    not_found = {"class": "DeviceNotFound", "desc": "Device 'zz' not found"}
    assert client.ask("link-impair", name="zz", loss="1%")["error"] == not_found
    assert client.ask("query-impairments", name="zz")["error"] == not_found
    client.ask("netdev_del", id="net0")
    assert client.error("link-impair", name="nic0", loss="1%") == (
        "'nic0' is plugged into no netdev: there are no frames to impair"
    )
