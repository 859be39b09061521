"""A guest of a lab: runs shell commands in it, over the socket of the process that holds it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from vnic.cli.client import Refused
from vnic.lab.guest.console import DEFAULT_TIMEOUT, Completed, checked
from vnic.lab.guest.errors import GuestError, GuestGone
from vnic.lab.guest.linux import CARRIER_TIMEOUT
from vnic.lab.live.wire import ANSWER_TIMEOUT_S, LENGTH, Answer, Request


class Holders(Protocol):
    """The lab of a guest: where its holder listens."""

    def control(self, node: str) -> Path: ...


class Guest:
    """A guest of a lab, by the name of its node."""

    def __init__(self, lab: Holders, name: str) -> None:
        self._lab = lab
        self.name = name

    async def run(self, command: str | Sequence[str], timeout: float = DEFAULT_TIMEOUT) -> str:
        """Run a shell command in the guest and return what it printed. CommandFailed if its status is not 0; a list
        is a program and its arguments. One command at a time runs in each guest."""
        done = await self.try_run(command, timeout)
        return checked(_script(command), done)

    async def try_run(self, command: str | Sequence[str], timeout: float = DEFAULT_TIMEOUT) -> Completed:
        """The same, whatever the status: how it ended, and what it printed. GuestError after `timeout` seconds; the
        command goes on in the guest then, and the next one waits for it."""
        output = bytearray()
        try:
            async with asyncio.timeout(timeout):
                status = await self._exec(_script(command), output)
        except TimeoutError:
            raise GuestError(
                f"{self.name}: `{_script(command)}` has not ended after {timeout:g} s; it printed"
                f" {output.decode(errors='replace')[-400:]!r}"
            ) from None
        return Completed(status, output.decode(errors="replace"))

    async def running(self) -> bool:
        """Whether the guest has not ended."""
        try:
            await self._ask(Request("status"))
        except GuestGone:
            return False
        return True

    async def pid(self) -> int:
        """The process that is the guest: User-Mode Linux, or QEMU."""
        return (await self._ask(Request("status"))).pid

    async def carrier(self, interface: str) -> bool:
        """Its /sys/class/net/INTERFACE/carrier. CommandFailed while the interface is down, as the kernel has it."""
        return await self.run(["cat", f"/sys/class/net/{interface}/carrier"]) == "1"

    async def wait_carrier(self, up: bool, interface: str, *, timeout: int = CARRIER_TIMEOUT) -> bool:
        """Wait at most `timeout` seconds until the carrier is so; whether it became so."""
        command = ["wait_carrier", interface, f"{up:d}", str(timeout)]
        return (await self.try_run(command, timeout + DEFAULT_TIMEOUT)).status == 0

    # -- the holder ---------------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> Answer:
        reader, writer = await self._open()
        try:
            return await self._answer(reader, writer, request)
        finally:
            writer.close()

    async def _exec(self, command: str, output: bytearray) -> int:
        reader, writer = await self._open()
        try:
            await self._answer(reader, writer, Request("exec", command))
            while size := await self._number(reader):
                output += await reader.readexactly(size)
            return await self._number(reader)
        except asyncio.IncompleteReadError:
            raise GuestGone(f"{self.name}: the guest is gone") from None
        finally:
            writer.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(str(self._lab.control(self.name)))
        except (FileNotFoundError, ConnectionError):
            raise GuestGone(f"{self.name}: the guest has ended") from None

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
    ) -> Answer:
        writer.write(msgspec.json.encode(request) + b"\n")
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                line = await reader.readline()
        except TimeoutError:
            raise GuestError(f"{self.name}: the process that holds it does not answer") from None
        except (ConnectionError, ValueError):
            line = b""
        if not line:
            raise GuestGone(f"{self.name}: the guest has ended")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise Refused(f"{self.name}: {answer.error}")
        return answer

    @staticmethod
    async def _number(reader: asyncio.StreamReader) -> int:
        (number,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return int(number)

    def __repr__(self) -> str:
        return f"<Guest {self.name}>"


def _script(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)
