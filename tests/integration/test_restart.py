"""SIGKILL of control: the next one goes on where it was, and neither guests nor peers notice."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.kept_vnic import KeptVnic, kept_vnic
from tests.integration.process import Place, PlayedGuest, guest_on, wait_for

ECHO = ("-netdev", "echo,id=net0")
NIC = ("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock")


def links(vnic: KeptVnic) -> Any:
    """query-links without what a restart may change: times, and which change was the last one of each."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: strip(each)
                for key, each in value.items()
                if key not in ("monotonic-us", "since", "time")
            }
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(vnic.qmp.run("query-links"))


def sees(guest: PlayedGuest, up: bool) -> bool:
    return guest.sees_up() is up


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two answers differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (each, another) in enumerate(zip(one, other, strict=True)):
            yield from differences(each, another, f"{place}[{at}]")
    elif one != other:
        yield f"{place}: {one!r}, not {other!r}"


def test_guest_keeps_its_link_and_hears_of_each_change(place: Place) -> None:
    with kept_vnic(place, *ECHO, *NIC) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        times = []
        for up in (False, True, False, True):
            vnic.qmp.run("set_link", name="nic0", up=up)
            wait_for(partial(sees, guest, up))
            before = links(vnic)
            times.append(vnic.kill())
            assert links(vnic) == before
            assert guest.sees_up() is up
            assert not guest.gone.is_set()
        print("control answered again after", *(f"{each * 1000:.0f} ms" for each in times))


def test_ordered_change_arrives_whenever_control_dies(place: Place) -> None:
    """It was acknowledged, so that it is carried out, also where the guest was not interrupted yet."""
    with kept_vnic(place, *ECHO, *NIC) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        for up in (False, True, False, True):
            guest.obeys.clear()
            vnic.qmp.run("set_link", name="nic0", up=up)
            vnic.kill()
            guest.obeys.set()
            wait_for(partial(sees, guest, up))


def test_everything_that_a_monitor_made_is_there_again(place: Place) -> None:
    options = (*ECHO, *NIC, "-chardev", "socket,id=char0,path=char0.sock,server=on,wait=off")
    with kept_vnic(place, *options) as vnic:
        run = vnic.qmp.run
        run("netdev_add", type="hubport", id="port0", hubid=7)
        run("netdev_add", type="cable", id="cable0", cable="c")
        run("netdev_add", type="cable", id="cable1", cable="c")
        run("device_add", driver="e1000", id="nic1", netdev="cable0", attach=vfio("nic1.sock"))
        run(
            "device_add",
            driver="virtio-net",
            netdev="cable1",
            attach={"type": "vhost-user", "path": "anonymous.sock"},
        )
        run("netdev_add", type="stream", id="net1", server=True, addr={"type": "unix", "path": "net1.sock"})
        run("netdev_add", type="echo", id="late")
        for name in ("f0", "f1"):
            run(
                "object-add",
                qom_type="netem",
                id=name,
                netdev="net0",
                queue="tx" if name == "f0" else "rx",
                delay="10ms",
            )
        run("object-add", qom_type="link-follow", id="follow", nic="nic0", netdev="net1")
        run("chardev-add", id="char1", backend=listening_chardev("char1.sock"))
        run("set_link", name="nic1", up=False)
        run("flap-start", name="net1", down_ms=60_000, up_ms=60_000)
        run("netdev_del", id="late")
        before = answers(vnic)
        network = run("human-monitor-command", command_line="info network")

        for _ in range(2):
            vnic.kill()
            run = vnic.qmp.run
            assert not list(differences(answers(vnic), before))
            assert run("human-monitor-command", command_line="info network") == network
            (flap,) = run("query-flaps")
            assert flap["name"] == "net1"


def answers(vnic: KeptVnic) -> list[Any]:
    queries = ("query-topology", "query-impairments", "query-rx-filter", "query-pci")
    chardevs = sorted(vnic.qmp.run("query-chardev"), key=lambda each: str(each["label"]))
    return [links(vnic), chardevs, *(vnic.qmp.run(query) for query in queries)]


def vfio(path: str) -> dict[str, object]:
    return {"type": "vfio-user", "path": path}


def listening_chardev(path: str) -> dict[str, object]:
    address = {"type": "unix", "data": {"path": path}}
    return {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}


def test_what_a_monitor_deleted_stays_deleted(place: Place) -> None:
    with kept_vnic(place, *ECHO, *NIC, "-netdev", "echo,id=net1") as vnic:
        vnic.qmp.run("netdev_del", id="net0")
        vnic.qmp.run("netdev_del", id="net1")
        before = links(vnic)
        vnic.kill()
        assert links(vnic) == before
        (nic,) = before
        assert [hold["kind"] for hold in nic["holds"]] == ["no-peer"]
        vnic.qmp.run("netdev_add", type="echo", id="net0")
        assert {each["name"]: each["link"] for each in links(vnic)} == {"nic0": "up", "net0": "up"}


def test_monitors_clients_connect_again_at_the_same_socket(place: Place) -> None:
    with kept_vnic(place, "-S", *ECHO, *NIC, "-monitor", "unix:hmp.sock,server=on,wait=off") as vnic:
        with socket.socket(socket.AF_UNIX) as early:
            vnic.kill_only()
            early.settimeout(60)
            early.connect(place.path("hmp.sock"))
            assert early.recv(100).startswith(b"QEMU")
        vnic.reconnect()
        assert vnic.qmp.run("query-status")["status"] == "prelaunch"
        vnic.qmp.run("cont")
        vnic.kill()
        assert vnic.qmp.run("query-status")["status"] == "running"
        assert not Path(place.path("nic0.sock.lock")).read_text().startswith(f"{vnic.process.pid} ")


def test_restart_is_told(place: Place) -> None:
    with kept_vnic(place, *ECHO) as vnic:
        first = vnic.control
        assert "restarted" not in vnic.qmp.run("query-vnic")
        vnic.kill()
        wait_for(lambda: place.verb("log", "--journal", journal(place)).stdout.count("SIGKILL") == 1)
        vnic.kill()
        info = vnic.qmp.run("query-vnic")
        assert info["restarts"] == 2
        told = info["restarted"]
        assert told["times"] == 2
        assert told["how"] == "was killed by SIGKILL"
        assert 0 <= told["away-ms"] < 60_000
        notes = [each for each in vnic.qmp.run("query-journal", limit=100) if each["kind"] == "restart"]
        assert len(notes) == 2
        assert notes[0]["details"]["previous-pid"] == first
        assert place.verb("log").stdout.count("was killed by SIGKILL") == 2


def journal(place: Place) -> str:
    """Its file, which has a record up to 100 ms after it was made."""
    return place.path(".state/vnic/vnic.db")


def test_kill_in_the_midst_of_a_restoration_changes_nothing(place: Place) -> None:
    """Control is killed again after random times, up to well after it is back."""
    with kept_vnic(place, *ECHO, *NIC) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        vnic.qmp.run("set_link", name="nic0", up=False)
        wait_for(lambda: not guest.sees_up())
        before = links(vnic)
        for at in range(6):
            vnic.kill_only()
            time.sleep(0.02 + 0.06 * at)
            vnic.kill()
        assert links(vnic) == before
        assert not guest.gone.is_set()
        vnic.qmp.run("set_link", name="nic0", up=True)
        wait_for(guest.sees_up)


@pytest.mark.parametrize("end", ["signal", "quit"])
def test_orderly_end_leaves_nothing(place: Place, end: str) -> None:
    with kept_vnic(place, *ECHO, *NIC) as vnic:
        vnic.kill()
        if end == "quit":
            vnic.qmp.run("quit")
            vnic.process.wait(60)
            return
    assert place.files() == ["log"]
