"""A session in command mode on a fake machine with one NIC on one netdev."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.events import record_events
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.qmp import Dispatcher, QmpSession


class Client:
    """Sends bytes to a QmpSession, as over a socket, and keeps the events it receives."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.session = QmpSession(Dispatcher(machine), "QMP client test[1]")
        self.session.negotiated = True
        self.events = record_events(machine.network)

    def raw(self, data: bytes) -> list[Any]:
        """The output for these bytes."""
        return [json.loads(reply) for reply in b"".join(self.session.feed(data)).splitlines()]

    def ask(self, command: str, **arguments: object) -> Any:
        """The only reply to a command."""
        request = {"execute": command, "arguments": arguments}
        (reply,) = self.raw(json.dumps(request).encode())
        return reply

    def error(self, command: str, **arguments: object) -> str:
        """The error's text; the reply must be a GenericError."""
        reply = self.ask(command, **arguments)
        assert reply["error"]["class"] == "GenericError"
        return str(reply["error"]["desc"])

    def hmp(self, line: str) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": line})["return"])


@pytest.fixture
def client() -> Client:
    client = Client(FakeMachine())
    client.ask("netdev_add", type="stream", id="net0", addr={"type": "unix", "path": "s"})
    client.ask("device_add", driver="virtio-net", id="nic0", netdev="net0")
    client.events.clear()
    return client
