"""Tests of the human monitor's texts, as observed with QEMU 7.2 and 11.1.3."""

from __future__ import annotations

import pytest
from tests.fakes.monitored_machine import HubportOptions

from vnic.monitor.hmp_session import ECHO_PIECE_BYTES, HmpSession
from vnic.monitor.interfaces import RunState
from vnic.monitor.readline import LINE_MAX_BYTES

from .conftest import Client


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", ""),
        ("foo", "unknown command: 'foo'\r\n"),
        ("info foo", "unknown command: 'info foo'\r\n"),
        ("hel", "unknown command: 'hel'\r\n"),
        ("  info   name  ", "lab\r\n"),
        ("info status", "VM status: running\r\n"),
        ("info version", "0.2.0 (vnic)\r\n"),
        (
            "info network x",
            'network: extraneous characters at the end of line\r\nTry "help info network" for more information\r\n',
        ),
        ("set_link nic0 on", ""),
        ('set_link "nic0" off', ""),
        ("set_link\tnic0\ton", ""),
        ("set_link zz off", "Error: Device 'zz' not found\r\n"),
        ("set_link  'nic0' on", "Error: Device ''nic0'' not found\r\n"),
        ("set_link zz maybe", "Expected 'on' or 'off'\r\nTry \"help set_link\" for more information\r\n"),
        ("set_link nic0", "Expected 'on' or 'off'\r\nTry \"help set_link\" for more information\r\n"),
        ("set_link nic0 ON", "Expected 'on' or 'off'\r\nTry \"help set_link\" for more information\r\n"),
        ("set_link", 'set_link: string expected\r\nTry "help set_link" for more information\r\n'),
        (
            "set_link nic0 on off",
            'set_link: extraneous characters at the end of line\r\nTry "help set_link" for more information\r\n',
        ),
        ("q a", 'quit|q: extraneous characters at the end of line\r\nTry "help q" for more information\r\n'),
        ("netdev_del zz", "Error: Device 'zz' not found\r\n"),
        ("netdev_add", "Error: Parameter 'id' is missing\r\n"),
        ("netdev_add bogus,id=x", "Error: Parameter 'type' does not accept value 'bogus'\r\n"),
        ("netdev_add nic,id=f", "Error: network backend 'nic' is not compiled into this binary\r\n"),
        ("netdev_add hubport,id=h", "Error: Parameter 'hubid' is missing\r\n"),
        ("netdev_add hubport,id=h,hubid=1,foo=1", "Error: Invalid parameter 'foo'\r\n"),
        ("netdev_add help", "Available netdev backend types:\r\nstream\r\nhubport\r\n"),
        ("netdev_add type=help", "Available netdev backend types:\r\nstream\r\nhubport\r\n"),
        ("netdev_add hubport,id=h,hubid=1,help", "Error: Invalid parameter 'help'\r\n"),
        ("device_add", "Error: Parameter 'driver' is missing\r\n"),
        ("device_add bogus", "Error: 'bogus' is not a valid device model name\r\n"),
        ("device_add virtio-net,foo=1", "Error: Property 'virtio-net.foo' not found\r\n"),
        ("device_add virtio-net,mq=maybe", "Error: Parameter 'mq' expects 'on' or 'off'\r\n"),
        ("device_add virtio-net,id=nic0", "Error: Duplicate device ID 'nic0'\r\n"),
        ("device_del zz", "Error: Device 'zz' not found\r\n"),
        ("announce_self", ""),
        ("announce_self nic0,nic1 a", ""),
        ("object_add", 'object_add: string expected\r\nTry "help object_add" for more information\r\n'),
        ("object_add filter-dump", "Error: Parameter 'id' is missing\r\n"),
        ("object_add bogus,id=x", "Error: Parameter 'qom-type' does not accept value 'bogus'\r\n"),
        ("object_del f0", "Error: object 'f0' not found\r\n"),
        (
            "object_add filter-dump,id=9,netdev=net0",
            "Error: Parameter 'id' expects an identifier\r\n"
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\r\n",
        ),
        (
            "netdev_add stream,id=s,addr.type=inet,addr.host=127.0.0.1,addr.port=1",
            "Error: Parameter 'type' is missing\r\n",
        ),
        (
            "netdev_add hubport,id=h,hubid=1,local.type=unix",
            "Error: Invalid parameter 'local.type'\r\n",
        ),
        ("netdev_add stream", "Error: Parameter 'id' is missing\r\n"),
        ("netdev_add hubport,id=h,hubid.0=1", "Error: Invalid parameter 'hubid.0'\r\n"),
        ("device_add usb-net", "Error: 'usb-net' is not built into vnic; there are virtio-net\r\n"),
        ("chardev-add null", "Error: chardev: no id specified\r\n"),
        ("chardev-remove zz", "Error: Chardev 'zz' not found\r\n"),
        ("help set_link", "set_link name on|off -- change the link status of a network adapter\r\n"),
        ("? set_link", "set_link name on|off -- change the link status of a network adapter\r\n"),
        ("help ?", "help|? [cmd] -- show the help\r\n"),
        ("help info network", "info network  -- show the network state\r\n"),
        ("help foo", "unknown command: 'foo'\r\n"),
        ("help quit", "quit|q  -- quit the emulator\r\n"),
    ],
)
def test_texts_match_qemu(client: Client, line: str, text: str) -> None:
    assert client.hmp(line) == text


@pytest.mark.parametrize(
    "line",
    ["netdev_add hubport,id=net0,hubid=1", "netdev_add hubport,id=1a,hubid=1", "device_add virtio-net,id=1a"],
)
def test_bad_id_is_logged(client: Client, line: str, caplog: pytest.LogCaptureFixture) -> None:
    assert client.hmp(line) == f'Try "help {line.split()[0]}" for more information\r\n'
    assert "Duplicate ID 'net0'" in caplog.text or "expects an identifier" in caplog.text


@pytest.mark.parametrize("line", ['announce_self "a', 'announce_self "a\\q"'])
def test_bad_string_is_refused(client: Client, line: str) -> None:
    assert client.hmp(line) == (
        'announce_self: string expected\r\nTry "help announce_self" for more information\r\n'
    )


def test_objects_are_added_and_removed(client: Client) -> None:
    assert client.hmp("netdev_add hubport,id=h,hubid=0x10,queues=2") == ""
    assert client.machine.added[-1] == HubportOptions("h", 16, 2)
    assert client.hmp("device_add virtio-net,netdev=h,mq") == ""
    assert client.hmp("device_del nic0") == ""
    assert client.hmp("netdev_del net0") == ""
    assert client.hmp("chardev-add null,id=c") == ""
    assert client.hmp("info chardev") == "c: filename=null\r\n"
    assert client.hmp("chardev-remove c") == ""
    assert client.hmp("object_add filter-dump,id=f0,netdev=h") == ""
    assert client.hmp("object_del f0") == ""
    assert [each.name for each in client.machine.network.clients] == ["h", "virtio-net.1"]


def test_info_links_shows_holds(client: Client) -> None:
    client.hmp("set_link nic0 off")
    assert client.hmp("info links nic0") == (
        "nic0: type=nic,model=virtio-net,link=down,operstate=down,peer=net0,seen=unknown\r\n"
        "  - nic0: operator by QMP client test[1]: set_link nic0 off\r\n"
    )
    assert "net0: type=netdev,model=stream,link=up,operstate=up,peer=nic0\r\n" in client.hmp("info links")


def test_help_lists_commands_in_order(client: Client) -> None:
    names = [line.split()[0] for line in client.hmp("help").splitlines()]
    assert names == sorted(names)
    assert {"set_link", "netdev_add", "info", "help|?", "quit|q"} <= set(names)
    assert client.hmp("info") == client.hmp("help info")
    assert all(line.startswith("info ") for line in client.hmp("info").splitlines())


def test_run_state(client: Client) -> None:
    client.machine.runstate = RunState.PRELAUNCH
    assert client.hmp("info status") == "VM status: paused (prelaunch)\r\n"
    assert client.hmp("c") == ""
    assert client.hmp("stop") == ""
    assert client.hmp("info status") == "VM status: paused\r\n"
    assert client.hmp("quit") == ""
    assert client.events[-1] == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})


# -- a readline monitor's session -------------------------------------------------------------------------------


@pytest.fixture
def person(client: Client) -> HmpSession:
    return HmpSession(client.machine, "HMP client test[1]")


def test_banner_and_prompt(person: HmpSession) -> None:
    assert person.greeting() == b"QEMU 0.2.0 monitor - type 'help' for more information\r\n(qemu) "
    (text,) = person.feed(b"info name\n")
    assert text.endswith(b"info name\x1b[K\r\nlab\r\n(qemu) ")
    assert person.event({"event": "X"}) is None


def test_long_line_is_echoed_in_pieces(person: HmpSession) -> None:
    echo = list(person.feed(b"x" * 1000))
    assert max(map(len, echo)) < ECHO_PIECE_BYTES + 5000
    assert echo[-1].endswith(b"x" * 1000 + b"\x1b[K")


def test_input_beyond_longest_line_is_dropped(person: HmpSession) -> None:
    for _ in person.feed(b"x" * 5000):
        pass
    (text,) = person.feed(b"\n")
    assert text == b"\r\nunknown command: '" + b"x" * LINE_MAX_BYTES + b"'\r\n(qemu) "


def test_nothing_after_quit(person: HmpSession) -> None:
    (text,) = person.feed(b"quit\ninfo name\n")
    assert text.endswith(b"quit\x1b[K\r\n")


def test_exception_in_command_keeps_monitor(
    person: HmpSession, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client.machine, "stop", lambda: 1 / 0)
    (text,) = person.feed(b"stop\n")
    assert b"ZeroDivisionError" in text
    assert "ZeroDivisionError" in caplog.text
