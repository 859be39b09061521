"""A played QEMU: its QMP socket, NICs and guest, as far as `-object qemu` sees them; and the guest's agent.

Tests and `vnic bench adopt` adopt it. Guests read a link when QEMU sets it, unless told otherwise; agents may lie.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class PlayedNic:
    """One NIC, and what the guest's driver makes of it."""

    name: str
    model: str = "virtio-net-pci"
    mac: str = "52:54:00:12:34:56"
    netdev: str = ""
    """`net0: index=0,type=user,net=10.0.2.0`, as `info network` has it."""
    interface: str = "eth0"
    link: bool = True
    """What the device shows."""
    reads: bool = True
    """The driver is interrupted, and reads the link."""
    carrier: bool = True
    changes: int = 1
    admin_down: bool = False
    perm_address: str = ""
    """Of a bond's port: its own address, where `mac` is the bond's now."""
    set_to: list[bool] = field(default_factory=list)
    """All that set_link asked for."""

    def set_link(self, up: bool) -> None:
        self.set_to.append(up)
        self.link = up
        if self.reads:
            self.read()

    def read(self) -> None:
        """The driver reads the link."""
        if self.carrier is not self.link:
            self.carrier = self.link
            self.changes += 1

    @property
    def line(self) -> str:
        text = f"{self.name}: index=0,type=nic,model={self.model},macaddr={self.mac}\r\n"
        return f"{text} \\ {self.netdev}\r\n" if self.netdev else text


class _Client:
    """One that is connected."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def send(self, message: object) -> None:
        self.write(json.dumps(message).encode() + b"\r\n")

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    def abort(self) -> None:
        self._writer.transport.abort()


class _Server:
    """A socket with one client at a time; others are in line, as at QEMU's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.clients: list[_Client] = []
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(writer)
        if self._server is None:
            client.abort()
            return
        self.joined(client)
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                self.line(client, line)
        except ConnectionError:
            pass
        finally:
            self.left(client)
            writer.close()

    def kill(self) -> None:
        """As SIGKILL: all is closed, and the socket's file stays."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for each in self.clients:
            each.abort()
        self.clients.clear()

    def joined(self, client: _Client) -> None:
        self.clients.append(client)
        if client is self.clients[0]:
            self.greet(client)

    def left(self, client: _Client) -> None:
        if client in self.clients:
            first = client is self.clients[0]
            self.clients.remove(client)
            if first and self.clients:
                self.greet(self.clients[0])

    def greet(self, client: _Client) -> None:
        """It is served from now on."""

    def line(self, client: _Client, line: bytes) -> None:
        """It sent one."""


class PlayedQemu(_Server):
    """QEMU. What is set here holds from the next command on."""

    def __init__(self, path: str, *nics: PlayedNic, status: str = "running") -> None:
        super().__init__(path)
        self.nics = {nic.name: nic for nic in nics}
        self.status = status
        self.chardevs: list[dict[str, object]] = []
        self.refusals: dict[str, str] = {}
        """By command, the error that it gets."""
        self.deaf: set[str] = set()
        """Commands that get no answer."""
        self.greets = True
        self.log: list[tuple[str, dict[str, Any]]] = []
        """All commands, in order."""
        self.unanswered: list[tuple[_Client, dict[str, Any]]] = []

    def greet(self, client: _Client) -> None:
        if self.greets:
            version = {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": ""}
            client.send({"QMP": {"version": version, "capabilities": ["oob"]}})

    def line(self, client: _Client, line: bytes) -> None:
        request = json.loads(line)
        name, arguments = request["execute"], request.get("arguments", {})
        self.log.append((name, arguments))
        if name in self.deaf:
            self.unanswered.append((client, request))
        else:
            self._answer(client, request)

    def answer(self) -> None:
        """Carry out what was not answered."""
        self.deaf.clear()
        waiting, self.unanswered = self.unanswered, []
        for client, request in waiting:
            self._answer(client, request)

    def _answer(self, client: _Client, request: dict[str, Any]) -> None:
        name, arguments = request["execute"], request.get("arguments", {})
        answer: dict[str, object]
        try:
            answer = {"return": self._carry_out(name, arguments)}
        except ValueError as error:
            answer = {"error": {"class": "GenericError", "desc": str(error)}}
        if "id" in request:
            answer["id"] = request["id"]
        client.send(answer)

    def _carry_out(self, name: str, arguments: dict[str, Any]) -> object:
        if name in self.refusals:
            raise ValueError(self.refusals[name])
        match name:
            case "qmp_capabilities":
                return {}
            case "query-status":
                return {"status": self.status, "running": self.status == "running"}
            case "query-chardev":
                return self.chardevs
            case "human-monitor-command" if arguments["command-line"] == "info network":
                return "".join(nic.line for nic in self.nics.values())
            case "set_link":
                if arguments["name"] not in self.nics:
                    raise ValueError(f"Device '{arguments['name']}' not found")
                self.nics[arguments["name"]].set_link(arguments["up"])
                return {}
        raise ValueError(f"The command {name} has not been found")

    def emit(self, event: str, **data: object) -> None:
        """`_` in names stands for `-`."""
        fields = {key.replace("_", "-"): value for key, value in data.items()}
        for client in self.clients[:1]:
            client.send({"timestamp": {"seconds": 0, "microseconds": 0}, "event": event, "data": fields})

    def unplug(self, name: str) -> None:
        """device_del is complete."""
        del self.nics[name]
        self.emit("DEVICE_DELETED", device=name, path=f"/machine/peripheral/{name}")

    def boot(self) -> None:
        """The guest boots anew, and finds its links as they are."""
        for nic in self.nics.values():
            nic.changes, nic.carrier = 0, True
            nic.read()
        self.emit("RESET", guest=True, reason="guest-reset")


Lie = Callable[[str, dict[str, Any], object], object]
"""What an agent says in place of the truth: the command, its arguments, and the true answer."""


class PlayedAgent(_Server):
    """The guest's agent, which reads what the guest's drivers know."""

    def __init__(self, path: str, qemu: PlayedQemu) -> None:
        super().__init__(path)
        self._qemu = qemu
        self._files: dict[int, str] = {}
        self._next = 1000
        self.boot_id = secrets.token_hex(8)
        self.runs = True
        self.lie: Lie | None = None
        self.wrong_sync = False
        self.disabled: set[str] = set()
        self.asked = 0
        """How many commands came."""

    def line(self, client: _Client, line: bytes) -> None:
        self.asked += 1
        if not self.runs:
            return
        request = json.loads(line.rpartition(b"\xff")[2])
        name, arguments = request["execute"], request.get("arguments", {})
        if name == "guest-sync-delimited":
            client.write(b"\xff")
            client.send({"return": arguments["id"] + self.wrong_sync})
            return
        try:
            if name in self.disabled:
                raise ValueError(f"Command {name} has been disabled")
            answer: object = self._carry_out(name, arguments)
            if self.lie is not None:
                answer = self.lie(name, arguments, answer)
            client.send({"return": answer})
        except ValueError as error:
            client.send({"error": {"class": "GenericError", "desc": str(error)}})

    def _carry_out(self, name: str, arguments: dict[str, Any]) -> object:
        match name:
            case "guest-network-get-interfaces":
                return [{"name": "lo", "hardware-address": "00:00:00:00:00:00"}] + [
                    {"name": nic.interface, "hardware-address": nic.mac} for nic in self._qemu.nics.values()
                ]
            case "guest-file-open":
                content = self.file(arguments["path"])
                if content is None:
                    raise ValueError(f"failed to open file {arguments['path']!r}: No such file or directory")
                self._next += 1
                self._files[self._next] = content
                return self._next
            case "guest-file-read":
                content = self._files[arguments["handle"]]
                if content == "EINVAL":
                    raise ValueError("failed to read file: Invalid argument")
                return text_answer(content)
            case "guest-file-close":
                del self._files[arguments["handle"]]
                return {}
        raise ValueError(f"The command {name} has not been found")

    def file(self, path: str) -> str | None:
        """What a file of the guest holds."""
        if path == "/proc/sys/kernel/random/boot_id":
            return f"{self.boot_id}\n"
        *_, interface, name = path.removeprefix("/sys/class/net/").split("/", 1)
        nic = next((each for each in self._qemu.nics.values() if each.interface == interface), None)
        if nic is None:
            return None
        return {
            "carrier": "EINVAL" if nic.admin_down else f"{nic.carrier:d}\n",
            "carrier_changes": f"{nic.changes}\n",
            "address": f"{nic.mac}\n",
            "flags": f"0x{0x1002 if nic.admin_down else 0x1003:x}\n",
            "device/uevent": "DRIVER=virtio_net\n",
            "bonding_slave/perm_hwaddr": f"{nic.perm_address}\n" if nic.perm_address else None,
        }.get(name)


def text_answer(content: str) -> dict[str, object]:
    """What guest-file-read returns of a text."""
    return {
        "count": len(content),
        "buf-b64": base64.b64encode(content.encode()).decode(),
        "eof": True,
    }
