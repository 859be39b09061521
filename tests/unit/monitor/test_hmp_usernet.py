"""Tests of HMP's commands for host forwarding, with the texts of QEMU 7.2 and 11."""

from __future__ import annotations

import pytest

from vnic.net.errors import NetError

from .conftest import Client


class Network:
    """A user network that records the requests."""

    def __init__(self) -> None:
        self.rules: list[str] = []

    def info_usernet(self) -> str:
        return "  table\n"

    def add_forward(self, rule: str) -> None:
        if rule == "bad":
            raise NetError("Invalid host forwarding rule 'bad' (No : separators)")
        self.rules.append(rule)

    def remove_forward(self, source: str) -> bool | None:
        return {"there": True, "gone": False}.get(source)


@pytest.fixture
def network(client: Client, monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(client.machine, "user_networks", lambda: {"net0": made})
    return made


def hmp(client: Client, line: str) -> object:
    return client.ask("human-monitor-command", **{"command-line": line})["return"]


def test_hostfwd_add(client: Client, network: Network) -> None:
    assert hmp(client, "hostfwd_add tcp::2299-:22") == ""
    assert hmp(client, "hostfwd_add net0 udp::53-:53") == ""
    assert network.rules == ["tcp::2299-:22", "udp::53-:53"]
    assert hmp(client, "hostfwd_add bad") == "Invalid host forwarding rule 'bad' (No : separators)\r\n"
    assert hmp(client, "hostfwd_add nope tcp::1-:2") == "unrecognized netdev id 'nope'\r\n"
    assert hmp(client, "hostfwd_add") == (
        'hostfwd_add: string expected\r\nTry "help hostfwd_add" for more information\r\n'
    )


def test_hostfwd_remove(client: Client, network: Network) -> None:
    assert hmp(client, "hostfwd_remove there") == "host forwarding rule for there removed\r\n"
    assert hmp(client, "hostfwd_remove net0 gone") == "host forwarding rule for gone not found\r\n"
    assert hmp(client, "hostfwd_remove xx") == "invalid format\r\n"


def test_info_usernet(client: Client, network: Network) -> None:
    assert hmp(client, "info usernet") == "Hub -1 (net0):\r\n  table\r\n"


def test_without_a_user_network(client: Client) -> None:
    assert hmp(client, "info usernet") == ""
    assert hmp(client, "hostfwd_add tcp::1-:2") == "user mode network stack not in use\r\n"
    assert hmp(client, "hostfwd_add net0 tcp::1-:2") == "invalid device specified\r\n"
