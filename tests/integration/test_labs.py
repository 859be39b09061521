"""`vnic lab` with nodes whose VMs others start: up, changed, down, all or nothing, and what broken ones leave."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.process import PATIENCE_S, Place, new_place, wait_for

from vnic.backend import NETDEVS
from vnic.lab.live import up, wire
from vnic.lab.live.place import Place as LabPlace

TWO = """\
name: two
nodes: {a: {kind: socket}, b: {kind: socket, model: e1000}, c: {kind: socket}}
links:
  - endpoints: ["a:eth1", "b:eth1"]
  - endpoints: ["b:eth2", "c:eth1"]
    state: down
"""


class Labs:
    """A place with a lab file."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.write(TWO)

    def write(self, text: str) -> None:
        Path(self.place.path("lab.yml")).write_text(text)

    def verb(self, *words: str) -> str:
        """`vnic lab …`, which is to end well; what it printed."""
        done = self.place.verb("lab", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        done = self.place.verb("lab", *words)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.verb("show", "--json"))
        return found

    def left(self) -> list[str]:
        """What is in the runtime folder."""
        return [name for name in self.place.files() if name != "lab.yml"]

    def pid(self) -> int:
        """Of the process that is there as long as the lab is: the keeper's."""
        found = json.loads(self.place.verb("ps", "--json").stdout)
        return int(found[0]["keeper"]["pid"])


@pytest.fixture
def labs() -> Iterator[Labs]:
    with new_place() as place:
        made = Labs(place)
        try:
            yield made
        finally:
            place.verb("lab", "down", "two")


def test_a_lab_comes_up_says_where_its_vms_plug_in_and_leaves_nothing(labs: Labs) -> None:
    said = labs.verb("up", "lab.yml")
    path = f"{labs.place.folder}/vnic/two.lab/b.eth1.sock"
    assert f"b:eth1: plug its VM into {path} (vfio-user)" in said
    shown = labs.shown()
    assert [(node["name"], node["state"]) for node in shown["nodes"]] == [(name, "waiting") for name in "abc"]
    assert shown["nodes"][1]["sockets"]["eth1"] == path
    with socket.socket(socket.AF_UNIX) as vm:
        vm.connect(path)
    holds = [link["held"] for link in shown["links"]]
    assert "its VM is not attached" in holds[0][0]
    assert holds[1] == ["operator: link=off"] or "operator" in holds[1][0]
    assert "a:eth1 ── b:eth1" in labs.verb("show", "lab.yml")
    assert labs.verb("down") == "lab two is down\n"
    assert labs.left() == []
    assert "no lab is running" in labs.refused("down")


@pytest.mark.needs("web")
def test_the_page_of_a_lab(labs: Labs) -> None:
    said = labs.verb("up", "-web", "0", "lab.yml")
    url = re.search(r"^the page is at (http://127\.0\.0\.1:\d+/)\?token=\S+$", said, re.MULTILINE)
    assert url is not None, said
    with urllib.request.urlopen(url[0].removeprefix("the page is at ")) as answer:
        assert answer.status == 200
    assert "lab 'two' runs already: -web is for its start" in labs.refused("up", "-web", "0", "lab.yml")
    assert "-web x: 'x' is neither PORT nor HOST:PORT" in labs.refused("up", "-web", "x", "lab.yml")


def test_a_changed_file_changes_what_differs(labs: Labs) -> None:
    labs.verb("up", "lab.yml")
    pid = labs.pid()
    assert "two: nothing differs\n" in labs.verb("up", "lab.yml")
    labs.write(TWO.replace("state: down", "state: up"))
    assert "vnic: 2 ends plugged or pulled\n" in labs.verb("up", "lab.yml")
    assert "operator" not in str(labs.shown()["links"])
    labs.write(TWO.replace('"c:eth1"]', '"c:eth1"]\n    follow: none'))
    assert "vnic: 2 netdevs added, 2 netdevs deleted\n" in labs.verb("up", "lab.yml")
    labs.write(TWO.partition('  - endpoints: ["b:eth2"')[0])
    assert "vnic: 2 netdevs deleted, 2 NICs deleted\n" in labs.verb("up", "lab.yml")
    assert [link["endpoints"] for link in labs.shown()["links"]] == [["a:eth1", "b:eth1"]]
    assert labs.pid() == pid


def test_a_change_that_fails_is_taken_back(labs: Labs) -> None:
    labs.verb("up", "lab.yml")
    before = labs.shown()["links"]
    own = labs.place.verb("netdev", "add", "echo,id=d.eth1-end", "-n", "two")
    assert own.returncode == 0, own.stderr
    labs.write(TWO.replace("c: {", "d: {kind: socket}, c: {").replace('"a:eth1"', '"d:eth1"'))
    assert "d.eth1-end" in labs.refused("up", "lab.yml")
    assert [link["endpoints"] for link in labs.shown()["links"]] == [each["endpoints"] for each in before]
    assert Path(labs.place.path("vnic/two.lab/a.eth1.sock")).is_socket()


def test_nothing_stays_of_a_lab_that_does_not_come_up(labs: Labs) -> None:
    with labs.place.run(name="two"):
        assert "a vnic named 'two' is running already" in labs.refused("up", "lab.yml")
    assert labs.left() == []


def test_ctrl_c_ends_all_of_it(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(up, "_wait_links", interrupted)
    assert labs.place.verb("lab", "up", "lab.yml").returncode == 130
    assert labs.left() == []


def test_what_a_killed_start_left_is_removed_by_the_next(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # as SIGKILL: no way back is gone
        patch.setattr(up, "clean", lambda *_arguments: None)
        patch.setattr(LabPlace, "remove", lambda _self: None)
        patch.setattr(up, "_wait_links", lambda *_arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            labs.place.verb("lab", "up", "lab.yml")
    pid = labs.pid()
    assert "removing what is left of an earlier one" in labs.verb("up", "lab.yml")
    assert labs.pid() != pid
    labs.verb("down")
    assert labs.left() == []


def test_a_lab_whose_vnic_was_killed_is_shown_and_ended(labs: Labs) -> None:
    labs.verb("up", "lab.yml")
    process = os.pidfd_open(labs.pid())
    signal.pidfd_send_signal(process, signal.SIGKILL)
    wait_for(lambda: labs.shown()["vnic"] == "ended")
    os.close(process)
    assert {link["state"] for link in labs.shown()["links"]} == {"unknown"}
    labs.verb("down")
    assert labs.left() == []


def test_a_vnic_that_hangs_is_ended(labs: Labs) -> None:
    labs.verb("up", "lab.yml")
    pid = labs.pid()
    process = os.pidfd_open(pid)
    signal.pidfd_send_signal(process, signal.SIGSTOP)
    labs.verb("down", "two")
    assert not is_alive(process)
    os.close(process)
    assert labs.left() == []


def test_a_start_that_was_killed_before_it_knew_its_vnic_is_cleaned_up(labs: Labs) -> None:
    labs.verb("up", "lab.yml")
    lab = LabPlace("two", labs.place.folder / "vnic" / "two.lab")
    record = lab.read()
    assert record is not None
    record.complete, record.vnic_pid = False, 0
    lab.write(record)
    labs.verb("up", "lab.yml")
    labs.verb("down")
    assert labs.left() == []


def test_two_ups_at_once_are_refused(labs: Labs) -> None:
    folder = labs.place.folder / "vnic"
    folder.mkdir(mode=0o700)
    with LabPlace("two", folder / "two.lab").locked():
        assert "another vnic lab changes 'two' just now" in labs.refused("up", "lab.yml")


def test_missing_types_are_refused_before_anything_starts(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    netdevs = {name: each for name, each in NETDEVS.items() if name != "cable"}
    monkeypatch.setattr(up, "NETDEVS", netdevs)
    assert "this vnic has no netdev of type cable" in labs.refused("up", "lab.yml")
    monkeypatch.undo()
    monkeypatch.setattr(up, "OBJECTS", {})
    labs.write(TWO.replace("state: down", "impairments: {delay: 10ms}"))
    assert "this vnic has no object of type netem" in labs.refused("up", "lab.yml")
    assert labs.left() == []


def test_impairments_of_a_link(labs: Labs) -> None:
    """They are changed while the lab runs, and the rest of it goes on."""
    labs.write(TWO.replace("state: down", "impairments: {delay: 10ms, loss: 0.5}"))
    labs.verb("up", "lab.yml")

    def impaired() -> list[str]:
        shown = labs.place.verb("link", "show", "b.eth2", "--json", "-n", "two")
        assert not shown.returncode, shown.stderr
        return [each["text"] for each in json.loads(shown.stdout)[0]["impairments"]]

    assert impaired() == ["delay 10ms, loss 0.5%"]
    labs.write(TWO.replace("state: down", "impairments: {delay: 20ms}"))
    assert "1 impairment set or cleared" in labs.verb("up", "lab.yml")
    assert impaired() == ["delay 20ms"]
    labs.verb("down")


def test_words_for_nodes_that_are_not_guests(labs: Labs) -> None:
    labs.verb("up", "lab.yml")
    assert "node 'a' is of kind socket" in labs.refused("exec", "a", "true")
    assert "has no node 'd'" in labs.refused("console", "d")
    assert "lab 'x' is not running; running: two" in labs.refused("show", "x")
    assert "a command is expected" in labs.refused("exec", "a")


def test_check_tells_errors_notes_and_figures(labs: Labs) -> None:
    assert labs.verb("check", "lab.yml") == "lab.yml: lab two, nodes: 3, links: 2\n"
    labs.write(TWO.replace("b: {", "b: {knid: x, "))
    assert labs.refused("check", "lab.yml").startswith(
        "lab.yml:2:32: nodes.b.knid: unknown key; did you mean 'kind'?"
    )
    found = json.loads(labs.place.verb("lab", "check", "--json", "lab.yml").stdout)
    assert (found["errors"][0]["line"], found["errors"][0]["key"]) == (2, "nodes.b.knid")
    assert "vnic: none.yml: No such file or directory" in labs.refused("check", "none.yml")


def test_graph_writes_a_file(labs: Labs) -> None:
    labs.verb("graph", "lab.yml", "-o", "lab.svg")
    assert Path(labs.place.path("lab.svg")).read_text().startswith("<svg ")
    assert labs.verb("graph", "--mermaid", "lab.yml").startswith("graph TD\n")


# -- qemu with an image: a program in QEMU's place ---------------------------------------------------------------------


IMAGE = """\
name: two
nodes: {a: {kind: qemu, image: disk, program: ./qemu, model: virtio-net, arguments: [-snapshot]}, b: {kind: socket}}
links: [{endpoints: ["a:eth1", "b:eth1"]}]
"""

QEMU = """\
#!{python}
import os, socket, sys
words = sys.argv[1:]
if words == ["--version"]:
    print("QEMU emulator version 7.2.0")
    sys.exit()
open("words", "w").write("\\n".join(words))
fds = {{}}
for word in words:
    if word.startswith("socket,id=vnic-"):
        name, fd = word.removeprefix("socket,id=vnic-").split(",fd=")
        fds[name] = socket.socket(fileno=int(fd))
{body}
"""

ANSWERS = """\
qmp = fds["qmp"].makefile("rw")
for reply in ('{"QMP": {}}', '{"return": {}}', '{"return": {}}'):
    if reply != '{"QMP": {}}': qmp.readline()
    print(reply, file=qmp, flush=True)
while data := fds["console"].recv(99):
    if b"off" in data: break
    fds["console"].sendall(data.upper())
"""


def fake_qemu(labs: Labs, body: str) -> None:
    program = labs.place.folder / "qemu"
    program.write_text(QEMU.format(python=sys.executable, body=body))
    program.chmod(0o700)
    (labs.place.folder / "disk").touch()
    labs.write(IMAGE)


@pytest.mark.needs("exec-tmp")
def test_an_image_boots_with_its_arguments_and_has_a_console(labs: Labs) -> None:
    fake_qemu(labs, ANSWERS)
    assert "a: up after" in labs.verb("up", "lab.yml")
    words = (labs.place.folder / "words").read_text().splitlines()
    assert words[-1] == "-snapshot"
    assert "file=disk,if=virtio" in words
    assert "socket,id=nic0-chardev,path=" in str(words)
    assert ",reconnect=1" in str(words)  # of a QEMU of that age
    assert "it runs an image of yours: use its console" in labs.refused("exec", "a", "true")
    control = labs.place.folder / "vnic" / "two.lab" / "a.ctl"
    stream, _ = wire.ask(control, wire.Request("console"))
    with stream:
        stream.settimeout(PATIENCE_S)
        stream.sendall(b"hello")
        assert stream.recv(99) == b"HELLO"
        stream.sendall(b"off")
        assert stream.recv(99) == b""  # the guest ends, and its holder
    wait_for(lambda: labs.shown()["nodes"][0]["state"] == "ended")
    assert "a: it has ended\n" in labs.verb("up", "lab.yml")


@pytest.mark.needs("exec-tmp")
def test_a_guest_that_does_not_start_is_named_and_nothing_stays(labs: Labs) -> None:
    fake_qemu(labs, "sys.exit('no such device')")
    assert "node 'a' did not come up: QEMU did not start" in labs.refused("up", "lab.yml")
    (labs.place.folder / "disk").unlink()
    assert "node 'a' did not come up: disk does not exist" in labs.refused("up", "lab.yml")
    assert labs.left() == ["qemu", "words"]


@pytest.mark.needs("exec-tmp")
def test_a_guest_ends_with_its_vnic_and_with_its_holder(labs: Labs) -> None:
    fake_qemu(labs, ANSWERS)
    labs.verb("up", "lab.yml")
    guest = os.pidfd_open(labs.shown()["nodes"][0]["pid"])
    vnic_process = os.pidfd_open(labs.pid())
    try:
        signal.pidfd_send_signal(vnic_process, signal.SIGKILL)
        wait_for(lambda: not is_alive(guest))
        wait_for(lambda: not (labs.place.folder / "vnic" / "two.lab" / "a.ctl").exists())
    finally:
        os.close(guest)
        os.close(vnic_process)
    labs.verb("up", "lab.yml")


def is_alive(process: int) -> bool:
    return not select.select([process], [], [], 0)[0]
