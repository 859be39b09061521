"""The session of one QMP client, without I/O: bytes in, replies out (QEMU's monitor/qmp.c and qapi/qmp-dispatch.c).

`server.py` makes one for each connection, passes it the input, and writes what it yields.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from vnic.monitor.commands import COMMANDS
from vnic.monitor.interfaces import MonitoredMachine, RunState, finished
from vnic.monitor.passed_fds import Passed
from vnic.monitor.policy import Policy, check_qmp
from vnic.monitor.schema.convert import Visit, compile_shape
from vnic.monitor.version import version
from vnic.net.errors import COMMAND_NOT_FOUND, NetError
from vnic.protocol.qmp import (
    ParseError,
    Stream,
    encode,
    encode_reply,
)
from vnic.protocol.qmp.encode import in_qdict_order

log = logging.getLogger(__name__)

_MEMBERS = frozenset({"execute", "arguments", "id"})
_NO_ARGUMENTS: dict[str, object] = {}
_EMPTY_RETURN = encode({"return": {}})
"""The reply of most commands; made once."""


class Dispatcher:
    """Runs commands on a machine. It serves all sessions, and compiles each command's checks at the first use."""

    def __init__(self, machine: MonitoredMachine) -> None:
        self.machine = machine
        self._entries: dict[str, tuple[Visit | None, Callable[..., Any]]] = {}

    def execute(self, session: QmpSession, name: str, arguments: dict[str, object]) -> object:
        """Check the arguments, run the command, return its result (None: nothing to return).

        Raises NetError.
        """
        visit, run = self._entries.get(name) or self._enter(name)
        if session.policy is not Policy.FULL:
            check_qmp(session.policy, name)
        if visit is not None:
            return run(session, visit(arguments, ""))
        if arguments:
            raise NetError(f"Parameter '{next(iter(arguments))}' is unexpected")
        return run(session)

    def refuse_oob(self, name: str) -> None:
        """QEMU runs commands out of band that could recover a blocked monitor; vnic's monitors never block."""
        self._enter(name)
        raise NetError(f"The command {name} does not support OOB")

    def _enter(self, name: str) -> tuple[Visit | None, Callable[..., Any]]:
        """Find a command and compile its checks. Raises NetError."""
        command = COMMANDS.get(name)
        if command is None:
            raise NetError(f"The command {name} has not been found", COMMAND_NOT_FOUND)
        shape = command.arguments_shape(self.machine)
        entry = (None if shape is None else compile_shape(shape), command.run)
        self._entries[name] = entry
        return entry


class QmpSession:
    """A client: it starts in negotiation mode, and gets events after qmp_capabilities."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        who: str,
        pretty: bool = False,
        passed: Passed | None = None,
        policy: Policy = Policy.FULL,
    ) -> None:
        self.machine = dispatcher.machine
        self.who = who
        self.negotiated = False
        self.oob = False
        self.pretty = pretty
        self.policy = policy
        self.waits_for: asyncio.Future[Any] | None = None
        self.passed = passed or Passed()
        self._dispatcher = dispatcher
        self._stream = Stream()

    def greeting(self) -> bytes:
        return self._encode({"QMP": {"version": version(), "capabilities": ["oob"]}})

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the reply to each message that ends in `data`, a long one in pieces.

        A command runs when its reply is requested. After `quit`, further input is ignored, as in QEMU.
        """
        for message in self._stream.feed(data):
            if self.machine.runstate is RunState.SHUTDOWN:
                return
            yield from self.answer(message)

    def event(self, message: dict[str, object]) -> bytes | None:
        """The bytes of an event for this client, or None while it negotiates."""
        return self._encode(message) if self.negotiated else None

    def reply(self, message: object) -> bytes:
        """Answer one message."""
        return b"".join(self.answer(message))

    def answer(self, message: object) -> Iterator[bytes]:
        """Answer one message (qmp_dispatch), in pieces of which the last ends with the line end."""
        reply: dict[str, object] = {}
        try:
            if isinstance(message, ParseError):
                raise NetError(message.desc)
            if not isinstance(message, dict):
                raise NetError("QMP input must be a JSON object")
            if "id" in message:
                reply["id"] = message["id"]
            name, oob = _check(message, self.oob)
            if not self.negotiated and name != "qmp_capabilities":
                raise NetError(
                    "Expecting capabilities negotiation with 'qmp_capabilities'", COMMAND_NOT_FOUND
                )
            if oob:
                self._dispatcher.refuse_oob(name)
            arguments = message.get("arguments", _NO_ARGUMENTS)
            execute = self._dispatcher.execute
            result = self.machine.fds.run(self.passed.named, execute, self, name, arguments)
            self.machine.keep.commit()  # what is acknowledged outlives this process
            if isinstance(result, asyncio.Future):
                self.waits_for = result
                yield b""
                self.waits_for = None
                self.machine.keep.commit()
                result = finished(result)
            if result is None and not reply and not self.pretty:
                yield _EMPTY_RETURN
                return
            reply["return"] = {} if result is None else result
        except NetError as error:
            reply["error"] = {"class": error.error_class, "desc": error.desc}
        except OSError as error:  # no descriptors, no memory: limits of the host
            reply["error"] = {"class": "GenericError", "desc": str(error.strerror or error)}
        except Exception as error:  # a bug in one command must not end the monitor
            log.exception("QMP: %.200r of %s failed", message, self.who)
            reply["error"] = {"class": "GenericError", "desc": f"Internal error: {error!r}"}
        yield from encode_reply(reply, self.pretty)

    def _encode(self, message: dict[str, object]) -> bytes:
        return encode(message, self.pretty)


def _check(message: dict[str, Any], allow_oob: bool) -> tuple[str, bool]:
    """The command's name, if the message is a valid request, and whether it is to run out of band
    (qmp_dispatch_check_obj)."""
    if message.keys() <= _MEMBERS:
        name, arguments = message.get("execute"), message.get("arguments")
        if isinstance(name, str) and (isinstance(arguments, dict) or "arguments" not in message):
            return name, False  # nothing is wrong, so that the order of the members does not matter
    execute: str | None = None
    for key in in_qdict_order(message):
        value = message[key]
        if key == "execute" or (key == "exec-oob" and allow_oob):
            if execute is not None:
                raise NetError(f"QMP input member '{key}' clashes with '{execute}'")
            if not isinstance(value, str):
                raise NetError(f"QMP input member '{key}' must be a string")
            execute = key
        elif key == "arguments":
            if not isinstance(value, dict):
                raise NetError("QMP input member 'arguments' must be an object")
        elif key != "id":
            raise NetError(f"QMP input member '{key}' is unexpected")
    if execute is None:
        raise NetError("QMP input lacks member 'execute'")
    return message[execute], execute == "exec-oob"
