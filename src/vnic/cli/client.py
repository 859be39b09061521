"""The client side of the verbs: they find the instance that is meant, and open a QMP session with it (qemu.qmp).

Every verb that talks to a running vnic opens one `session` and lets `Refused` pass to `main`, which prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, EventListener, ExecuteError, QMPClient, QMPError

from vnic.cli.spelling import did_you_mean
from vnic.errors import VnicError
from vnic.sockets import rundir
from vnic.sockets.rundir import RunDirError

GREETING_TIMEOUT_S = 5.0

_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")

Entry = dict[str, Any]
"""One JSON object of a reply."""


class Refused(VnicError):
    """The request was refused or cannot be done; `str()` is for a person. Exit code 1."""


def add_instance_options(parser: argparse.ArgumentParser, *, inner: bool = False) -> None:
    """`-n/--name` and `--qmp`: which running vnic is meant. `inner`: the parser around this one has them too."""
    default = argparse.SUPPRESS if inner else None
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "-n", "--name", metavar="INSTANCE", default=default, help="the running vnic of that -name"
    )
    which.add_argument("--qmp", metavar="PATH", default=default, help="the QMP socket of a running vnic")


def find_socket(name: str | None, path: str | None) -> Path:
    """The QMP socket of the instance that is meant; with neither given, of the only one that runs."""
    if path is not None:
        return Path(path)
    running = rundir.running()
    if name is not None:
        if name in running:
            return running[name]
        others = f"; running: {', '.join(running)}" if running else ""
        raise Refused(f"no vnic named '{name}' is running{did_you_mean(name, running)}{others}{_untrusted()}")
    if not running:
        raise Refused(
            f"no vnic is running (or it has no QMP socket in its usual place: give --qmp PATH){_untrusted()}"
        )
    if len(running) > 1:
        raise Refused(f"several vnics are running, choose one with --name: {', '.join(running)}")
    return next(iter(running.values()))


def _untrusted() -> str:
    """The folders that were not searched, except those of root."""
    refusals = [
        rundir.refusal(folder)
        for folder in rundir.folders()
        if folder.exists() and (os.getuid() == 0 or folder.lstat().st_uid != 0)
    ]
    return "".join(f"; not looked into {each}" for each in refusals if each)


async def _connect(path: Path) -> socket.socket:
    """A socket in its usual place that belongs to this user or to root."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(sock, str(path))
        rundir.check_peer(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def open_client(name: str | None = None, qmp: str | None = None) -> QMPClient:
    """A QMP client of the instance that is meant, as of `find_socket`. Refused with what is in the way."""
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    path = find_socket(name, qmp)
    client = QMPClient("vnic")
    try:
        async with asyncio.timeout(GREETING_TIMEOUT_S):
            # What --qmp names is the user's to choose.
            await client.connect(str(path) if qmp is not None else await _connect(path))
    except TimeoutError:
        raise Refused(f"{path}: nobody answers there") from None
    except RunDirError as error:
        raise Refused(f"{path}: {error}") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None
    except ConnectError as error:
        cause = error.exc
        why = "it does not speak QMP"
        if isinstance(cause, OSError):
            why = cause.strerror or str(cause)
        elif isinstance(cause, EOFError):
            why = "it closed the connection at once"
        raise Refused(f"{path}: {why}") from None
    return client


async def close_client(client: QMPClient) -> None:
    """If the server ended first, disconnect raises an error that the caller has already handled."""
    with contextlib.suppress(QMPError, EOFError, OSError):
        await client.disconnect()


def session(args: argparse.Namespace) -> contextlib.AbstractAsyncContextManager[Session]:
    """A QMP session with the instance that `args` (of `add_instance_options`) means."""
    return session_at(args.name, args.qmp)


@contextlib.asynccontextmanager
async def session_at(
    name: str | None = None, qmp: str | os.PathLike[str] | None = None
) -> AsyncIterator[Session]:
    """The same, of that name, or with its socket at the path `qmp`."""
    client = await open_client(name, None if qmp is None else os.fspath(qmp))
    try:
        yield Session(client)
    finally:
        await close_client(client)


class Session:
    """Commands and events of one connection."""

    def __init__(self, client: QMPClient) -> None:
        self.client = client

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run a command; `_` in an argument's name stands for `-`. An error reply raises Refused with its text."""
        given = {key.replace("_", "-"): value for key, value in arguments.items() if value is not None}
        return await self.execute_with(command, given)

    async def execute_with(self, command: str, arguments: Entry) -> Any:
        """Run a command with the arguments as they are."""
        try:
            json.dumps(arguments, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # words of the command line may hold any bytes (PEP 383)
            raise Refused("an argument is no text: it holds bytes that are not UTF-8") from None
        try:
            return await self.client.execute(command, arguments or None)
        except ExecuteError as error:
            raise Refused(f"{error}{await self._meant(str(error), arguments)}") from None
        except QMPError:
            raise Refused("vnic ended before it answered") from None

    async def _meant(self, text: str, arguments: Entry) -> str:
        """The name that was meant, where `text` says that there is none like the one that was given."""
        given = arguments.get("name", arguments.get("id"))
        if not isinstance(given, str) or not text.endswith(f"'{given}' not found"):
            return ""
        query, key = ("query-flaps", "id") if text.startswith("flap ") else ("query-links", "name")
        try:
            known: Any = await self.client.execute(query)
            return did_you_mean(given, [each[key] for each in known])
        except (QMPError, TypeError, KeyError):
            return ""

    async def links(self, name: str | None = None) -> list[Entry]:
        found: list[Entry] = await self.execute("query-links", name=name)
        return found

    async def name_of(self, link: str) -> str:
        """The name of the NIC with the MAC address `link`; `link` itself where it is none (ids hold no colon)."""
        if not _MAC.fullmatch(link):
            return link
        mac = link.lower().replace("-", ":")
        names = [str(each["name"]) for each in await self.links() if each.get("mac") == mac]
        if len(names) > 1:
            raise Refused(f"several NICs have the MAC address {link}: {', '.join(names)}")
        if not names:
            raise Refused(f"no NIC has the MAC address {link}")
        return names[0]

    async def link_log(
        self, name: str | None = None, limit: int | None = None, after_id: int | None = None
    ) -> list[Entry]:
        found: list[Entry] = await self.execute("query-link-log", name=name, limit=limit, after_id=after_id)
        return found

    async def next_event(self, listener: EventListener | None = None) -> Entry | None:
        """The next event of a listener, or else since the connection was made; None when vnic has ended."""
        event = asyncio.ensure_future((listener or self.client.events).get())
        ended = asyncio.ensure_future(self._ended())
        try:
            await asyncio.wait({event, ended}, return_when=asyncio.FIRST_COMPLETED)
            return dict(event.result()) if event.done() else None
        finally:
            event.cancel()
            ended.cancel()

    async def _ended(self) -> None:
        while self.client.runstate.name == "RUNNING":
            await self.client.runstate_changed()
