"""The table of QMP commands, and the decorator that puts a function into it.

The function's own annotations say what the command takes and returns; argument checking and query-qmp-schema
follow from them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from vnic.monitor.interfaces import Later, MonitoredMachine
from vnic.monitor.passed_fds import Passed
from vnic.monitor.schema.shapes import Shape, shape_of

Function = TypeVar("Function", bound=Callable[..., object])
MachineShape: TypeAlias = Callable[[MonitoredMachine], Shape]
"""The arguments of a command that depend on what the machine can create."""


class Caller(Protocol):
    """Who asked: a QMP session."""

    machine: MonitoredMachine
    who: str
    """For the journal: `QMP client python3[4711]`."""
    negotiated: bool
    """Whether the client has left capabilities negotiation mode."""
    oob: bool
    """Whether it may say `exec-oob`."""
    passed: Passed
    """The descriptors that it passed on."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, what it takes and returns, and the function behind it."""

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
    """Enter a function `(caller[, arguments]) -> result` under `name`.

    `arguments` and `returns` are given only where the annotations cannot say it: the former is then made of the
    machine, the latter is what the function's plain dicts look like.
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
