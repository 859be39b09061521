"""The table of QMP commands, and the decorator that adds a function to it. The files of `commands` use it.

A function's annotations are the types of its arguments and its result; argument checking and query-qmp-schema follow
from them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from vnic.monitor.interfaces import Later, MonitoredMachine
from vnic.monitor.passed_fds import Passed
from vnic.monitor.policy import Policy
from vnic.monitor.schema.shapes import Shape, shape_of

Function = TypeVar("Function", bound=Callable[..., object])
MachineShape: TypeAlias = Callable[[MonitoredMachine], Shape]
"""The arguments of a command that depend on what the machine can create."""


class Caller(Protocol):
    """The client that runs a command: a QMP session."""

    machine: MonitoredMachine
    who: str
    """For the journal: `QMP client python3[4711]`."""
    negotiated: bool
    """Whether the client has left capabilities negotiation mode."""
    oob: bool
    """Whether it may use `exec-oob`."""
    passed: Passed
    """The descriptors that it has passed."""
    policy: Policy
    """What it may do."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, its argument and result types, and its function."""

    name: str
    run: Callable[..., object]
    arguments: type[msgspec.Struct] | MachineShape | None
    returns: Any

    def arguments_shape(self, machine: MonitoredMachine) -> Shape | None:
        if self.arguments is None or isinstance(self.arguments, type):
            return None if self.arguments is None else shape_of(self.arguments)
        return self.arguments(machine)

    def returns_shape(self) -> Shape | None:
        return None if self.returns is None else shape_of(self.returns)


COMMANDS: dict[str, Command] = {}


def command(
    name: str, *, arguments: MachineShape | None = None, returns: Any = None
) -> Callable[[Function], Function]:
    """Add a function `(caller[, arguments]) -> result` under `name`.

    `arguments` and `returns` are given only if annotations cannot express them: the former is then derived from the
    machine, the latter describes the function's plain dicts.
    """

    def enter(function: Function) -> Function:
        hints = typing.get_type_hints(function)
        result = hints.pop("return")
        parameters = [hint for key, hint in hints.items() if key != "caller"]
        COMMANDS[name] = Command(
            name,
            function,
            arguments or (parameters[0] if parameters else None),
            returns or (None if result in (type(None), Later) else result),
        )
        return function

    return enter
