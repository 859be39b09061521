"""A vhost-user client whose NIC is restored in another process, as it were: it goes on without a word."""

from __future__ import annotations

import os
import socket

from tests.fakes.loops import fresh_loop, turn, until
from tests.fakes.trips.vhost_user import Host, dup_handles
from tests.fakes.vhost_user_rig import NicRig
from tests.fakes.virtio_lab import frame

from vnic.attach.vhost_user.session import (
    VhostUserSession,
    VhostUserSessionHandles,
    VhostUserSessionRecord,
)
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.net.client_record import NetClientRecord
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.protocol.vhost_user import messages as vu
from vnic.record import decode, encode
from vnic.virtio.attachment import VirtioHandles


def test_client_goes_on_after_a_restore() -> None:
    with fresh_loop() as loop:
        ours, theirs = socket.socketpair()
        before, after = NicRig(loop), NicRig(loop)
        old = VhostUserSession(Host(), loop, ours, before.device, before.nic)
        old.begin()
        client = VhostUserClient(SocketWire(theirs, loop), before.memory, before.driver)
        client.start()
        until(loop, lambda: old.engine.running)
        before.driver.queue_tx(frame(1))
        client.wire.send(vu.encode(vu.GET_STATUS)[:7], [])
        until(loop, lambda: old.pending)
        handles, _ = dup_handles(old.handles.engine)
        records = encode(old.save()), encode(before.device.save()), encode(before.nic.save())

        # The process before ends here: it reads no more, and tells nobody.
        loop.remove_reader(ours)
        for ring in old.engine.rings:
            old.watch_kick(ring.index, None)
        old.memory.on_change.clear()
        for queue in before.device.queues:
            queue.invalidate()

        new = VhostUserSession(Host(), loop, ours.dup(), after.device, after.nic)
        new.restore(decode(VhostUserSessionRecord, records[0]), VhostUserSessionHandles(handles, ()))
        after.nic.restore(decode(NetClientRecord, records[2]))
        after.device.restore(decode(VirtioNetRecord, records[1]), VirtioHandles(new, new.memory))
        new.go_on()

        client.wire.send(vu.encode(vu.GET_STATUS)[7:], [])
        assert client.wire.receive(vu.HEADER.size + vu.U64.size)[-8] & 4, "DRIVER_OK"
        before.driver.rings[1].publish()
        until(loop, lambda: after.sink.frames == [frame(1)])
        after.set_link(False)
        turn(loop)
        assert client.config_changes() == 1
        assert not client.link_up()
        assert after.nic.guest.seen == "down"

        client.close()
        until(loop, lambda: not new.serving)
        os.close(ours.detach())
        old.engine.close()
        old.engine.release()
        old.memory.close()
        for rig in (before, after):
            rig.close()
