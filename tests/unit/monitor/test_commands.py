"""Tests of the commands and of QEMU's texts for refusals (observed with 7.2 and 11.1.3)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.fakes.monitored_machine import FakeEndpoint

from vnic.monitor.commands.table import COMMANDS
from vnic.monitor.events import EVENTS
from vnic.monitor.interfaces import RunState

from .conftest import Client

# -- links ------------------------------------------------------------------------------------------------------


def test_set_link_down_and_up(client: Client) -> None:
    assert client.ask("set_link", name="nic0", up=False) == {"return": {}}
    (link,) = client.ask("query-links", name="nic0")["return"]
    assert link["link"] == "down"
    assert link["holds"][0]["by"] == "QMP client test[1]"
    assert client.ask("set_link", name="nic0", up=True) == {"return": {}}
    (link,) = client.ask("query-links", name="nic0")["return"]
    assert (link["link"], link["holds"], link["carrier-changes"]) == ("up", [], 2)
    assert [data["link"] for name, data in client.events if data["name"] == "nic0"] == ["down", "up"]


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({}, "Parameter 'name' is missing"),
        ({"name": "nic0"}, "Parameter 'up' is missing"),
        ({"up": True}, "Parameter 'name' is missing"),
        ({"name": "nic0", "up": 1}, "Invalid parameter type for 'up', expected: boolean"),
        ({"name": "nic0", "up": "on"}, "Invalid parameter type for 'up', expected: boolean"),
        ({"name": None, "up": True}, "Invalid parameter type for 'name', expected: string"),
        ({"name": "nic0", "up": True, "extra": 1}, "Parameter 'extra' is unexpected"),
    ],
)
def test_set_link_arguments(client: Client, arguments: dict[str, Any], desc: str) -> None:
    assert client.error("set_link", **arguments) == desc
    assert not client.events


def test_not_found_has_error_class(client: Client) -> None:
    for command, arguments in (
        ("set_link", {"name": "nope", "up": True}),
        ("netdev_del", {"id": "nope"}),
        ("device_del", {"id": "nope"}),
        ("query-links", {"name": "nope"}),
    ):
        assert client.ask(command, **arguments)["error"] == {
            "class": "DeviceNotFound",
            "desc": "Device 'nope' not found",
        }


def test_link_log_pages(client: Client) -> None:
    for up in (False, True, False):
        client.ask("set_link", name="nic0", up=up)
    log = client.ask("query-link-log", name="nic0")["return"]
    assert [entry["link"] for entry in log][-3:] == ["down", "up", "down"]
    assert client.ask("query-link-log", name="nic0", limit=1)["return"] == log[-1:]
    after = {"after-id": log[-2]["id"]}
    assert client.ask("query-link-log", name="nic0", **after)["return"] == log[-1:]


def test_results_match_schema(client: Client) -> None:
    client.ask("set_link", name="net0", up=False)
    client.machine.network.find_nic("nic0").report.seen(False)  # type: ignore[union-attr]  # it is there
    for command in ("query-links", "query-link-log", "query-chardev"):
        result = client.ask(command)["return"]
        msgspec.convert(result, COMMANDS[command].returns)  # as the schema has it
    assert client.events
    for name, data in client.events:
        shape = EVENTS[name]
        assert shape is not None
        msgspec.convert(data, shape)


def test_announce_self(client: Client) -> None:
    assert client.error("announce-self", initial=1, max=2, rounds=3) == "Parameter 'step' is missing"
    assert (
        client.error("announce-self", initial=1, max=2, rounds=3, step=4, interfaces=["a", 3])
        == "Invalid parameter type for 'interfaces[1]', expected: string"
    )
    assert client.ask("announce-self", initial=50, max=550, rounds=5, step=50) == {"return": {}}


def test_query_rx_filter(client: Client) -> None:
    assert client.ask("query-rx-filter") == {"return": []}
    assert client.error("query-rx-filter", name="net0") == "net client(net0) isn't a NIC"
    assert client.error("query-rx-filter", name="nic0") == (
        "net client(nic0) doesn't support rx-filter querying"
    )
    assert client.error("query-rx-filter", name="zz") == "invalid net client name: zz"


# -- what can be created ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"type": "bogus"}, "Parameter 'id' is missing"),
        ({"id": "x"}, "Parameter 'type' is missing"),
        ({"type": "bogus", "id": "x"}, "Parameter 'type' does not accept value 'bogus'"),
        ({"type": "nic", "id": "x"}, "network backend 'nic' is not compiled into this binary"),
        ({"type": 3, "id": "x"}, "Invalid parameter type for 'type', expected: string"),
        ({"type": "hubport", "id": "net0", "hubid": 1}, "Duplicate ID 'net0'"),
        ({"type": "hubport", "id": "1x", "hubid": 1}, "Parameter 'id' expects an identifier"),
        (
            {"type": "hubport", "id": "x", "hubid": "1"},
            "Invalid parameter type for 'hubid', expected: integer",
        ),
        ({"type": "stream", "id": "x"}, "Parameter 'addr' is missing"),
        ({"type": "stream", "id": "x", "addr": {}}, "Parameter 'addr.type' is missing"),
        ({"type": "stream", "id": "x", "addr": {"type": "unix"}}, "Parameter 'addr.path' is missing"),
        (
            {"type": "stream", "id": "x", "addr": {"type": "unix", "path": 1}},
            "Invalid parameter type for 'addr.path', expected: string",
        ),
        (
            {"type": "stream", "id": "x", "addr": {"type": "unix", "path": "a", "x": 1}},
            "Parameter 'addr.x' is unexpected",
        ),
        (
            {"type": "stream", "id": "x", "addr": {"type": "carrier-pigeon"}},
            "Parameter 'type' does not accept value 'carrier-pigeon'",
        ),
    ],
)
def test_netdev_add_refuses(client: Client, arguments: dict[str, Any], desc: str) -> None:
    assert client.error("netdev_add", **arguments) == desc
    assert len(client.machine.network.clients) == 2


def test_netdev_del_and_back(client: Client) -> None:
    assert client.ask("netdev_del", id="net0") == {"return": {}}
    (link,) = client.ask("query-links")["return"]
    assert [(hold["kind"], hold["by"]) for hold in link["holds"]] == [("no-peer", "QMP client test[1]")]
    client.ask("netdev_add", type="hubport", id="net0", hubid=1)
    (link,) = client.ask("query-links", name="nic0")["return"]
    assert link["link"] == "up"
    assert link["last-change"]["cause"]["by"] == "QMP client test[1]"


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({}, "Parameter 'driver' is missing"),
        ({"driver": "bogus"}, "'bogus' is not a valid device model name"),
        ({"driver": "usb-net"}, "'usb-net' is not built into vnic; there are virtio-net"),
        ({"driver": "virtio-net", "foo": 1}, "Property 'virtio-net.foo' not found"),
        ({"driver": 4}, "Parameter 'driver' is missing"),
        ({"driver": "virtio-net", "mq": "maybe"}, "Invalid parameter type for 'mq', expected: boolean"),
        ({"driver": "virtio-net", "mq": 5}, "Invalid parameter type for 'mq', expected: boolean"),
        ({"driver": "virtio-net", "mq": None}, "Invalid parameter type for 'mq', expected: boolean"),
        ({"driver": "virtio-net", "netdev": [1]}, "Invalid parameter type for 'netdev', expected: string"),
        ({"driver": "virtio-net", "host_mtu": 1 << 20}, "Parameter 'host_mtu' expects uint16_t"),
        ({"driver": "virtio-net", "host_mtu": "-1"}, "Parameter 'host_mtu' expects uint64"),
        ({"driver": "virtio-net", "host_mtu": "9k"}, "Parameter 'host_mtu' expects uint64"),
        ({"driver": "virtio-net", "id": "nic0"}, "Duplicate device ID 'nic0'"),
        ({"driver": "virtio-net", "mac": "zz"}, "Property 'virtio-net-device.mac' doesn't take value 'zz'"),
        (
            {"driver": "virtio-net", "netdev": "net0"},
            "Property 'virtio-net-device.netdev' can't take value 'net0', it's in use",
        ),
        (
            {"driver": "virtio-net", "netdev": "net9"},
            "Property 'virtio-net-device.netdev' can't find value 'net9'",
        ),
    ],
)
def test_device_add_refuses(client: Client, arguments: dict[str, Any], desc: str) -> None:
    assert client.error("device_add", **arguments) == desc


def test_device_add_takes_strings_and_types(client: Client) -> None:
    client.ask("device_add", driver="virtio-net", id="a", mq=True, host_mtu=1500)
    client.ask("device_add", driver="virtio-net", id="b", mq="yes", host_mtu="0x5dc")
    first, second = client.machine.added[-2:]
    assert msgspec.structs.asdict(first) == {**msgspec.structs.asdict(second), "id": "a"}


def test_device_del_emits_event(client: Client) -> None:
    assert client.ask("device_del", id="nic0") == {"return": {}}
    assert client.events[-1] == ("DEVICE_DELETED", {"device": "nic0", "path": "/machine/peripheral/nic0"})


def test_chardevs(client: Client) -> None:
    null = {"type": "null", "data": {}}
    assert client.ask("chardev-add", id="c", backend=null) == {"return": {}}
    assert client.ask("query-chardev")["return"] == [
        {"label": "c", "filename": "null", "frontend-open": True}
    ]
    assert client.error("chardev-add", id="c", backend=null) == "Chardev with id 'c' already exists"
    assert client.error("chardev-add", id="d", backend={"type": "null"}) == (
        "Parameter 'backend.data' is missing"
    )
    assert client.error("chardev-add", id="d", backend={"type": "bogus"}) == (
        "Parameter 'type' does not accept value 'bogus'"
    )
    assert client.error("chardev-add", backend=null) == "Parameter 'id' is missing"
    assert client.ask("chardev-remove", id="c") == {"return": {}}
    assert client.error("chardev-remove", id="c") == "Chardev 'c' not found"


def test_objects(client: Client) -> None:
    dump = {"qom-type": "filter-dump", "id": "f0", "netdev": "net0"}
    assert client.ask("object-add", **dump) == {"return": {}}
    assert client.ask("object-del", id="f0") == {"return": {}}
    assert client.error("object-del", id="f0") == "object 'f0' not found"
    assert client.error("object-add", **{"qom-type": "bogus", "id": "f0"}) == (
        "Parameter 'qom-type' does not accept value 'bogus'"
    )
    assert client.error("object-add", **{"qom-type": "filter-dump", "id": "x"}) == (
        "Parameter 'netdev' is missing"
    )


# -- the machine ------------------------------------------------------------------------------------------------


def test_run_state(client: Client) -> None:
    client.machine.runstate = RunState.PRELAUNCH
    assert client.ask("query-status")["return"] == {"status": "prelaunch", "running": False}
    client.ask("cont")
    client.ask("cont")
    assert client.ask("query-status")["return"] == {"status": "running", "running": True}
    client.ask("stop")
    assert client.events == [("RESUME", {}), ("STOP", {})]


def test_names_and_versions(client: Client) -> None:
    assert client.ask("query-name")["return"] == {"name": "lab"}
    client.machine.name = None
    assert client.ask("query-name")["return"] == {}
    assert client.ask("query-version")["return"]["package"] == " (vnic)"
    assert {"name": "set_link"} in client.ask("query-commands")["return"]


def test_hmp_through_qmp(client: Client) -> None:
    assert client.hmp("info network") == (
        "nic0: index=0,type=nic,model=virtio-net,macaddr=52:54:00:12:34:56\r\n"
        " \\ net0: index=0,type=stream,listening\r\n"
    )
    assert client.error("human-monitor-command", **{"command-line": "help", "cpu-index": 1}) == (
        "Parameter 'cpu-index' expects a CPU number"
    )


def test_device_is_notified_of_link_before_reply(client: Client) -> None:
    endpoint = client.machine.network.find_nic("nic0").endpoint  # type: ignore[union-attr]  # it is there
    assert isinstance(endpoint, FakeEndpoint)
    endpoint.links.clear()
    replies = client.session.feed(b'{"execute":"set_link","arguments":{"name":"nic0","up":false}}')
    next(replies)
    assert endpoint.links == [False]
