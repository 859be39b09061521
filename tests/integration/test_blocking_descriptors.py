"""A guest that makes the descriptors it shares with vnic block is cut off, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import os
import time

from qemu.qmp import QMPClient
from tests.integration.process import Place, guest_on, wait_for

from vnic.testing.driver import NetDriver
from vnic.testing.guest_memory import FakeGuestMemory
from vnic.testing.vhost_user_client import SocketWire, VhostUserClient

ANSWER_LIMIT_S = 1.0
"""Far above what an answer takes, on any machine; a process that waits for the guest never answers."""

FULL = 2**64 - 2
"""The most that an eventfd counts to: a write has to wait."""


async def answer_time_s(path: str) -> float:
    client = QMPClient("test")
    await asyncio.wait_for(client.connect(path), 5)
    began = time.monotonic()
    await asyncio.wait_for(client.execute("query-links"), 5)
    took = time.monotonic() - began
    await client.disconnect()
    return took


def test_a_call_descriptor_made_to_block(place: Place) -> None:
    devices = [
        word
        for nic in ("bad", "good")
        for word in ("-device", f"virtio-net,id={nic},attach.type=vhost-user,attach.path={nic}.sock")
    ]
    running = place.run(*devices)
    try:
        memory = FakeGuestMemory()
        driver = NetDriver(memory)
        wire = SocketWire.connect(place.path("bad.sock"))
        client = VhostUserClient(wire, memory, driver)
        client.start()
        assert not client.link_up()
        for ring in driver.rings:
            os.eventfd_write(ring.call_fd, FULL)
            os.set_blocking(ring.call_fd, True)
        driver.send(bytes(60))
        assert asyncio.run(answer_time_s(running.qmp_path)) < ANSWER_LIMIT_S
        wait_for(wire.closed)
        with guest_on(place.path("good.sock")) as good:
            assert not good.sees_up()
        client.close()
        driver.close()
        memory.close()
    finally:
        code, stderr = running.end()
    assert code == 0
    assert "Traceback" not in stderr
    assert stderr.count("it was made to block") == 1
