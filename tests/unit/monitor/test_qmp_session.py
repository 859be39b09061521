"""Tests of greeting, negotiation, ids and malformed requests, with the answers observed from QEMU 7.2."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.fakes.loops import fresh_loop
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.commands import vm_probes
from vnic.monitor.commands.table import COMMANDS
from vnic.monitor.qmp import Dispatcher, QmpSession

from .conftest import Client


def fresh(machine: FakeMachine | None = None, pretty: bool = False) -> QmpSession:
    return QmpSession(Dispatcher(machine or FakeMachine()), "QMP client", pretty)


def test_greeting() -> None:
    greeting = json.loads(fresh().greeting())["QMP"]
    assert set(greeting["version"]["qemu"]) == {"major", "minor", "micro"}
    assert greeting["capabilities"] == ["oob"]


def test_negotiation_comes_first() -> None:
    session = fresh()
    expecting = {
        "class": "CommandNotFound",
        "desc": "Expecting capabilities negotiation with 'qmp_capabilities'",
    }
    replies = [
        json.loads(reply)
        for reply in session.feed(
            b'{"execute":"query-name","id":1}{"execute":"no-such"} nope {"execute":5}'
            b'{"execute":"qmp_capabilities","arguments":{"enable":5}}'
            b'{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}'
            b'{"execute":"qmp_capabilities","arguments":{"enable":[1]}}'
            b'{"exec-oob":"qmp_capabilities"}'
        )
    ]
    assert replies[0] == {"id": 1, "error": expecting}
    assert replies[1] == {"error": expecting}
    assert [reply["error"]["desc"] for reply in replies[2:]] == [
        "1:54: JSON parse error, invalid keyword 'nope'",
        "QMP input member 'execute' must be a string",
        "Invalid parameter type for 'enable', expected: array",
        "Parameter 'null' does not accept value 'x'",
        "Invalid parameter type for 'enable[0]', expected: string",
        "QMP input member 'exec-oob' is unexpected",
    ]
    assert not session.negotiated
    assert list(session.feed(b'{"execute":"qmp_capabilities"}\n')) == [b'{"return": {}}\r\n']
    assert session.negotiated


@pytest.mark.parametrize(
    ("request_", "klass", "desc"),
    [
        (b'{"exec-oob":"query-name","id":1}', "GenericError", "The command query-name does not support OOB"),
        (b'{"exec-oob":"set_link","id":1}', "GenericError", "The command set_link does not support OOB"),
        (b'{"exec-oob":"nope","id":1}', "CommandNotFound", "The command nope has not been found"),
        (b'{"exec-oob":5,"id":1}', "GenericError", "QMP input member 'exec-oob' must be a string"),
        (
            b'{"execute":"quit","exec-oob":"quit","id":1}',
            "GenericError",
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
    ],
)
def test_out_of_band(request_: bytes, klass: str, desc: str) -> None:
    """As QEMU 7.2 answers for commands that cannot run out of band."""
    session = fresh()
    assert list(session.feed(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}')) == [
        b'{"return": {}}\r\n'
    ]
    (reply,) = session.feed(request_)
    assert json.loads(reply) == {"id": 1, "error": {"class": klass, "desc": desc}}


def test_negotiation_comes_once(client: Client) -> None:
    assert client.ask("qmp_capabilities")["error"] == {
        "class": "CommandNotFound",
        "desc": "Capabilities negotiation is already complete, command ignored",
    }


@pytest.mark.parametrize("request_id", [7, "a", None, [1, 2], {"b": 1, "a": [1.5]}, True])
def test_id_is_returned_with_results_and_errors(client: Client, request_id: object) -> None:
    for name in ("query-name", "no-such"):
        (reply,) = client.raw(json.dumps({"execute": name, "id": request_id}).encode())
        assert reply["id"] == request_id


def test_replies_match_qemus_bytes(client: Client) -> None:
    feed = client.session.feed
    assert list(feed(b'{"execute":"query-name","id":3}')) == [b'{"return": {"name": "lab"}, "id": 3}\r\n']
    assert list(feed(b'{"execute":"x","id":3}')) == [
        b'{"id": 3, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}\r\n'
    ]


@pytest.mark.parametrize(
    ("request_", "desc"),
    [
        (b'"x"\n', "QMP input must be a JSON object"),
        (b"[]\n", "QMP input must be a JSON object"),
        (b"5 ", "QMP input must be a JSON object"),
        (b"{}\n", "QMP input lacks member 'execute'"),
        (b'{"id":7}\n', "QMP input lacks member 'execute'"),
        (b'{"execute":1}\n', "QMP input member 'execute' must be a string"),
        (b'{"execute":"quit","arguments":[]}\n', "QMP input member 'arguments' must be an object"),
        (b'{"execute":"quit","control":{}}\n', "QMP input member 'control' is unexpected"),
        (b'{"exec-oob":"query-name"}\n', "QMP input member 'exec-oob' is unexpected"),
        (b'{"execute":"query-name","arguments":{"b":2}}\n', "Parameter 'b' is unexpected"),
    ],
)
def test_malformed_requests(client: Client, request_: bytes, desc: str) -> None:
    (reply,) = client.raw(request_)
    assert reply["error"] == {"class": "GenericError", "desc": desc}


def test_events_only_after_negotiation() -> None:
    session = fresh()
    assert session.event({"event": "X"}) is None
    session.negotiated = True
    assert session.event({"event": "X"}) == b'{"event": "X"}\r\n'


def test_pretty() -> None:
    session = fresh(pretty=True)
    assert list(session.feed(b'{"execute":"qmp_capabilities"}')) == [
        b'{\r\n    "return": {\r\n    }\r\n}\r\n'
    ]


def test_nothing_runs_after_quit(client: Client) -> None:
    replies = client.raw(b'{"execute":"quit","id":1}{"execute":"netdev_del","arguments":{"id":"net0"}}')
    assert replies == [{"return": {}, "id": 1}]
    assert client.events == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]
    assert client.machine.network.find_netdev("net0") is not None


def test_commands_run_as_replies_are_taken(client: Client) -> None:
    replies = client.session.feed(
        b'{"execute":"set_link","arguments":{"name":"nic0","up":false}} {"execute":"stop"}'
    )
    assert not client.events
    next(replies)
    assert [name for name, _ in client.events] == ["LINK_CHANGED"]


def test_exception_in_command_is_its_error(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(client.machine, "stop", explode)
    assert "ZeroDivisionError" in client.error("stop")
    assert "ZeroDivisionError" in caplog.text
    assert client.ask("query-name") == {"return": {"name": "lab"}}


def test_every_command_can_be_called_without_arguments(client: Client) -> None:
    """Each either returns a result or names the missing parameter."""
    for name in set(COMMANDS) - {"quit", "vnic-upgrade", *vm_probes.REFUSED}:
        reply = client.ask(name)
        if "error" in reply and reply["error"]["class"] == "GenericError":
            assert reply["error"]["desc"].endswith(("is missing", "supplied via SCM_RIGHTS")), name


def test_what_a_command_has_done_later_is_saved_before_its_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = FakeMachine()
    order: list[str] = []

    class Recorded(type(machine.keep)):  # type: ignore[misc]
        def commit(self) -> None:
            order.append("commit")

    machine.keep = Recorded()
    with fresh_loop() as loop:
        done: asyncio.Future[None] = loop.create_future()
        monkeypatch.setattr(machine, "netdev_del", lambda *_: done)
        session = fresh(machine)
        list(session.feed(b'{"execute":"qmp_capabilities"}'))
        order.clear()
        for piece in session.feed(b'{"execute":"netdev_del","arguments":{"id":"net0"}}'):
            order.append(piece.decode().strip())
            if not done.done():
                done.set_result(None)
    assert order == ["commit", "", "commit", '{"return": {}}']
