"""SIGKILL of control: the next one goes on where it was, and neither guests nor peers notice."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.kept_vnic import KeptVnic, Lost, kept_vnic
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


def other_program(place: Place, *instead: tuple[str, str]) -> str:
    """A vnic to upgrade to: the same one, with other words in its command line. An empty word is left out."""
    path = Path(place.path("other"))
    table = repr(dict(instead))
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\nwords = [{table}.get(word, word) for word in sys.argv[1:]]\n"
        f"os.execv(sys.executable, [sys.executable, '-m', 'vnic', *filter(None, words)])\n"
    )
    path.chmod(0o755)
    return str(path)


def test_difference_of_the_command_lines_is_carried_out(place: Place) -> None:
    """By an upgrade to a program that has other options: a NIC goes, one comes, one gets another netdev, and what a
    monitor did stays."""
    going = "virtio-net,id=gone,netdev=net1,attach.type=vhost-user,attach.path=gone.sock"
    coming = "virtio-net,id=new,netdev=net1,attach.type=vhost-user,attach.path=new.sock"
    options = (
        *ECHO,
        "-netdev",
        "echo,id=net1",
        *NIC,
        "-device",
        going,
        "-netdev",
        "echo,id=net2",
        "-netdev",
        "echo,id=net3",
    )
    with kept_vnic(place, *options) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        vnic.qmp.run("netdev_add", type="echo", id="monitors")
        vnic.qmp.run("netdev_del", id="net3")
        changes = vnic.qmp.run("query-links", name="nic0")[0]["carrier-changes"]
        program = other_program(place, (going, coming), ("echo,id=net2", "hubport,id=net2,hubid=1"))
        vnic.upgrade(program)

        def names() -> list[str]:
            return [each["name"] for each in vnic.qmp.run("query-links")]

        wait_for(lambda: names() == ["net0", "net1", "nic0", "monitors", "net2", "new"])
        found = {each["name"]: each for each in vnic.qmp.run("query-links")}
        assert found["net2"]["model"] == "hubport"
        assert found["new"]["peer"] == "net1"
        assert found["nic0"]["carrier-changes"] == changes
        assert not Path(place.path("gone.sock")).exists()
        assert Path(place.path("new.sock")).exists()
        assert guest.sees_up()
        assert not guest.gone.is_set()
        again = links(vnic)
        vnic.kill()
        assert links(vnic) == again


def test_refused_option_of_another_command_line_is_one_line(place: Place) -> None:
    options = (*ECHO, "-netdev", "echo,id=net1", *NIC)
    with kept_vnic(place, *options) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        vnic.upgrade(other_program(place, ("echo,id=net1", "tap,id=net1,fd=99")))
        wait_for(lambda: "differs" in vnic.log())
        assert [each["name"] for each in vnic.qmp.run("query-links")] == ["net0", "nic0"]
        assert guest.sees_up()
        (line,) = [line for line in vnic.log().splitlines() if "differs" in line]
        assert line.endswith(
            "-netdev tap,id=net1,fd=99: net1: Can't use file descriptor 99: Bad file descriptor"
        )


def damage(vnic: KeptVnic, was: bytes, becomes: bytes) -> int:
    """Kill control, and change what it has stored before the next one reads it; how often that was there."""
    supervisor = vnic.process.pid
    os.kill(supervisor, signal.SIGSTOP)
    vnic.kill_only()
    found = 0
    for fd in Path(f"/proc/{supervisor}/fd").iterdir():
        if "memfd:vnic-state" in os.readlink(fd):
            with fd.open("r+b") as file:
                stored = file.read()
                found = stored.count(was)
                file.seek(0)
                file.write(stored.replace(was, becomes))
    os.kill(supervisor, signal.SIGCONT)
    vnic.reconnect()
    return found


@pytest.mark.parametrize(
    ("key", "was", "becomes"),
    [
        ("nic/nic0", b'"active_pairs":1,', b'"active_pairs":0,'),
        ("client/device/nic0", b'"name":"nic0","holds"', b'"name":"nic9","holds"'),
        ("item/device/nic0", b'"path\\":\\"nic0.sock', b'"path\\":\\"nicx.sock'),
    ],
)
def test_damaged_record_is_refused_by_name_and_costs_no_other_nic(
    place: Place, key: str, was: bytes, becomes: bytes
) -> None:
    e1000 = "e1000,id=nic1,netdev=net1,attach.type=vfio-user,attach.path=nic1.sock"
    options = (*ECHO, *NIC, "-netdev", "echo,id=net1", "-device", e1000)
    with kept_vnic(place, *options) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        vnic.qmp.run("set_link", name="nic1", up=False)
        before = links(vnic)
        assert damage(vnic, was, becomes) >= 1
        wait_for(guest.gone.is_set)
        found = {each["name"]: each for each in links(vnic)}
        assert found["nic1"] == next(each for each in before if each["name"] == "nic1")
        lines = [line for line in vnic.log().splitlines() if "cannot be restored" in line]
        assert len([line for line in lines if key in line]) == 1, vnic.log()
        if key != "item/device/nic0":  # without it, there is no NIC to start anew
            assert not found["nic0"]["guest"]["attached"]
            wait_for(partial(accepts, place.path("nic0.sock")))  # the keeper lets go of the old socket first
            with guest_on(place.path("nic0.sock")) as another:
                wait_for(another.sees_up)


def accepts(path: str) -> bool:
    """Whether a VM can connect; this one leaves at once."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


OPERATIONS = 40


@pytest.mark.parametrize("seed", range(2))
def test_random_deaths_during_random_commands(place: Place, seed: int) -> None:
    """What was acknowledged is there after any death, and the guest sees each acknowledged state of its link."""
    chance = random.Random(seed)
    with kept_vnic(place, *ECHO, *NIC) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        mortal = Mortal(vnic, chance)
        up = True
        for _ in range(OPERATIONS):
            name = f"x{chance.randrange(3)}"
            kind = chance.choice(["link", "link", "link", "netdev", "nic"])
            if kind == "link":
                up = not up
                mortal.do(partial(is_up, up=up), "set_link", name="nic0", up=up)
                wait_for(partial(sees, guest, up))
            elif mortal.ask(partial(exists, kind=kind, name=name)):
                command = "netdev_del" if kind == "netdev" else "device_del"
                mortal.do(partial(is_gone, kind=kind, name=name), command, id=name)
                wait_for(lambda: mortal.ask(partial(is_gone, kind=kind, name=name)))  # noqa: B023
            elif kind == "netdev":
                mortal.do(partial(exists, kind=kind, name=name), "netdev_add", type="echo", id=name)
            else:
                attach = {"type": "vhost-user", "path": f"{name}.sock"}
                there = partial(exists, kind=kind, name=name)
                mortal.do(there, "device_add", driver="virtio-net", id=name, attach=attach)
            assert not guest.gone.is_set()
        mortal.stop()
        print(f"{mortal.deaths} deaths in {OPERATIONS} commands")
        assert mortal.deaths >= 3
        assert is_up(vnic, up=up)


Question = Callable[[KeptVnic], bool]


class Mortal:
    """Kills control during some commands. A command whose answer was lost is repeated, unless it has taken effect."""

    def __init__(self, vnic: KeptVnic, chance: random.Random) -> None:
        self.deaths = 0
        self._vnic = vnic
        self._chance = chance
        self._timer: threading.Timer | None = None

    def _kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.deaths += 1

    def stop(self) -> None:
        """Wait for the death, if there is to be one, and for the next control."""
        if self._timer is not None:
            self._timer.join()
            self._timer = None
            self._vnic.reconnect()

    def do(self, is_done: Question, command: str, /, **arguments: object) -> None:
        if self._chance.random() < 0.3:
            after = self._chance.random() * 0.004
            self._timer = threading.Timer(after, self._kill, (self._vnic.control,))
            self._timer.start()
        try:
            self._vnic.qmp.run(command, **arguments)
        except Lost:
            self.stop()
            if not self.ask(is_done):
                self._vnic.qmp.run(command, **arguments)
        self.stop()
        assert command == "device_del" or self.ask(
            is_done
        )  # a guest has time to see its link down before that

    def ask(self, question: Question) -> bool:
        try:
            return question(self._vnic)
        except Lost:
            self._vnic.reconnect()
            return question(self._vnic)


def is_up(vnic: KeptVnic, *, up: bool) -> bool:
    return bool(vnic.qmp.run("query-links", name="nic0")[0]["link"] == ("up" if up else "down"))


def exists(vnic: KeptVnic, *, kind: str, name: str) -> bool:
    return any((each["type"], each["name"]) == (kind, name) for each in vnic.qmp.run("query-links"))


def is_gone(vnic: KeptVnic, *, kind: str, name: str) -> bool:
    return not exists(vnic, kind=kind, name=name)
