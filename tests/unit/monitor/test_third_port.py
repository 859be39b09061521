"""Tests of a port that is neither socket nor stdio: a client within the process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.connection import Session
from vnic.monitor.server import Mode, Monitors


class QueuePort:
    """One QMP client behind two lists, like a WebSocket's."""

    def __init__(self, monitors: Monitors) -> None:
        self._monitors = monitors
        self.session: Session = monitors.session(Mode.CONTROL, "page")
        self.heard: list[dict[str, Any]] = []
        self.closed = False
        monitors.join(self)

    def say(self, message: dict[str, object]) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(b"".join(self.session.feed(json.dumps(message).encode())))
        return reply

    def event(self, message: dict[str, object]) -> None:
        data = self.session.event(message)
        if data is not None:
            self.heard.append(json.loads(data))

    def close(self) -> None:
        self.closed = True
        self._monitors.leave(self)


def test_port_of_another_kind_runs_qmp_and_gets_events() -> None:
    async def main() -> None:
        machine = FakeMachine()
        monitors = Monitors(machine, asyncio.get_running_loop())
        port = QueuePort(monitors)
        machine.netdev_add(machine.netdev_types["hubport"]("net0", 1))
        assert port.say({"execute": "qmp_capabilities"}) == {"return": {}}
        assert port.say({"execute": "set_link", "arguments": {"name": "net0", "up": False}}) == {"return": {}}
        (event,) = port.heard
        assert event["event"] == "LINK_CHANGED"
        assert event["data"]["cause"]["by"] == "QMP page"
        monitors.close()
        assert port.closed

    asyncio.run(main())


def test_topology_is_one_document() -> None:
    async def main() -> None:
        machine = FakeMachine()
        monitors = Monitors(machine, asyncio.get_running_loop())
        port = QueuePort(monitors)
        port.say({"execute": "qmp_capabilities"})
        machine.netdev_add(machine.netdev_types["hubport"]("net0", 1))
        document = port.say({"execute": "query-topology"})["return"]
        assert [link["name"] for link in document["links"]] == ["net0"]
        assert document["clients"] == [
            {"name": "net0", "type": "netdev", "model": "hubport", "info": ["listening"]}
        ]
        assert document["hubs"] == []
        monitors.close()

    asyncio.run(main())
