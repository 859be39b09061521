"""A chardev that listens does so from its creation to its deletion, as QEMU's, whether it is in use or not."""

from __future__ import annotations

import json
import os
import socket

import pytest
from tests.integration.process import Place, wait_for

pytestmark = pytest.mark.needs("loopback")

SERVER = "socket,id=c0,path=c0.sock,server=on,wait=off"


def _link(place: Place) -> str:
    links = json.loads(place.verb("link", "--json", "-n", "vnic").stdout)
    return next(str(link["link"]) for link in links if link["name"] == "nic0")


def test_a_back_end_may_come_before_its_netdev(place: Place) -> None:
    path = place.path("c0.sock")
    back_end = "virtio-net,id=b0,netdev=e,attach.type=vhost-user,attach.path=c0.sock,attach.server=off"
    nic = "virtio-net,id=nic0,netdev=vu0,attach.type=vhost-user,attach.path=nic0.sock"
    with place.run("-netdev", "echo,id=vu0", "-device", nic):
        assert place.verb("netdev", "del", "vu0").returncode == 0
        assert place.verb("hmp", f"chardev-add {SERVER}").stdout == ""
        assert os.path.exists(path)
        with place.run("-netdev", "echo,id=e", "-device", back_end, name="far"):
            assert place.verb("netdev", "add", "vhost-user,id=vu0,chardev=c0", "-n", "vnic").returncode == 0
            wait_for(lambda: _link(place) == "up")
            assert place.verb("netdev", "del", "vu0", "-n", "vnic").returncode == 0
            assert os.path.exists(path), "it is the chardev's"
        assert place.verb("hmp", "chardev-remove c0").returncode == 0
        assert not os.path.exists(path)


def test_chardev_socket_is_removed_with_vnic(place: Place) -> None:
    with place.run("-chardev", SERVER), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(place.path("c0.sock"))
    assert place.files() == []


@pytest.mark.parametrize(
    ("chardev", "why"),
    [
        ("path=no/c0.sock", "Failed to bind socket to no/c0.sock: No such file or directory"),
        ("host=127.0.0.1,port=x", "address resolution failed for 127.0.0.1:x: Servname not supported for ai_socktype"),
    ],
)  # fmt: skip
def test_chardev_that_cannot_listen_is_refused(place: Place, chardev: str, why: str) -> None:
    option = f"socket,id=c0,server=on,{chardev}"
    result = place.command("run", "-chardev", option)
    assert (result.returncode, result.stderr) == (1, f"vnic: -chardev {option}: {why}\n")
    with place.run():
        assert place.verb("hmp", f"chardev-add {option}").stderr == f"Error: {why}\n"
