"""The human monitor's language: runs a line as a command of `hmp_commands` and returns its text (QEMU's monitor/hmp.c).

`run_line` serves human-monitor-command and the lines of `-monitor`. Arguments are described by QEMU's strings:
`name:s,up:b` is a word and an on|off; `?` makes one optional, `S` is the rest of the line.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vnic.monitor.policy import Policy, allows_hmp, check_hmp
from vnic.net.errors import NetError
from vnic.printable import lines

if TYPE_CHECKING:
    from vnic.monitor.commands.table import Caller

log = logging.getLogger(__name__)

Arguments: TypeAlias = dict[str, str]
Text: TypeAlias = str | Iterator[str] | asyncio.Future[str]
"""The output of a line: text, pieces that are made on request, or a future."""
Run: TypeAlias = "Callable[[Caller, Arguments], str | Iterator[str] | asyncio.Future[None] | None]"

PIECE_LINES = 16
"""The lines of a long text that are made at once: less than a millisecond."""


@dataclass(frozen=True, slots=True)
class HmpCommand:
    """One command; `name` may include short forms: `quit|q`."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    """Names and types, in order."""
    synopsis: str
    help: str
    run: Run
    of_info: bool = False
    """A subcommand of `info`."""

    @property
    def names(self) -> list[str]:
        return self.name.split("|")

    @property
    def full_name(self) -> str:
        """The name in the table of policies."""
        return ("info " if self.of_info else "") + self.names[0]

    def help_line(self, prefix: str = "") -> str:
        return f"{prefix}{self.name} {self.synopsis} -- {self.help}\n"


COMMANDS: list[HmpCommand] = []
INFO: list[HmpCommand] = []
"""The subcommands of `info`."""


def hmp(name: str, arguments: str, synopsis: str, help_: str) -> Callable[[Run], Run]:
    """Add a function `(caller, arguments) -> text or None`; a name that begins with `info ` is a subcommand."""

    def enter(run: Run) -> Run:
        parts = tuple(
            (each.partition(":")[0], each.partition(":")[2]) for each in arguments.split(",") if each
        )
        info = name.startswith("info ")
        table = INFO if info else COMMANDS
        table.append(HmpCommand(name.removeprefix("info "), parts, synopsis, help_, run, info))
        table.sort(key=lambda command: command.name)
        return run

    return enter


class UsageError(Exception):
    """The arguments are invalid: `str()` is printed (if not empty), then a hint at help."""


def run_line(caller: Caller, line: str) -> Text:
    """Run one line; returns its output, with "\\r\\n" line ends."""
    text = _run(caller, line)
    if isinstance(text, asyncio.Future):
        return text
    return _printed(text) if isinstance(text, str) else _in_pieces(text)


def _printed(text: str) -> str:
    return lines(text).replace("\n", "\r\n")


def _in_pieces(text: Iterator[str]) -> Iterator[str]:
    while piece := "".join(itertools.islice(text, PIECE_LINES)):
        yield _printed(piece)


def _run(caller: Caller, line: str) -> Text:
    if not line.strip():
        return ""
    found, at = _find(COMMANDS, line, 0)
    if found is not None and found.name == "info" and line[at:].strip():
        found, at = _find(INFO, line, at)
    typed = line[:at].rstrip()  # with the blanks before it, as QEMU echoes it
    if found is None:
        return f"unknown command: '{typed}'\n"
    try:
        check_hmp(caller.policy, found.full_name)
        text = found.run(caller, _arguments(found, line[at:])) or ""
        return asyncio.ensure_future(_told_later(text)) if isinstance(text, asyncio.Future) else text
    except UsageError as error:
        text = f"{error}\n" if str(error) else ""
        return f'{text}Try "help {typed}" for more information\n'
    except NetError as error:
        return _refusal(error)


async def _told_later(done: asyncio.Future[None]) -> str:
    try:
        await asyncio.shield(done)
    except NetError as error:
        return _refusal(error).replace("\n", "\r\n")
    return ""


def _refusal(error: NetError) -> str:
    return f"Error: {error.desc}\n" + (f"{error.hint}\n" if error.hint else "")


def _find(table: list[HmpCommand], line: str, start: int) -> tuple[HmpCommand | None, int]:
    """The command with the name at `start`, and the position behind the name (get_command_name)."""
    while start < len(line) and line[start].isspace():
        start += 1
    end = start
    while end < len(line) and not line[end].isspace() and line[end] != "/":
        end += 1
    name = line[start:end]
    return next((command for command in table if name in command.names), None), end


# -- arguments (monitor/hmp.c: monitor_parse_arguments) ----------------------------------------------------------


def _arguments(command: HmpCommand, text: str) -> Arguments:
    values: Arguments = {}
    for name, kind in command.arguments:
        text = text.lstrip()
        if kind.endswith("?") and not text:
            continue
        match kind[0]:
            case "s":
                value, text = _word(command, text)
            case "O":  # an option string; the command checks its members
                value, text = _word(command, text) if text else ("", "")
            case "S":
                if not text:
                    raise UsageError(f"{command.name}: string expected")
                value, text = text, ""
            case _:
                assert kind == "b", kind
                value, text = [*text.split(None, 1), "", ""][:2]
                if value not in ("on", "off"):
                    raise UsageError("Expected 'on' or 'off'")
        values[name] = value
    if text.strip():
        raise UsageError(f"{command.name}: extraneous characters at the end of line")
    return values


_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def _word(command: HmpCommand, text: str) -> tuple[str, str]:
    """A word, or a string in double quotes, and the text behind it (get_str)."""
    if not text.startswith('"'):
        words = text.split(None, 1)
        if not words:
            raise UsageError(f"{command.name}: string expected")
        return words[0], words[1] if len(words) == 2 else ""
    value = []
    at = 1
    while at < len(text) and text[at] != '"':
        char = text[at]
        if char == "\\":
            at += 1
            escaped = text[at : at + 1]
            if escaped not in _ESCAPES:
                log.warning("monitor: unsupported escape code: '\\%s'", escaped)
                raise UsageError(f"{command.name}: string expected")
            char = _ESCAPES[escaped]
        value.append(char)
        at += 1
    if at >= len(text):
        log.warning("monitor: unterminated string")
        raise UsageError(f"{command.name}: string expected")
    return "".join(value), text[at + 1 :]


# -- help (monitor/hmp.c: help_cmd) -----------------------------------------------------------------------------


def help_text(topic: list[str], policy: Policy = Policy.FULL) -> str:
    """All commands, or the command of that name (`["info", "network"]`), or the subcommands of info: those that the
    policy allows."""
    infos, prefix = (True, "info ") if topic[:1] == ["info"] else (False, "")
    table = [each for each in (INFO if infos else COMMANDS) if allows_hmp(policy, each.full_name)]
    if not topic:
        return "".join(command.help_line() for command in table)
    if topic == ["info"]:
        return "".join(command.help_line(prefix) for command in table)
    name = topic[1] if prefix else topic[0]
    for command in table:
        if name in command.names:
            return command.help_line(prefix)
    return f"unknown command: '{' '.join(topic)}'\n"
