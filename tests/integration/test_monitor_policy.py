"""A hostile client of a monitor with a policy tries every command of the schema; only cables may move."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.process import Place, Running, guest_on, is_listening, new_place, wait_for
from tests.integration.qmp import Qmp

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
STATE = (
    *("query-links", "query-topology", "query-chardev", "query-status", "query-flaps", "query-impairments"),
    *("query-faults", "query-fdsets", "query-tunnels"),
)
"""The queries whose answers have to be the same before and after."""


class Lab:
    """A vnic with a guest, a monitor of each policy, and a file that nobody may touch."""

    def __init__(self, place: Place, running: Running) -> None:
        self.running = running
        self.full = Qmp(place.path("full.sock"))
        self.path = place.path
        self.folder = place.folder
        self.victim = place.folder / "victim"
        self.victim.write_text("as it was")

    def state(self) -> dict[str, Any]:
        """All that a client could change, without times that go on by themselves."""
        return {command: _settled(self.full.value(command)) for command in STATE}

    def files(self) -> dict[str, int]:
        """The files of the folder by their sizes, the journal left out."""
        return {
            str(Path(folder, name)): os.lstat(Path(folder, name)).st_size
            for folder, _, names in os.walk(self.folder)
            for name in names
            if ".state" not in folder
        }


def _settled(value: Any) -> Any:
    if isinstance(value, str):
        return value.removeprefix("disconnected:")  # of the monitor that the test itself uses
    if isinstance(value, dict):
        return {key: _settled(each) for key, each in value.items() if key not in ("since", "info")}
    return [_settled(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with new_place() as place:
        monitors = [
            word
            for policy in ("readonly", "links", "full")
            for word in ("-qmp", f"unix:{place.path(policy)}.sock,server=on,policy={policy}")
        ]
        readline = f"unix:{place.path('hmp')}.sock,server=on"
        options = ("-netdev", "echo,id=net0", "-device", NIC, "-monitor", readline)
        process = place.start("run", *options, *monitors, "-monitor-policy", "links")
        running = Running(place, process, place.path("full.sock"))
        with running, guest_on(place.path("nic0.sock")) as guest:
            wait_for(guest.sees_up)
            made = Lab(place, running)
            yield made
            made.full.close()


def _plausible(lab: Lab) -> dict[str, list[dict[str, Any]]]:
    """Arguments with which a `full` client would do harm, by command."""
    victim, fresh = str(lab.victim), lab.path("made-by-client")
    return {
        "netdev_add": [
            {"type": "hubport", "id": "evil", "hubid": 0},
            {"type": "tap", "id": "evil", "script": fresh, "downscript": fresh},
            {"type": "passt", "id": "evil", "path": "/bin/true"},
            {"type": "bridge", "id": "evil", "helper": "/bin/true"},
            {"type": "stream", "id": "evil", "server": True, "addr": {"type": "unix", "path": fresh}},
            {"type": "interface", "id": "evil", "ifname": "lo"},
            {"type": "tunnel", "id": "evil", "remote": "127.0.0.1", "vni": 1, "key-file": victim},
        ],
        "netdev_del": [{"id": "net0"}],
        "device_add": [
            {"driver": "virtio-net", "id": "evil", "attach": {"type": "vhost-user", "path": fresh}},
        ],
        "device_del": [{"id": "nic0"}, {"id": "/machine/peripheral/nic0"}],
        "object-add": [{"qom-type": "filter-dump", "id": "evil", "netdev": "net0", "file": victim}],
        "object-del": [{"id": "f0"}],
        "chardev-add": [
            {
                "id": "evil",
                "backend": {
                    "type": "socket",
                    "data": {"addr": {"type": "unix", "data": {"path": fresh}}, "server": True},
                },
            },
            {"id": "evil", "backend": {"type": "null", "data": {}}},
        ],
        "chardev-remove": [{"id": "compat_monitor0"}],
        "getfd": [{"fdname": "evil"}],
        "closefd": [{"fdname": "evil"}],
        "add-fd": [{}, {"fdset-id": 1}],
        "remove-fd": [{"fdset-id": 0}],
        "link-impair": [{"name": "nic0", "loss": "100%"}],
        "link-fault": [{"name": "nic0", "shape": "dead"}, {"name": "nic0", "clear": True}],
        "qom-set": [{"path": "/objects/f0", "property": "status", "value": "off"}],
        "announce-self": [{"initial": 50, "max": 50, "rounds": 1, "step": 10}],
        "set_link": [{"name": "nic0", "up": False}, {"name": "net0", "up": False}],
        "flap-start": [{"name": "nic0", "down-ms": 50, "up-ms": 50}],
        "flap-stop": [{"id": "flap0"}],
    }


CABLES = ("set_link", "flap-start", "flap-stop")
HMP_LINES = (
    *("quit", "q", "stop", "s", "cont", "c", "system_reset", "netdev_del net0", "device_del nic0"),
    *("netdev_add hubport,id=evil,hubid=0", "device_add virtio-net,id=evil", "object_del f0"),
    *("chardev-add null,id=evil", "chardev-remove compat_monitor0", "getfd evil", "closefd evil"),
    *(
        "qom-set /objects/f0 status off",
        "announce_self",
        "hostfwd_add tcp::5555-:22",
        "hostfwd_remove tcp::5555",
    ),
    "object_add filter-dump,id=evil,netdev=net0,file=victim",
)


def _may_act(name: str) -> bool:
    return not name.startswith(("query-", "x-query-", "qom-get", "qom-list", "device-list-"))


@pytest.mark.parametrize("policy", ["readonly", "links"])
def test_no_command_but_those_for_cables_changes_anything(lab: Lab, policy: str) -> None:
    client = Qmp(lab.path(f"{policy}.sock"))
    before, files = lab.state(), lab.files()
    for name, replies in _replies(client, lab).items():
        for reply in replies:
            if _may_act(name):
                text = f"The command {name} is not allowed by this monitor's policy '{policy}'"
                assert reply["error"] == {"class": "GenericError", "desc": text}
            else:
                assert "not allowed" not in str(reply)
    for line in HMP_LINES:
        assert f"is not allowed by this monitor's policy '{policy}'" in client.hmp(line), line
    client.close()
    assert lab.state() == before
    assert lab.files() == files
    assert lab.victim.read_text() == "as it was"


def _replies(client: Qmp, lab: Lab) -> dict[str, list[dict[str, Any]]]:
    """What is answered to every command that a `full` monitor has, but those for cables."""
    plausible = _plausible(lab)
    commands = {each["name"] for each in lab.full.value("query-commands")}
    return {
        name: [client.ask(name, arguments) for arguments in plausible.get(name, [{}])]
        for name in sorted(commands - {"qmp_capabilities", "human-monitor-command", *CABLES})
    }


def test_readonly_client_cannot_pull_a_cable(lab: Lab) -> None:
    client = Qmp(lab.path("readonly.sock"))
    before = lab.state()
    for name in CABLES:
        for arguments in _plausible(lab)[name]:
            assert "not allowed" in client.ask(name, arguments)["error"]["desc"]
    assert "not allowed" in client.hmp("set_link nic0 off")
    client.close()
    assert lab.state() == before


def test_links_client_pulls_cables_and_plugs_them_in_again(lab: Lab) -> None:
    client = Qmp(lab.path("links.sock"))
    for name in ("nic0", "net0"):
        for up, state in ((False, "down"), (True, "up")):
            assert client.value("set_link", {"name": name, "up": up}) == {}
            assert {each["name"]: each["link"] for each in client.value("query-links")}[name] == state
    assert client.hmp("set_link nic0 off") == client.hmp("set_link nic0 on") == ""
    flap = client.value("flap-start", {"name": "nic0", "down-ms": 20, "count": 1})["id"]
    assert flap in {each["id"] for each in client.value("query-flaps")}
    wait_for(lambda: client.value("query-flaps") == [])
    assert client.value("query-links")[0]["holds"] == []
    client.close()


def test_monitor_without_a_policy_of_its_own_has_the_common_one(lab: Lab) -> None:
    with socket.socket(socket.AF_UNIX) as readline:
        readline.settimeout(30)
        readline.connect(lab.path("hmp.sock"))
        readline.sendall(b"quit\n")
        heard = b""
        while b"not allowed by this monitor's policy 'links'" not in heard:
            heard += readline.recv(4096)


@pytest.mark.parametrize("policy", ["readonly", "links"])
def test_client_can_pass_no_descriptor(lab: Lab, policy: str) -> None:
    before = lab.state()
    client = Qmp(lab.path(f"{policy}.sock"))
    with lab.victim.open() as file:
        try:
            socket.send_fds(client.socket, [b'{"execute":"query-name"}'], [file.fileno()])
        except PermissionError:
            pass  # the kernel refuses it, since Linux 6.16
        else:
            assert client.socket.recv(100) == b""
    client.close()
    assert lab.state() == before


def test_verbs_say_why_they_are_refused(place: Place) -> None:
    options = ("-netdev", "echo,id=net0", "-device", NIC, "-monitor-policy", "links")
    with place.run(*options):
        assert place.verb("link", "set", "nic0", "down").returncode == 0
        refused = place.verb("netdev", "del", "net0")
        assert refused.returncode == 1
        assert "The command netdev_del is not allowed by this monitor's policy 'links'" in refused.stderr
        assert is_listening(place.qmp_path())
