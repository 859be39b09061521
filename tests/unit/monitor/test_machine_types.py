"""Tests that the monitor can check and describe every type that the machine can create."""

from __future__ import annotations

import asyncio
import json

from vnic.machine import Machine
from vnic.monitor.qmp import Dispatcher, QmpSession


def test_machine_types_can_be_introspected() -> None:
    async def main() -> None:
        machine = Machine(asyncio.get_running_loop(), "lab")
        session = QmpSession(Dispatcher(machine), "QMP client test[1]")
        session.negotiated = True
        reply = json.loads(session.reply({"execute": "query-qmp-schema"}))
        assert "return" in reply, reply
        schema = {entry["name"]: entry for entry in reply["return"]}
        for command, there in (
            ("netdev_add", machine.netdev_types),
            ("device_add", machine.device_types),
            ("object-add", machine.object_types),
        ):
            union = schema[schema[command]["arg-type"]]
            assert {variant["case"] for variant in union["variants"]} == set(there), command
        await machine.close()

    asyncio.run(main())
