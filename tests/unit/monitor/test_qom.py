"""Tests of filters as QOM objects: the answers of QEMU 11.1.3 to the same queries."""

from __future__ import annotations

from typing import Any

import pytest

from vnic.filter.options import ReplayOptions
from vnic.net.filter_set import add_filter
from vnic.net.filters import Filter

from .conftest import Client


class Dump(Filter):
    type = "filter-dump"
    changes = 0

    def status_changed(self) -> None:
        self.changes += 1

    def own_properties(self) -> dict[str, object]:
        return {"file": "a", "maxlen": 65536}


class Mirror(Filter):
    type = "filter-mirror"

    def own_properties(self) -> dict[str, object]:
        return {"vnet_hdr_support": False, "outdev": ""}


@pytest.fixture
def dump(client: Client) -> Dump:
    made = Dump(ReplayOptions(id="f", netdev="net0"))
    add_filter(client.machine.network, made)
    add_filter(client.machine.network, Mirror(ReplayOptions(id="m", netdev="net0")))
    return made


@pytest.mark.parametrize("path", ["f", "/objects/f", "objects/f", "//objects//f", "f/", "/objects/f/"])
def test_object_has_full_and_partial_path(client: Client, dump: Dump, path: str) -> None:
    assert client.ask("qom-get", path=path, property="status") == {"return": "on"}


@pytest.mark.parametrize("path", ["", "/", "net0", "/f", "x/f", "/x/objects/f", "/objects/zz"])
def test_unknown_path_is_refused(client: Client, dump: Dump, path: str) -> None:
    error = {"class": "DeviceNotFound", "desc": f"Device '{path}' not found"}
    assert client.ask("qom-get", path=path, property="status")["error"] == error
    assert client.ask("qom-set", path=path, property="status", value="on")["error"] == error
    assert client.ask("qom-list", path=path)["error"] == error


def test_properties(client: Client, dump: Dump) -> None:
    listed = client.ask("qom-list", path="f")["return"]
    assert [(each["name"], each["type"]) for each in listed] == [
        ("type", "string"),
        ("queue", "NetFilterDirection"),
        ("netdev", "string"),
        ("insert", "string"),
        ("status", "string"),
        ("position", "string"),
        ("maxlen", "uint32"),
        ("file", "string"),
    ]
    values = [client.ask("qom-get", path="f", property=each["name"])["return"] for each in listed]
    assert values == ["filter-dump", "all", "net0", "behind", "on", "tail", 65536, "a"]
    assert client.ask("qom-list", path="m")["return"][-1] == {"name": "vnet_hdr_support", "type": "bool"}
    assert client.ask("qom-list", path="/objects")["return"] == [
        {"name": "type", "type": "string"},
        {"name": "f", "type": "child<filter-dump>"},
        {"name": "m", "type": "child<filter-mirror>"},
    ]


def test_status_enables_and_disables_filter(client: Client, dump: Dump) -> None:
    for value, on, changes in (("off", False, 1), ("off", False, 1), ("on", True, 2)):
        assert client.ask("qom-set", path="/objects/f", property="status", value=value) == {"return": {}}
        assert (dump.on, dump.changes) == (on, changes)
        assert client.ask("qom-get", path="f", property="status") == {"return": value}
        assert f"status={value}," in dump.info_text()


@pytest.mark.parametrize(
    ("name", "value", "desc"),
    [
        ("status", "maybe", "Invalid value for netfilter status, should be 'on' or 'off'"),
        ("status", True, "Invalid parameter type for 'status', expected: string"),
        ("status", None, "Invalid parameter type for 'status', expected: string"),
        ("nope", 1, "Property 'filter-dump.nope' not found"),
        ("type", "x", "Property 'filter-dump.type' is not writable"),
        ("netdev", "net0", "Property 'filter-dump.netdev' is not writable"),
    ],
)
def test_read_only_properties_are_refused(
    client: Client, dump: Dump, name: str, value: Any, desc: str
) -> None:
    assert client.error("qom-set", path="f", property=name, value=value) == desc
    assert dump.on


def test_arguments_are_checked_first(client: Client) -> None:
    assert client.error("qom-get") == "Parameter 'path' is missing"
    assert client.error("qom-get", path="f") == "Parameter 'property' is missing"
    assert client.error("qom-set", path="f", property="x", z=1) == "Parameter 'value' is missing"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("qom-get f status", '"on"\r\n'),
        ("qom-get f maxlen", "65536\r\n"),
        ("qom-get m outdev", '""\r\n'),
        ("qom-get m vnet_hdr_support", "false\r\n"),
        ("qom-get f nope", "Error: Property 'filter-dump.nope' not found\r\n"),
        ("qom-get f", 'qom-get: string expected\r\nTry "help qom-get" for more information\r\n'),
        ("qom-set f status off", ""),
        ("qom-set f status maybe", "Error: Invalid value for netfilter status, should be 'on' or 'off'\r\n"),
        ("qom-set f status", 'qom-set: string expected\r\nTry "help qom-set" for more information\r\n'),
        ("qom-list", "/\r\n"),
        ("qom-list zz", "Error: Device 'zz' not found\r\n"),
        (
            "qom-list f",
            "type (string)\r\nqueue (NetFilterDirection)\r\nnetdev (string)\r\ninsert (string)\r\n"
            "status (string)\r\nposition (string)\r\nmaxlen (uint32)\r\nfile (string)\r\n",
        ),
    ],
)
def test_hmp(client: Client, dump: Dump, line: str, text: str) -> None:
    assert client.hmp(line) == text
