"""Tests of -monitor-policy: the tables name every command, and a session refuses what its policy does not allow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor import hmp
from vnic.monitor.commands import COMMANDS
from vnic.monitor.hmp_session import HmpSession
from vnic.monitor.policy import HMP_LEAST, QMP_LEAST, Policy, allows_hmp, allows_qmp
from vnic.monitor.qmp import Dispatcher, QmpSession

RESTRICTED = (Policy.READONLY, Policy.LINKS)


def session(policy: Policy) -> QmpSession:
    made = QmpSession(Dispatcher(FakeMachine()), "QMP test", policy=policy)
    made.negotiated = True
    return made


def ask(client: QmpSession, command: str, **arguments: object) -> Any:
    return json.loads(client.reply({"execute": command, "arguments": arguments}))


def test_each_qmp_command_is_classed() -> None:
    assert QMP_LEAST.keys() == COMMANDS.keys()


def test_each_hmp_command_is_classed() -> None:
    assert HMP_LEAST.keys() == {each.full_name for each in (*hmp.COMMANDS, *hmp.INFO)}


def test_command_that_is_not_classed_takes_the_full_policy() -> None:
    for policy in RESTRICTED:
        assert not allows_qmp(policy, "new-command")
        assert not allows_hmp(policy, "info new")


def test_each_policy_allows_what_the_one_before_allows() -> None:
    for name in COMMANDS:
        allowed = [allows_qmp(policy, name) for policy in Policy]
        assert allowed == sorted(allowed)
        assert allowed[-1]


def test_links_allows_cables_and_queries_only() -> None:
    commands = {name for name in COMMANDS if allows_qmp(Policy.LINKS, name)}
    acts = {
        name for name in commands if not name.startswith(("query-", "qom-list", "qom-get", "device-list"))
    }
    assert acts == {
        *("set_link", "flap-start", "flap-stop"),
        *("qmp_capabilities", "human-monitor-command", "x-query-network"),
    }


@pytest.mark.parametrize("policy", RESTRICTED)
def test_refusal_names_the_command_and_the_policy(policy: Policy) -> None:
    error = ask(session(policy), "quit")["error"]
    assert error == {
        "class": "GenericError",
        "desc": f"The command quit is not allowed by this monitor's policy '{policy}'",
    }


@pytest.mark.parametrize("policy", RESTRICTED)
def test_refusal_comes_before_the_arguments_are_read(policy: Policy) -> None:
    assert "not allowed" in ask(session(policy), "netdev_add", type="nonsense")["error"]["desc"]


def test_unknown_command_is_not_found_under_any_policy() -> None:
    for policy in Policy:
        assert ask(session(policy), "no-such")["error"]["class"] == "CommandNotFound"


@pytest.mark.parametrize("policy", Policy)
def test_query_commands_shows_what_is_allowed(policy: Policy) -> None:
    shown = {each["name"] for each in ask(session(policy), "query-commands")["return"]}
    assert shown == {name for name in COMMANDS if allows_qmp(policy, name)}


@pytest.mark.parametrize("policy", Policy)
def test_schema_has_the_commands_that_are_allowed(policy: Policy) -> None:
    schema = ask(session(policy), "query-qmp-schema")["return"]
    shown = {each["name"] for each in schema if each["meta-type"] == "command"}
    assert shown == {name for name in COMMANDS if allows_qmp(policy, name)}


@pytest.mark.parametrize("policy", RESTRICTED)
def test_human_monitor_command_has_the_policy_of_its_monitor(policy: Policy) -> None:
    text = ask(session(policy), "human-monitor-command", **{"command-line": "quit"})["return"]
    assert text == f"Error: The command quit is not allowed by this monitor's policy '{policy}'\r\n"


@pytest.mark.parametrize("line", ["q", "  quit", "s", "c", "device_add help", "netdev_add help,id=a"])
def test_readline_monitor_refuses_short_names_and_help_of_refused_commands(line: str) -> None:
    client = HmpSession(FakeMachine(), "HMP test", policy=Policy.LINKS)
    assert b"not allowed by this monitor's policy 'links'" in b"".join(client.feed(f"{line}\r".encode()))


@pytest.mark.parametrize("policy", Policy)
def test_help_shows_what_is_allowed(policy: Policy) -> None:
    shown = {line.split()[0].split("|")[0] for line in hmp.help_text([], policy).splitlines()}
    assert shown == {each.names[0] for each in hmp.COMMANDS if allows_hmp(policy, each.full_name)}
    assert (hmp.help_text(["quit"], policy) == "unknown command: 'quit'\n") is (policy is not Policy.FULL)
