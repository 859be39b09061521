"""The verbs that talk to a running vnic: what they print, what they wait for, and their exit codes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.process import (
    COMMAND,
    PATIENCE_S,
    Place,
    Running,
    guest_on,
    wait_for,
)

from vnic.lab.played.vhost_user_client import QEMU_NETDEV_PROTOCOL_FEATURES

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
STREAM = "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock"


@pytest.fixture
def echo(place: Place) -> Iterator[Running]:
    """nic0 plugged into an echo."""
    with place.run("-netdev", "echo,id=net0", "-device", NIC) as running:
        yield running


def links(place: Place) -> dict[str, Any]:
    return {link["name"]: link for link in json.loads(place.verb("link", "--json").stdout)}


# -- ps ---------------------------------------------------------------------------------------------------------------


def test_ps_shows_each_vnic_and_how_it_fares(place: Place, echo: Running) -> None:
    with place.run(name="other"), guest_on(place.path("nic0.sock")):
        told = {entry["name"]: entry for entry in json.loads(place.verb("ps", "--json").stdout)}
        rows = [line.split("\t") for line in place.verb("ps").stdout.splitlines()]
        named = place.verb("ps", "-n", "other", "--json").stdout
    assert {name: entry["pid"] for name, entry in told.items()} == {
        "vnic": echo.process.pid,
        "other": json.loads(named)[0]["pid"],
    }
    (guest,) = told["vnic"]["memory"]["guests"]
    assert guest["name"] == "nic0"
    assert guest["mapped-bytes"] > 0
    assert told["other"]["memory"]["guests"] == []
    assert 0 < told["vnic"]["loop-lag"]["p50-us"] <= told["vnic"]["loop-lag"]["max-us"]
    assert 10 < told["vnic"]["descriptors"]["open"] <= told["vnic"]["descriptors"]["limit"]
    assert rows[0][:3] == ["NAME", "PID", "UP"]
    assert {row[0] for row in rows[1:]} == {"vnic", "other"}


def test_ps_names_a_vnic_that_does_not_answer(
    place: Place, echo: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.run(name="other") as other:
        monkeypatch.setattr("vnic.cli.client.GREETING_TIMEOUT_S", 1.0)
        other.process.send_signal(signal.SIGSTOP)
        try:
            result = place.verb("ps")
        finally:
            other.process.send_signal(signal.SIGCONT)
    assert f"vnic: {other.qmp_path}: nobody answers there\n" in result.stderr
    assert "other" not in result.stdout


def test_ps_is_empty_while_none_runs(place: Place) -> None:
    assert json.loads(place.verb("ps", "--json").stdout) == []


# -- link -------------------------------------------------------------------------------------------------------------


def test_link_in_a_pipe_is_tab_separated(place: Place) -> None:
    with place.run("-netdev", STREAM, "-device", NIC):
        rows = [line.split("\t") for line in place.verb("link").stdout.splitlines()]
    wait = "disconnected: listening on unix:net0.sock, no peer yet"
    assert rows == [
        ["NAME", "TYPE", "MODEL", "LINK", "OPERSTATE", "PEER", "GUEST SAW", "CHANGES", "HELD BY"],
        ["nic0", "nic", "virtio-net", "down", "lowerlayerdown", "net0", "no guest", "0", f"net0 {wait}"],
        ["net0", "netdev", "stream", "down", "lowerlayerdown", "nic0", "-", "0", wait],
    ]


def test_link_as_json_is_query_links(place: Place, echo: Running) -> None:
    out = place.verb("link", "--json").stdout
    assert len(out.splitlines()) == 1
    assert {link["name"]: link["link"] for link in json.loads(out)} == {"net0": "up", "nic0": "up"}


def test_link_set_waits_until_the_guest_saw_it(place: Place, echo: Running) -> None:
    with guest_on(place.path("nic0.sock")) as guest:
        for word in ("down", "up"):
            result = place.verb("link", "set", "nic0", word, "--wait", "30")
            assert (result.returncode, result.stderr) == (0, "")
            assert result.stdout.startswith(f"nic0 {word}, seen by the guest after ")
            wait_for(lambda word=word: guest.sees_up() == (word == "up"))  # type: ignore[misc]  # bound per turn
        result = place.verb("link", "set", "net0", "down", "--wait", "30", "--json")
        assert json.loads(result.stdout)["guest"]["seen"] == "down"
        assert place.verb("link", "set", "net0", "down", "--wait", "30").returncode == 0, (
            "it has seen it already"
        )


def test_link_set_without_wait_says_what_still_holds_it(place: Place) -> None:
    with place.run("-netdev", STREAM, "-device", NIC):
        assert place.verb("link", "set", "nic0", "down").stdout == "nic0 down\n"
        assert place.verb("link", "set", "nic0", "up").stdout == (
            "nic0 down: the operator's hold is gone, but held by"
            " net0 disconnected: listening on unix:net0.sock, no peer yet\n"
        )


def test_wait_fails_with_what_is_in_the_way(place: Place, echo: Running) -> None:
    result = place.verb("link", "set", "nic0", "down", "--wait", "0.1")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "vnic: no guest is attached to nic0 yet; waiting",
        "vnic: nic0 is down, but after 0.1 s no guest is attached to see it",
    ]
    with guest_on(place.path("nic0.sock")) as guest:
        guest.obeys.clear()
        result = place.verb("link", "set", "nic0", "up", "--wait", "0.1")
        assert result.returncode == 1
        assert result.stderr == "vnic: nic0 is up, but after 0.1 s the guest has last read 'down'\n"
        assert place.verb("link", "set", "net0", "down").returncode == 0
        result = place.verb("link", "set", "nic0", "up", "--wait", "0")
        assert result.stderr.startswith(
            "vnic: nic0 is still down after 0 s, held by net0 operator: set_link net0 off"
        )


def test_wait_for_a_nic_with_its_netdevs_name(place: Place) -> None:
    nic = "virtio-net,id=net0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
    with place.run("-netdev", "echo,id=net0", "-device", nic), guest_on(place.path("nic0.sock")) as guest:
        result = place.verb("link", "set", "net0", "down", "--wait", "30")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("net0 down, seen by the guest after ")
        guest.obeys.clear()
        result = place.verb("link", "set", "net0", "up", "--wait", "0.2")
        assert result.stderr == "vnic: net0 is up, but after 0.2 s the guest has last read 'down'\n"


def test_wait_for_a_guest_that_comes_later(place: Place, echo: Running) -> None:
    waiting = place.start("link", "set", "nic0", "down", "--wait", "30")
    wait_for(lambda: links(place)["nic0"]["link"] == "down")
    with guest_on(place.path("nic0.sock")) as guest:
        out, _ = waiting.communicate(timeout=PATIENCE_S)
        assert not guest.sees_up()
    assert waiting.returncode == 0
    assert out.startswith("nic0 down, seen by the guest")


def test_wait_for_a_guest_whose_first_look_is_no_event(place: Place, echo: Running) -> None:
    """A link that is as it was created, or that an earlier guest saw already, is seen without a LINK_SEEN."""
    for _ in range(2):
        waiting = place.start("link", "set", "nic0", "up", "--wait", "30")
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "vnic: no guest is attached to nic0 yet; waiting\n"
        with guest_on(place.path("nic0.sock")):
            out, _ = waiting.communicate(timeout=PATIENCE_S)
        assert (waiting.returncode, out.startswith("nic0 up, seen by the guest")) == (0, True)


def test_wait_for_a_guest_that_follows_its_socket(place: Place, echo: Running) -> None:
    """QEMU's -netdev vhost-user and DPDK read no status: that they saw it cannot be known, and is said at once."""
    with guest_on(place.path("nic0.sock"), QEMU_NETDEV_PROTOCOL_FEATURES) as guest:
        result = place.verb("link", "set", "nic0", "down", "--wait", "600")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            "vnic: nic0 is down; its guest sees that by its socket, which is closed, and cannot confirm it\n"
        )
        assert guest.gone.wait(PATIENCE_S)
    assert "that is how it sees the link down" in place.verb("why", "nic0").stdout
    assert links(place)["nic0"]["guest"]["seen"] == "unknown"


def test_a_nic_may_be_named_by_its_mac(place: Place, echo: Running) -> None:
    result = place.verb("link", "set", "52:54:00:12:34:56", "down")
    assert (result.returncode, result.stdout) == (0, "nic0 down\n")
    assert place.verb("why", "52-54-00-12-34-56").stdout.startswith("nic0 is down")
    result = place.verb("link", "set", "52:54:00:12:34:57", "down")
    assert (result.returncode, result.stderr) == (1, "vnic: no NIC has the MAC address 52:54:00:12:34:57\n")


def test_wait_for_a_netdev_that_no_nic_is_plugged_into(place: Place) -> None:
    with place.run("-netdev", "echo,id=net0"):
        result = place.verb("link", "set", "net0", "down", "--wait", "1")
        assert result.returncode == 1
        assert result.stderr == "vnic: net0 is plugged into no NIC: there is no guest to wait for\n"


def test_refusals_are_qmps_text_and_exit_code_1(place: Place, echo: Running) -> None:
    for words in (
        ["link", "set", "zz", "up"],
        ["why", "zz"],
        ["netdev", "del", "zz"],
        ["device", "del", "zz"],
    ):
        result = place.verb(*words)
        assert (result.returncode, result.stderr) == (1, "vnic: Device 'zz' not found\n")


@pytest.mark.parametrize(
    "words",
    [
        ["link", "set", "nic0"],
        ["link", "set", "nic0", "sideways"],
        ["link", "set", "nic0", "up", "--wait", "-1"],
        ["link", "set", "nic0", "up", "--wait", "soon"],
        ["link", "set", "nic0", "up", "--for", "1s"],
        ["link", "set", "nic0", "down", "--for", "0"],
        ["flap", "nic0"],
        ["flap"],
        ["link", "-n", "a", "--qmp", "b"],
        ["why"],
        ["why", "nic0", "-c", "x"],
        ["netdev"],
        ["nonsense"],
        [],
    ],
)
def test_wrong_usage_is_exit_code_2(place: Place, words: list[str]) -> None:
    result = place.verb(*words)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr


@pytest.mark.parametrize("words", [["link", "--bogus"], ["why", "nic0", "--bogus"], ["doctor", "--bogus"]])
def test_an_unknown_option_is_answered_with_the_usage_of_its_verb(place: Place, words: list[str]) -> None:
    lines = place.verb(*words).stderr.splitlines()
    assert lines[0].startswith(f"usage: vnic {words[0]} [")
    assert lines[-1] == f"vnic {words[0]}: error: unrecognized arguments: --bogus"


# -- flap -------------------------------------------------------------------------------------------------------------


def test_flap_goes_on_without_its_client(place: Place, echo: Running) -> None:
    said = place.verb("flap", "nic0", "--down", "50ms", "--up", "50ms", "--jitter", "10%", "--seed", "7")
    assert said.stdout == "flap-1: nic0 flaps, seed 7\n"
    wait_for(lambda: links(place)["nic0"]["carrier-changes"] > 3)
    listed = place.verb("flap", "--list").stdout.splitlines()
    assert listed[1].startswith("flap-1\tnic0\t50.0 ms\t50.0 ms\t10%\t7\t")
    assert place.verb("flap", "--stop", "flap-1").returncode == 0
    assert json.loads(place.verb("flap", "--list", "--json").stdout) == []
    assert links(place)["nic0"]["link"] == "up"
    assert place.verb("flap", "--stop", "flap-1").stderr == "vnic: flap 'flap-1' not found\n"


def test_link_is_down_for_a_time(place: Place, echo: Running) -> None:
    assert place.verb("link", "set", "nic0", "down", "--for", "50ms").returncode == 0
    wait_for(lambda: links(place)["nic0"]["carrier-changes"] == 2)
    assert links(place)["nic0"]["link"] == "up"
    assert "up, operator: flap-1: up (by flap-1)" in place.verb("why", "nic0").stdout


# -- why --------------------------------------------------------------------------------------------------------------


def test_why_tells_holds_guest_and_the_chain(place: Place, echo: Running) -> None:
    with guest_on(place.path("nic0.sock")):
        place.verb("link", "set", "nic0", "down", "--wait", "30")
        place.verb("link", "set", "net0", "down")
        place.verb("link", "set", "nic0", "up")
        place.verb("link", "set", "net0", "up", "--wait", "30")
        place.verb("netdev", "del", "net0")
        wait_for(lambda: links(place)["nic0"]["guest"]["seen"] == "down")
        text = place.verb("why", "nic0").stdout
    lines = text.splitlines()
    assert lines[0] == "nic0 is down   nic virtio-net, 52:54:00:12:34:56, wire nic0 ── (nothing)"
    assert lines[1].startswith("  held by no-peer: netdev net0 was deleted (by QMP client ")
    assert lines[1].endswith(" ago)")
    assert lines[2].startswith("  guest: it saw down, ")
    assert "guest saw it after" in text
    assert "follows from #" in text
    assert ", net0 up, operator: set_link net0 on (by QMP client " in text
    assert "nic0 created" in lines[-2]


def test_why_as_json_has_the_whole_chain(place: Place, echo: Running) -> None:
    place.verb("link", "set", "net0", "down")
    said = json.loads(place.verb("why", "nic0", "-c", "1", "--json").stdout)
    (change,) = said["changes"]
    assert change["link"] == "down"
    assert [cause["id"] for cause in said["causes"]] == [change["caused-by"]]
    assert said["causes"][0]["name"] == "net0"


def test_why_tells_of_what_was_deleted(place: Place, echo: Running) -> None:
    place.verb("link", "set", "nic0", "down")
    place.verb("device", "del", "nic0")
    lines = place.verb("why", "nic0").stdout.splitlines()
    assert lines[0] == "nic0 was deleted"
    assert "down, operator: set_link nic0 off (by QMP client " in lines[2]
    said = json.loads(place.verb("why", "nic0", "--json").stdout)
    assert said["links"] == []
    assert [change["link"] for change in said["changes"]] == ["up", "down"]


# -- watch ------------------------------------------------------------------------------------------------------------


def test_watch_prints_events_until_vnic_ends(place: Place) -> None:
    with place.run("-netdev", "echo,id=net0", "-device", NIC) as running:
        people, programs = place.start("watch"), place.start("watch", "--json")
        try:
            with guest_on(place.path("nic0.sock")):
                _until_watched(running, people, programs)
                place.verb("link", "set", "nic0", "down", "--wait", "30")
        finally:
            running.end()
            spoken, _ = people.communicate(timeout=PATIENCE_S)
            sent, _ = programs.communicate(timeout=PATIENCE_S)
    assert (people.returncode, programs.returncode) == (0, 0)
    assert "nic0 down  operator: set_link nic0 off (by QMP client " in spoken
    assert "nic0 down  the guest saw it after " in spoken
    names = [json.loads(line)["event"] for line in sent.splitlines()]
    assert [name for name in names if name not in PROBES][:2] == ["LINK_CHANGED", "LINK_SEEN"]
    assert "SHUTDOWN" in names


PROBES = ("STOP", "RESUME")


def _until_watched(running: Running, *watching: subprocess.Popen[str]) -> None:
    """Cause PROBES until each of them has printed one: only then it is sure to see what comes next."""
    deaf = [watch.stdout for watch in watching if watch.stdout is not None]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(running.qmp_path)
        with client.makefile("rwb", buffering=0) as stream:

            def probe() -> bool:
                stream.write(b'{"execute": "stop"}{"execute": "cont", "id": 1}')
                while b'"id": 1' not in stream.readline():
                    pass
                for watch in select.select(deaf, [], [], 0.05)[0]:
                    deaf.remove(watch)
                return not deaf

            stream.write(b'{"execute": "qmp_capabilities"}')
            wait_for(probe)


def test_watch_ends_well_on_ctrl_c(place: Place, echo: Running) -> None:
    watching = place.start("watch")
    _until_watched(echo, watching)
    watching.send_signal(signal.SIGINT)
    assert watching.communicate(timeout=PATIENCE_S)[1] == ""
    assert watching.returncode == 0


def test_watch_into_a_closed_pipe_is_silent(place: Place, echo: Running) -> None:
    watching = place.start("watch", "--json")
    assert watching.stdout is not None
    _until_watched(echo, watching)
    watching.stdout.close()
    place.verb("link", "set", "nic0", "down")
    watching.wait(PATIENCE_S)
    assert watching.stderr is not None
    assert watching.stderr.read() == ""
    watching.stderr.close()
    assert watching.returncode == 141


def test_watch_says_when_vnic_is_killed(place: Place) -> None:
    running = place.run("-netdev", "echo,id=net0")
    watching = place.start("watch")
    _until_watched(running, watching)
    running.process.kill()
    running.ended()
    _, stderr = watching.communicate(timeout=PATIENCE_S)
    assert (watching.returncode, stderr) == (1, "vnic: vnic went away without a word\n")


# -- netdev, device, hmp ----------------------------------------------------------------------------------------------


def test_netdev_and_device_come_and_go(place: Place, echo: Running) -> None:
    assert place.verb("netdev", "add", "stream,id=net1,server=on,addr.type=unix,addr.path=n1").returncode == 0
    assert os.path.exists(place.path("n1"))
    device = "virtio-net,id=nic1,netdev=net1,attach.type=vhost-user,attach.path=nic1.sock,link=off"
    assert place.verb("device", "add", device).returncode == 0
    assert [hold["kind"] for hold in links(place)["nic1"]["holds"]] == ["operator", "disconnected"]
    assert place.verb("netdev", "add", '{"type": "echo", "id": "net2", "link": false}').returncode == 0
    assert links(place)["net2"]["link"] == "down"
    assert place.verb("netdev", "del", "net1", "--json").stdout == "{}\n"
    assert not os.path.exists(place.path("n1"))
    assert place.verb("device", "del", "nic1").returncode == 0
    assert not os.path.exists(place.path("nic1.sock")), "`device del` returns when the NIC is gone"
    result = place.verb("device", "del", "/machine/peripheral/nic0")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "desc"),
    [
        (["netdev", "add", "bogus,id=a"], "Parameter 'type' does not accept value 'bogus'"),
        (["netdev", "add", "none,id=a"], "network backend 'none' is not compiled into this binary"),
        (["netdev", "add", "echo,id=net0"], "Duplicate ID 'net0'"),
        (["netdev", "add", "echo,id=a,foo=1"], "Parameter 'foo' is unexpected"),
        (["netdev", "add", "{"], "1:2: JSON parse error, premature end of input"),
        (["device", "add", "usb-net"], "'usb-net' is not built into vnic"),
        (
            ["device", "add", "virtio-net,netdev=zz,attach.type=vhost-user,attach.path=x"],
            "Property 'virtio-net-device",
        ),
    ],
)
def test_refused_additions(shared_echo: Running, words: list[str], desc: str) -> None:
    result = shared_echo.place.verb(*words)
    assert result.returncode == 1
    assert result.stderr.startswith(f"vnic: {desc}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("verb", "text"),
    [("netdev", "help"), ("netdev", "stream,help"), ("device", "help"), ("device", "virtio-net,help")],
)
def test_help_in_an_option_string(place: Place, verb: str, text: str) -> None:
    result = place.verb(verb, "add", text)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == place.verb("run", f"-{verb}", text).stdout
    result = place.verb(verb, "add", "nope,help")
    assert result.returncode == 1
    assert "'nope'" in result.stderr


def test_hmp_prints_what_hmp_prints(place: Place, echo: Running) -> None:
    result = place.verb("hmp", "info network")
    assert (
        result.stdout.splitlines()[0] == "nic0: index=0,type=nic,model=virtio-net,macaddr=52:54:00:12:34:56"
    )
    assert place.verb("hmp", "set_link", "nic0", "off").stdout == ""
    assert links(place)["nic0"]["link"] == "down"
    result = place.verb("hmp", "set_link zz off")
    assert (result.returncode, result.stderr) == (1, "Error: Device 'zz' not found\n")
    assert json.loads(place.verb("hmp", "set_link nic0 on", "--json").stdout) == ""


def test_hmp_help_in_an_option_string_creates_nothing(shared_echo: Running) -> None:
    device = "e1000,id=x,attach.type=vfio-user,attach.path=x.sock,help"
    lines = shared_echo.place.verb("hmp", f"device_add {device}").stdout.splitlines()
    assert lines[0] == "e1000 options:"
    assert {"  attach.path=<string>", "  attach.server=<bool>"} <= set(lines)
    assert "x" not in links(shared_echo.place)
    assert "\n  socket\n" in shared_echo.place.verb("hmp", "chardev-add help").stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nope", "unknown command: 'nope'\n"),
        ("help nope", "unknown command: 'nope'\n"),
        (
            "set_link nic0 maybe",
            "Expected 'on' or 'off'\nTry \"help set_link\" for more information\n",
        ),
        ("netdev_add echo,id=9", 'Try "help netdev_add" for more information\n'),
    ],
)
def test_unknown_hmp_command_exits_1(shared_echo: Running, line: str, said: str) -> None:
    result = shared_echo.place.verb("hmp", line)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", said)


# -- which instance ---------------------------------------------------------------------------------------------------


def test_the_instance_is_found_named_or_asked_for(place: Place) -> None:
    result = place.verb("link")
    assert result.returncode == 1
    assert result.stderr.startswith("vnic: no vnic is running")
    with place.run(name="a") as first:
        assert place.verb("link").returncode == 0
        with place.run(name="b") as second:
            result = place.verb("link")
            assert result.returncode == 1
            assert result.stderr == "vnic: several vnics are running, choose one with --name: a, b\n"
            assert place.verb("link", "--name", "b").returncode == 0
            assert place.verb("link", "--qmp", first.qmp_path).returncode == 0
            assert place.verb("link", "set", "zz", "up", "-n", "a").stderr == "vnic: Device 'zz' not found\n"
            assert second.process.poll() is None
            assert (
                place.verb("link", "-n", "c").stderr == "vnic: no vnic named 'c' is running; running: a, b\n"
            )


@pytest.mark.parametrize(
    "words",
    [
        ["-j", "link", "set", "nic0", "down"],
        ["link", "-j", "set", "nic0", "down"],
        ["--qmp", "{}", "--json", "link", "set", "nic0", "down"],
        ["--qmp={}", "link", "set", "nic0", "down", "-j"],
        ["-n", "vnic", "link", "--json", "set", "nic0", "down"],
    ],
)
def test_options_may_stand_before_the_verb(shared_echo: Running, words: list[str]) -> None:
    result = shared_echo.place.verb(*(word.format(shared_echo.qmp_path) for word in words))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["link"] == "down"


@pytest.mark.parametrize("words", [["--json"], ["--qmp", "x"], ["--json", "nope"], ["-j", "run"]])
def test_options_alone_are_no_verb(place: Place, words: list[str]) -> None:
    result = place.verb(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert " is no verb of vnic; " in result.stderr


def test_socket_without_a_qmp_server_is_refused(place: Place) -> None:
    result = place.verb("link", "--qmp", "none")
    assert (result.returncode, result.stderr) == (1, "vnic: none: No such file or directory\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place.path("odd"))
        listening.listen()
        asking = place.start("link", "--qmp", "odd")
        client, _ = listening.accept()
        client.sendall(b"SSH-2.0-OpenSSH\r\n")
        _, stderr = asking.communicate(timeout=PATIENCE_S)
        client.close()
    assert (asking.returncode, stderr) == (1, "vnic: odd: it does not speak QMP\n")


@pytest.mark.parametrize("words", [["link"], ["link", "--json"], ["why", "nic0"], ["hmp", "help"], ["-h"]])
def test_closed_standard_files_are_no_traceback(shared_echo: Running, words: list[str]) -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&-', "sh", *COMMAND, *words],
        env=shared_echo.place.environment,
        cwd=shared_echo.place.folder,
        stderr=subprocess.PIPE,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_closed_stderr_takes_its_text_along(place: Place) -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "nope"]
    result = subprocess.run(
        command, env=place.environment, stdout=subprocess.PIPE, check=False, timeout=PATIENCE_S
    )
    assert (result.returncode, result.stdout) == (2, b"")


def test_argument_that_is_not_utf8_is_refused(shared_echo: Running) -> None:
    addr = "stream,id=a,addr.type=unix,addr.path=\udcff"
    for words in (["why", "\udcff"], ["hmp", "set_link \udcff on"], ["netdev", "add", addr]):
        result = shared_echo.place.verb(*words)
        told = "vnic: an argument is no text: it holds bytes that are not UTF-8\n"
        assert (result.returncode, result.stdout, result.stderr) == (1, "", told)


def test_help_and_version(place: Place) -> None:
    result = place.verb("--help")
    assert result.returncode == 0
    for verb in ("run", "link", "why", "watch", "netdev", "hmp", "demo", "doctor", "bench"):
        assert f"\n  {verb} " in result.stdout
    assert place.verb("--version").stdout.startswith("vnic ")
    for words in (
        ["link", "-h"],
        ["link", "set", "-h"],
        ["why", "-h"],
        ["netdev", "add", "-h"],
        ["hmp", "-h"],
    ):
        assert place.verb(*words).returncode == 0


# -- misspelt names, filters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("link", "set", "nci0", "down"), "vnic: Device 'nci0' not found (did you mean 'nic0'?)\n"),
        (("why", "nic00"), "vnic: Device 'nic00' not found (did you mean 'nic0'?)\n"),
        (("netdev", "del", "nett0"), "vnic: Device 'nett0' not found (did you mean 'net0'?)\n"),
        (("link", "set", "xyzzy", "down"), "vnic: Device 'xyzzy' not found\n"),
        (("hmp", "set_lnk"), "unknown command: 'set_lnk'\nvnic: did you mean 'set_link'?\n"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(
    shared_echo: Running, words: tuple[str, ...], error: str
) -> None:
    result = shared_echo.place.verb(*words)
    assert (result.returncode, result.stderr) == (1, error)


def test_an_unknown_instance_is_refused_with_the_one_that_was_meant(shared_echo: Running) -> None:
    assert "'vnci' is running (did you mean 'vnic'?)" in shared_echo.place.verb("link", "-n", "vnci").stderr


def test_link_show_has_what_its_filters_choose(shared_echo: Running) -> None:
    def names(*words: str) -> list[str]:
        return [
            each["name"] for each in json.loads(shared_echo.place.verb("link", "show", *words, "-j").stdout)
        ]

    assert names() == names("nic0") == names("dev", "net0") == ["nic0", "net0"]
    assert names("type", "nic") == names("nic0", "type", "nic") == ["nic0"]
    assert names("--sort", "name") == names("--reverse") == ["net0", "nic0"]
    assert names("attached") == []
    table = shared_echo.place.verb("link", "show", "model", "echo", "-d").stdout.splitlines()
    assert [line.split("\t")[0] for line in table] == ["NAME", "net0"]
