"""`vnic.Lab` with real kernels: a lab from a mapping, its guests' commands, its end also where this process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.integration.process import Place, new_place, wait_for

import vnic
from vnic.lab.live.place import place_of

PAIR = {
    "name": "pair",
    "nodes": {"a": {"kind": "uml"}, "b": {"kind": "uml"}},
    "links": [{"endpoints": ["a:eth1", "b:eth1"], "ipv4": ["10.0.0.1/24", "10.0.0.2/24"]}],
}

pytestmark = pytest.mark.needs("uml")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The lab is made by this process: its environment is that of the place."""
    with new_place() as made, pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "PYTHONPATH"):
            patch.setenv(name, made.environment[name])
        yield made
        assert made.files() == []


@pytest.fixture(scope="module")
def lab(place: Place) -> Iterator[vnic.Lab]:
    with vnic.Lab(PAIR) as made:
        assert made.name.startswith(f"pair-{os.getpid()}-")
        yield made
    made.down()
    assert not place_of(made.name).folder.exists()


def test_what_is_pulled_at_one_end_is_seen_at_the_other(lab: vnic.Lab) -> None:
    near, far = lab.nic("a:eth1"), lab.nic("b.eth1")
    assert "0% packet loss" in lab.guest("a").run("ping -c 1 -W 20 10.0.0.2")
    with near.unplugged(wait=60):
        assert far.wait_seen("down", timeout=60).cause.kind == "far-end"
        assert not lab.guest("b").carrier("eth1")
        assert "at the other end of cable" in str(far.why())
    far.wait_seen("up", timeout=60)
    assert lab.guest("b").wait_carrier(True, "eth1")


def test_commands(lab: vnic.Lab) -> None:
    guest = lab.guest()
    assert guest.name == "a"
    assert guest.run(["echo", "two  words", "$HOME"]) == "two  words $HOME"
    assert guest.try_run("echo out; exit 7") == vnic.Completed(7, "out\n")
    with pytest.raises(vnic.CommandFailed, match="'exit 7' ended with status 7"):
        guest.run("exit 7")
    with pytest.raises(vnic.GuestError, match=r"`sleep 1` has not ended after 0\.1 s"):
        guest.run("sleep 1", timeout=0.1)
    assert guest.run("echo again") == "again"


def test_a_guest_that_died_is_booted_again(lab: vnic.Lab) -> None:
    guest = lab.guest("a")
    os.kill(guest.pid(), signal.SIGKILL)
    wait_for(lambda: not guest.running())
    with pytest.raises(vnic.GuestError, match="a: the guest has ended"):
        guest.run("true")
    lab.up()
    assert [each.name for each in lab.guests() if each.running()] == ["a", "b"]


def test_what_a_lab_does_not_have(lab: vnic.Lab) -> None:
    with pytest.raises(vnic.Refused, match=r"no guest 'c'; it has: a, b"):
        lab.guest("c")
    with pytest.raises(vnic.Refused, match=r"no NIC 'a:eth2'; there are: a\.eth1, b\.eth1"):
        lab.nic("a:eth2")
    assert lab.socket("a.eth1").is_socket()


def test_a_lab_of_a_name_that_is_taken_is_refused(lab: vnic.Lab) -> None:
    with pytest.raises(vnic.Refused, match="is running already"):
        vnic.Lab(name=lab.name).up()
    assert vnic.connect(lab.name).nic("a:eth1").info().link == "up"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"nodes": {"a": {"kind": "uml", "memmory": 1}}}, "did you mean 'memory'"),
        ("nowhere.yml", "nowhere.yml: No such file"),
        ({"nodes": {"a": {"kind": "uml", "exec": ["exit 3"]}}, "links": []}, "`exit 3` ended with status 3"),
    ],
)
def test_a_bad_lab_is_refused_and_leaves_nothing(
    place: Place, source: dict[str, object] | str, said: str
) -> None:
    with pytest.raises(vnic.Refused, match=said), vnic.Lab(source, name="bad"):
        pass
    assert not place_of("bad").folder.exists()


def test_a_name_that_is_none_is_refused(place: Place) -> None:
    with pytest.raises(vnic.Refused, match=r"--name \.\./x"), vnic.Lab(name="../x"):
        pass


def test_a_lab_of_a_process_that_dies_ends(place: Place) -> None:
    code = "import os, vnic; lab = vnic.Lab(name='orphan'); lab.up(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env=place.environment, check=False)
    wait_for(lambda: not place_of("orphan").folder.exists())
