"""Tests of the commands that clients send to identify a QEMU: the answers of QEMU 11.1 with `-machine none`."""

from __future__ import annotations

import platform

import pytest

from .conftest import Client


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (
            "query-machines",
            [
                {
                    "name": "none",
                    "cpu-max": 1,
                    "hotpluggable-cpus": False,
                    "numa-mem-supported": False,
                    "deprecated": False,
                    "acpi": False,
                    "default-ram-id": "ram",
                }
            ],
        ),
        ("query-target", {"arch": platform.machine()}),
        ("query-kvm", {"enabled": False, "present": False}),
        ("query-uuid", {"UUID": "00000000-0000-0000-0000-000000000000"}),
        ("query-current-machine", {"wakeup-suspend-support": False}),
        ("query-cpus-fast", []),
        ("query-iothreads", []),
        ("query-block", []),
        ("query-pci", []),
        ("query-memory-devices", []),
        ("query-blockstats", []),
        ("query-audiodevs", []),
        ("query-accelerators", {"enabled": "qtest", "present": ["qtest"]}),
        ("query-migrate", {}),
        ("query-memory-size-summary", {"base-memory": 0, "plugged-memory": 0}),
        ("query-vnc", {"enabled": False}),
        ("query-display-options", {"type": "none"}),
    ],
)
def test_vm_queries_are_answered(client: Client, command: str, answer: object) -> None:
    assert client.ask(command) == {"return": answer}


@pytest.mark.parametrize(
    ("command", "arguments", "klass", "desc"),
    [
        ("query-gic-capabilities", {}, "GenericError", "GIC hardware is not available on this target"),
        ("query-sev-capabilities", {}, "GenericError", "KVM not enabled"),
        ("query-hotpluggable-cpus", {}, "GenericError", "machine does not support hot-plugging CPUs"),
        ("query-balloon", {}, "DeviceNotActive", "No balloon device has been activated"),
        ("query-cpu-model-expansion", {}, "GenericError", "Parameter 'type' is missing"),
        (
            "query-cpu-model-expansion",
            {"type": "fulll", "model": {"name": "host"}},
            "GenericError",
            "Parameter 'type' does not accept value 'fulll'",
        ),
        (
            "query-cpu-model-expansion",
            {"type": "full", "model": {}},
            "GenericError",
            "Parameter 'model.name' is missing",
        ),
        (
            "query-cpu-model-expansion",
            {"type": "full", "model": {"name": "nope", "props": {"a": 1}}},
            "GenericError",
            "CPU model 'nope' not found",
        ),
        ("query-cpu-model-baseline", {}, "GenericError", "Parameter 'modela' is missing"),
    ],
)
def test_missing_parts_are_refused(
    client: Client, command: str, arguments: dict[str, object], klass: str, desc: str
) -> None:
    assert client.ask(command, **arguments) == {"error": {"class": klass, "desc": desc}}


def test_info_network_text(client: Client) -> None:
    text = client.ask("x-query-network")["return"]["human-readable-text"]
    assert text == "".join(client.machine.topology().info_network())
    assert text.startswith("nic0: index=0,type=nic,")


def test_reset_emits_event(client: Client) -> None:
    reset = ("RESET", {"guest": False, "reason": "host-qmp-system-reset"})
    assert client.ask("system_reset") == {"return": {}}
    assert client.hmp("system_reset") == ""
    assert client.events == [reset, reset]


def test_types(client: Client) -> None:
    def names(**arguments: object) -> list[str]:
        return [each["name"] for each in client.ask("qom-list-types", **arguments)["return"]]

    assert names() == ["object", "virtio-net", "filter-dump"]
    assert names(abstract=True) == ["object", "device", "netfilter", "virtio-net", "filter-dump"]
    assert names(implements="device") == ["virtio-net"]
    assert names(implements="netfilter") == ["filter-dump"]
    assert names(implements="nope") == []
    (netfilter,) = client.ask("qom-list-types", implements="netfilter")["return"]
    assert netfilter == {"name": "filter-dump", "parent": "netfilter"}


def test_properties_of_a_device(client: Client) -> None:
    found = client.ask("device-list-properties", typename="virtio-net")["return"]
    by_name = {each["name"]: each for each in found}
    assert by_name["mq"] == {"name": "mq", "type": "bool", "default-value": False}
    assert by_name["host_mtu"] == {"name": "host_mtu", "type": "uint16", "default-value": 0}
    assert by_name["mac"] == {"name": "mac", "type": "str"}
    of_filter = client.ask("qom-list-properties", typename="filter-dump")["return"]
    assert {"name": "type", "type": "string"} in of_filter
    assert {"name": "file", "type": "str", "default-value": "-"} in of_filter


def test_properties_of_unknown_type_are_refused(client: Client) -> None:
    error = client.ask("device-list-properties", typename="nope")["error"]
    assert error == {"class": "DeviceNotFound", "desc": "Device 'nope' not found"}
    for abstract in ("filter-dump", "device"):
        assert client.error("device-list-properties", typename=abstract) == (
            "Parameter 'typename' expects a non-abstract device type"
        )
    error = client.ask("qom-list-properties", typename="nope")["error"]
    assert error == {"class": "DeviceNotFound", "desc": "Class 'nope' not found"}


def test_command_line_options_are_listed(client: Client) -> None:
    options = {each["option"] for each in client.ask("query-command-line-options")["return"]}
    assert options == {"name", "mon", "netdev", "device", "object", "chardev"}
    (mon,) = client.ask("query-command-line-options", option="mon")["return"]
    assert {"name": "pretty", "type": "boolean"} in mon["parameters"]
    assert client.ask("query-command-line-options", option="netdev")["return"] == [
        {"option": "netdev", "parameters": []}
    ]
    assert client.error("query-command-line-options", option="nope") == "invalid option name: nope"
