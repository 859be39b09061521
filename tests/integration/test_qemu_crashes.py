"""Commands that end QEMU 11.1 or 7.2 with a signal: vnic answers each, and serves the next command in a clean state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.process import Place

from vnic.lab.played.back_end import BackEnd


def nic(name: str, netdev: str = "") -> tuple[str, str]:
    plugged = f",netdev={netdev}" if netdev else ""
    return "-device", f"virtio-net,id={name}{plugged},attach.type=vhost-user,attach.path={name}.sock"


def nics(place: Place) -> dict[str, Any]:
    """query-links' entries of the NICs."""
    links = json.loads(place.verb("link", "--json").stdout)
    return {link["name"]: link for link in links if link["type"] == "nic"}


def test_set_link_of_an_id_shared_by_netdev_and_nic_sets_the_netdev(place: Place) -> None:
    with place.run("-netdev", "echo,id=same", *nic("peered", "same"), *nic("same")):
        for word, links in (("down", ("down", "down")), ("up", ("up", "down"))):
            assert place.verb("link", "set", "same", word).returncode == 0
            found = nics(place)
            assert (found["peered"]["link"], found["same"]["link"]) == links
        assert [hold["kind"] for hold in found["same"]["holds"]] == ["no-peer"]


def test_back_end_may_leave_after_its_netdev_was_deleted(place: Place) -> None:
    back_end = BackEnd(Path(place.path("c0.sock")))
    back_end.open()
    chardev = "socket,id=c0,path=c0.sock,reconnect-ms=10"
    with place.run("-chardev", chardev, "-netdev", "vhost-user,id=vu0,chardev=c0", *nic("nic0", "vu0")):
        while nics(place)["nic0"]["link"] == "down":
            back_end.run(0.1)
        assert place.verb("netdev", "del", "vu0").returncode == 0
        back_end.lose()
        back_end.run(0.1)
        assert [hold["kind"] for hold in nics(place)["nic0"]["holds"]] == ["no-peer"]
    back_end.close()


def test_frame_to_a_stream_without_peer_is_dropped(place: Place) -> None:
    with place.run(
        "-netdev", "stream,id=st0,server=on,addr.type=unix,addr.path=st0.sock", *nic("nic0", "st0")
    ):
        assert place.verb("link", "set", "st0", "up").returncode == 0
        assert place.verb("hmp", "announce_self").returncode == 0
        assert [hold["kind"] for hold in nics(place)["nic0"]["holds"]] == ["disconnected"]


def test_virtio_status_query_is_refused(place: Place) -> None:
    with place.run(*nic("nic0")):
        answer = place.verb("hmp", "info virtio-status /machine/peripheral/nic0/virtio-backend")
        assert (answer.returncode, answer.stderr) == (1, "unknown command: 'info virtio-status'\n")
        assert "nic0" in nics(place)
