"""A record that is damaged while vnic is away costs its own unit, whatever it is, and nobody else."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.integration.kept_vnic import KeptVnic, kept_vnic
from tests.integration.process import Place, guest_on, wait_for

from vnic.state.store import RecordStore

OPTIONS = [
    *("-chardev", "socket,id=ch0,path=ch0.sock,server=on,wait=off", "-mon", "ch0,mode=readline"),
    *("-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock"),
    *("-netdev", "echo,id=net1", "-object", "netem,id=imp0,netdev=net0,delay=1ms"),
    *("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"),
    *("-device", "virtio-net,id=nic1,netdev=net1,attach.type=vhost-user,attach.path=nic1.sock"),
]


def damage(supervisor: int, key: str) -> None:
    """Change a byte of a record in the store that the supervisor holds."""
    for fd in Path(f"/proc/{supervisor}/fd").iterdir():
        if "vnic-state" in os.readlink(fd):
            store = RecordStore.open(os.open(fd, os.O_RDWR | os.O_CLOEXEC))
            start, size = store._places[key]
            store._log[start + size // 2] ^= 0x10
            store.close()
            return
    raise AssertionError("the supervisor has no state")


def shown(vnic: KeptVnic) -> dict[str, Any]:
    return {
        "links": sorted((link["name"], link["link"]) for link in vnic.qmp.run("query-links")),
        "filters": [each["id"] for each in vnic.qmp.run("query-impairments")],
        "chardevs": sorted(chardev["label"] for chardev in vnic.qmp.run("query-chardev")),
    }


@pytest.mark.parametrize(
    "key",
    [
        "item/chardev/ch0",
        "item/netdev/net0",
        "client/netdev/net0",
        "netdev/net0",
        "item/object/imp0",
        "object/imp0",
        "item/device/nic0",
        "client/device/nic0",
        "nic/nic0",
        "vm/nic0",
        "chardev/ch0",
        "monitor/ch0",
        "monitor/qmp",
        "claim",
    ],
)
def test_a_damaged_record_costs_its_own_unit_alone(place: Place, key: str) -> None:
    with kept_vnic(place, *OPTIONS) as vnic, guest_on(place.path("nic1.sock")) as other:
        before = shown(vnic)
        vnic.kill_only()
        damage(vnic.process.pid, key)
        vnic.reconnect()
        wait_for(lambda: shown(vnic) == before)
        assert not other.gone.is_set()
        with guest_on(place.path("nic0.sock")) as guest, socket.socket(socket.AF_UNIX) as peer:
            peer.connect(place.path("net0.sock"))
            wait_for(guest.sees_up)
        said = vnic.log()
        assert f"{key}: its state cannot be restored, it starts anew: it is damaged" in said
        assert "is lost in the restart" not in said
        assert "exit code" not in said
