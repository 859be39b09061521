"""Commands about the monitor itself (qapi/control.json, introspect.json): negotiation, versions, introspection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from vnic.monitor.commands.table import COMMANDS, Caller, command
from vnic.monitor.events import EVENTS
from vnic.monitor.hmp_commands import run_line
from vnic.monitor.interfaces import MonitoredMachine
from vnic.monitor.passed_fds import Passed
from vnic.monitor.policy import Policy, allows_qmp
from vnic.monitor.schema.introspect import Introspection
from vnic.monitor.schema.shapes import shape_of
from vnic.monitor.version import VersionInfo, version
from vnic.net.errors import COMMAND_NOT_FOUND, NetError
from vnic.protocol.qmp.encode import LongText


class QmpCapabilities(msgspec.Struct):
    enable: list[Literal["oob"]] = []


@command("qmp_capabilities")
def qmp_capabilities(caller: Caller, args: QmpCapabilities) -> None:
    """Leave negotiation mode (monitor/qmp-cmds-control.c)."""
    if caller.negotiated:
        raise NetError("Capabilities negotiation is already complete, command ignored", COMMAND_NOT_FOUND)
    caller.oob = "oob" in args.enable
    caller.negotiated = True


@command("query-version")
def query_version(caller: Caller) -> VersionInfo:
    """vnic's own version; `package` shows that this is not QEMU."""
    return version()


class CommandInfo(msgspec.Struct):
    name: str


@command("query-commands")
def query_commands(caller: Caller) -> list[CommandInfo]:
    """Those that this monitor's policy allows."""
    return [CommandInfo(name) for name in _allowed(caller)]


def _allowed(caller: Caller) -> list[str]:
    return [name for name in sorted(COMMANDS) if allows_qmp(caller.policy, name)]


class SchemaInfo(msgspec.Struct, rename="kebab"):
    """SchemaInfo, without the branches that its meta-type selects."""

    name: str
    meta_type: Literal["builtin", "enum", "array", "object", "alternate", "command", "event"]


@command("query-qmp-schema", returns=list[SchemaInfo])
def query_qmp_schema(caller: Caller) -> Iterator[dict[str, object]]:
    """The schema of what is implemented and allowed, which clients check before they use a feature. Each entry is made
    when the iterator reaches it: all together take tens of milliseconds."""
    introspection = Introspection()
    for name in _allowed(caller):
        entry = COMMANDS[name]
        yield introspection.command(name, entry.arguments_shape(caller.machine), entry.returns_shape())
    for name in sorted(EVENTS):
        data = EVENTS[name]
        yield introspection.event(name, None if data is None else shape_of(data))
    yield from introspection.types()


@dataclass
class Human:
    """The caller of human-monitor-command's line: a separate monitor, without descriptors."""

    machine: MonitoredMachine
    who: str
    passed: Passed
    policy: Policy
    negotiated: bool = True
    oob: bool = False


class HumanMonitorCommand(msgspec.Struct, rename="kebab"):
    command_line: str
    cpu_index: int | None = None


@command("human-monitor-command", returns=str)
def human_monitor_command(caller: Caller, args: HumanMonitorCommand) -> str | LongText | asyncio.Future[str]:
    """Run one HMP line and return its output, including errors. `cpu-index` is accepted as for one CPU, because
    qmp-shell sends it."""
    if args.cpu_index:
        raise NetError("Parameter 'cpu-index' expects a CPU number")
    human = Human(caller.machine, caller.who, Passed(), caller.policy)
    text = caller.machine.fds.run(human.passed.named, run_line, human, args.command_line)
    return text if isinstance(text, str | asyncio.Future) else LongText(text)
