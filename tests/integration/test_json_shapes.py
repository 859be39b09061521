"""What the verbs print with --json is what docs/schemas say: the real output of each form, validated."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.json_shapes import validate
from tests.fakes.ports import free_ports
from tests.integration.process import PlayedGuest, Running, guest_on, new_place, wait_for

from vnic.adopt.scan.find import FoundVm
from vnic.cli import adopt
from vnic.lab import doctor
from vnic.lab.demo import verb as demo
from vnic.lab.demo.steps import STEPS
from vnic.reference.forms import json_forms
from vnic.reference.shapes import SHAPES

LAB = """\
name: two
nodes: {a: {kind: socket}, b: {kind: socket, model: e1000}}
links: [{endpoints: ["a:eth1", "b:eth1"], state: down}]
"""
OPTIONS = (
    *("-netdev", "echo,id=net0", "-object", "filter-dump,id=dump0,netdev=net0,file=net0.pcap"),
    *("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"),
    *(
        "-netdev",
        "cable,id=net1,cable=c0",
        "-netdev",
        "cable,id=net2,cable=c0",
        "-netdev",
        "hubport,id=hub,hubid=1",
    ),
    *("-device", "e1000,id=nic1,netdev=net1,attach.type=vfio-user,attach.path=nic1.sock"),
    *("-netdev", "stream,id=net3,server=on,addr.type=unix,addr.path=net3.sock"),
    *("-device", "virtio-net,id=nic2,netdev=net3,attach.type=vhost-user,attach.path=nic2.sock"),
)
TUNNEL = "tunnel,id=tun0,remote=127.0.0.1:9,vni=7"


class Rig:
    """A vnic of which every answer has something to tell, and a guest on it."""

    def __init__(self, running: Running, guest: PlayedGuest) -> None:
        self.running = running
        self.place = running.place
        self.guest = guest

    def text(self, *words: str, code: int = 0) -> str:
        done = self.place.verb(*words, "--json")
        assert done.returncode == code, done.stderr
        return done.stdout

    def check(self, form: str, *words: str) -> Any:
        """Validate `vnic WORDS --json` as an answer of `form`."""
        return validate(form, self.text(*words))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    (port,) = free_ports(socket.SOCK_DGRAM, 1)
    with (
        new_place() as place,
        place.run("--keep", *OPTIONS, "-netdev", f"{TUNNEL},local=127.0.0.1:{port}") as running,
        guest_on(place.path("nic0.sock")) as guest,
    ):
        made = Rig(running, guest)
        made.text("link", "set", "nic0", "down", "--wait", "60")
        made.text("link", "set", "nic0", "up", "--wait", "60")
        made.text("link", "impair", "nic0", "--delay", "1ms", "--loss", "1%")
        yield made


def _link(rig: Rig) -> None:
    links = {each["name"]: each for each in rig.check("link", "link")}
    assert links["nic0"]["impairments"]
    assert links["nic0"]["guest"]["seen-latency-us"] > 0
    assert rig.check("link", "link", "-d")["hubs"]


def _link_show(rig: Rig) -> None:
    assert rig.check("link show", "link", "show", "down", "held")
    topology = rig.check("link show", "link", "show", "-d")
    assert [each["id"] for each in topology["clients"][0]["filters"]] == ["dump0", "nic0-netem"]


def _link_set(rig: Rig) -> None:
    assert rig.check("link set", "link", "set", "net2", "down")["type"] == "netdev"
    assert rig.check("link set", "link", "set", "nic1", "down")["holds"]
    assert rig.check("link set", "link", "set", "nic1", "up")


def _link_fault(rig: Rig) -> None:
    rig.check("link fault", "link", "fault", "nic2", "slow-up", "20s")
    rig.check("link fault", "link", "fault", "nic2", "dampened")
    rig.text("link", "set", "nic2", "down")
    rig.text("link", "set", "nic2", "up")
    assert len(rig.check("link fault", "link", "fault", "nic2", "dead")) == 3
    assert rig.check("link fault", "link", "fault", "nic2", "clear") == []


def _flap(rig: Rig) -> None:
    started = rig.check("flap", "flap", "nic2", "--down", "1h", "--up", "1h", "--jitter", "3%")
    assert [each["id"] for each in rig.check("flap", "flap", "--list")] == [started["id"]]
    assert rig.check("flap", "flap", "--stop", started["id"]) == {"id": started["id"]}


def _why(rig: Rig) -> None:
    assert rig.check("why", "why", "nic0")["changes"]
    assert rig.check("why", "why", "nic2")["causes"]
    before = time.time() - 3600
    assert not rig.check(
        "why", "why", "nic0", "--at", time.strftime("%Y-%m-%d %H:%M", time.localtime(before))
    )["vnic-ran"]
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    assert rig.check("why", "why", "nic0", "--at", now)["changes"]


def _log(rig: Rig) -> None:
    kinds = {each["kind"] for each in rig.check("log", "log")}
    assert {"start", "link", "guest", "impaired"} <= kinds


def _watch(rig: Rig) -> None:
    with open(rig.place.path("watched"), "w+") as watched:
        process = rig.place.start("watch", "--json", output=watched)
        path = Path(watched.name)

        def change() -> bool:
            rig.text("link", "set", "nic0", "down", "--wait", "60")
            rig.text("link", "set", "nic0", "up", "--wait", "60")
            return path.read_text().count("\n") > 3

        wait_for(change)
        process.kill()
        process.wait()
        events = [validate("watch", line) for line in path.read_text().split("\n")[:-1]]
    assert {each["event"] for each in events} == {"LINK_CHANGED", "LINK_SEEN"}


def _top(rig: Rig) -> None:
    (look,) = [rig.check("top", "top", "--interval", "0.1", "--count", "1", "type", "nic")]
    nic0 = next(each for each in look["links"] if each["link"]["name"] == "nic0")
    assert nic0["rates"]["bits-in"] >= 0
    assert nic0["hour"][0] is None
    assert 0 < nic0["hour"][-1] <= 1


def _netdev(rig: Rig) -> None:
    assert rig.check("netdev add", "netdev", "add", "echo,id=net9") == {}
    assert rig.check("netdev del", "netdev", "del", "net9") == {}


def _device(rig: Rig) -> None:
    device = "virtio-net,id=nic9,attach.type=vhost-user,attach.path=nic9.sock"
    assert rig.check("device add", "device", "add", device) == {}
    assert rig.check("device del", "device", "del", "nic9") == {}


def _lab(rig: Rig) -> None:
    Path(rig.place.path("lab.yml")).write_text(LAB)
    Path(rig.place.path("bad.yml")).write_text(LAB.replace("kind: socket}", "kind: sokcet}"))
    assert rig.place.verb("lab", "up", "lab.yml").returncode == 0
    try:
        assert rig.check("lab show", "lab", "show", "two")["nodes"]
    finally:
        assert rig.place.verb("lab", "down", "two").returncode == 0
    assert rig.check("lab check", "lab", "check", "lab.yml") == {"errors": [], "notes": []}
    assert validate("lab check", rig.text("lab", "check", "bad.yml", code=1))["errors"]


def _demo(rig: Rig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "STEPS", STEPS[:2])
        assert len(rig.check("demo", "demo", "--guest", "fake")["rows"]) == 3


def _doctor(rig: Rig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "CHECKS", doctor.CHECKS[:4])
        done = rig.place.verb("doctor", "--json")  # what this machine lacks is not the test's concern
    assert len(validate("doctor", done.stdout)) == 4


def _adopt(rig: Rig) -> None:
    vms = [
        FoundVm(id="vm1", type="qemu", name="one", state="running", pid=7, options={"qmp": "/run/vm1.qmp"}),
        FoundVm(id="vm2", type="qemu", name="two", state="running", problem="it has no QMP socket"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adopt, "find_vms", lambda uris: (vms, []))
        assert [each["id"] for each in rig.check("adopt", "adopt", "--scan")] == ["vm1", "vm2"]


OUTPUTS: dict[str, Callable[[Rig], object]] = {
    "link": _link,
    "link show": _link_show,
    "link set": _link_set,
    "link impair": lambda rig: rig.check("link impair", "link", "impair", "--show"),
    "link fault": _link_fault,
    "flap": _flap,
    "tunnel": lambda rig: rig.check("tunnel", "tunnel"),
    "why": _why,
    "log": _log,
    "ps": lambda rig: rig.check("ps", "ps"),
    "watch": _watch,
    "top": _top,
    "netdev add": _netdev,
    "netdev del": _netdev,
    "device add": _device,
    "device del": _device,
    "adopt": _adopt,
    "hmp": lambda rig: rig.check("hmp", "hmp", "info", "network"),
    "lab show": _lab,
    "lab check": _lab,
    "demo": _demo,
    "doctor": _doctor,
    "bench": lambda rig: rig.check("bench", "bench", "start", "--rounds", "1"),
}
"""How a real output of each form comes about, validated."""
ELSEWHERE = {"upgrade": "tests/integration/test_keep.py", "rehearse": "tests/guests/test_rehearse.py"}
"""Forms that another test validates: it calls `validate`."""


@pytest.mark.parametrize("form", [form for form in SHAPES if form not in ELSEWHERE])
def test_what_is_printed_is_what_the_schema_says(rig: Rig, form: str) -> None:
    if form not in OUTPUTS:
        pytest.fail(f"no real output of `vnic {form} --json` is validated: add a row to OUTPUTS")
    OUTPUTS[form](rig)


def test_all_forms_with_json_are_validated() -> None:
    for form in json_forms():
        assert form in SHAPES, f"`vnic {form} --json` has no row in vnic/reference/shapes.py"
    assert {*OUTPUTS, *ELSEWHERE} <= set(SHAPES)
    for form, path in ELSEWHERE.items():
        source = (Path(__file__).parents[2] / path).read_text()
        assert f'validate("{form}"' in source, f"{path} does not validate `vnic {form} --json`"


def test_a_member_that_the_schema_does_not_name_is_found(rig: Rig) -> None:
    links = json.loads(rig.text("link"))
    links[0]["unheard-of"] = 1
    with pytest.raises(Exception, match="unheard-of"):
        validate("link", json.dumps(links))
