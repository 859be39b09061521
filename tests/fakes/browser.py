"""A browser's side of the page: raw HTTP requests, and a WebSocket with QMP, by sockets with a time limit."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import h11
import wsproto
from wsproto import events

PATIENCE_S = 60.0


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def request(
    port: int, target: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] = {}
) -> Answer:
    """One request on a connection of its own."""
    peer = h11.Connection(h11.CLIENT)
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        fields = {"Host": f"127.0.0.1:{port}", **headers}
        if body:
            fields["Content-Length"] = str(len(body))
        sock.sendall(
            (peer.send(h11.Request(method=method, target=target, headers=list(fields.items()))) or b"")
            + ((peer.send(h11.Data(data=body)) or b"") if body else b"")
            + (peer.send(h11.EndOfMessage()) or b"")
        )
        status, got, parts = 0, {}, []
        while True:
            event = peer.next_event()
            if event is h11.NEED_DATA:
                peer.receive_data(sock.recv(1 << 16))
            elif isinstance(event, h11.Response):
                status = event.status_code
                got = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            else:
                return Answer(status, got, b"".join(parts))


class Refused(Exception):
    """The handshake was refused with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Closed(Exception):
    """The WebSocket was closed with this code; 1006: the connection ended without one."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Browser:
    """A WebSocket to the page's server, after its handshake. `events` are those that came before answers."""

    def __init__(self, port: int, target: str, *, origin: str | None = None, host: str | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._peer = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._messages = self._receive()
        self._text = ""
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        try:
            fields = [] if origin is None else [(b"Origin", origin.encode())]
            asked = events.Request(host=host or f"127.0.0.1:{port}", target=target, extra_headers=fields)
            self.sock.sendall(self._peer.send(asked))
            first = next(self._messages)
            if isinstance(first, events.RejectConnection):
                raise Refused(first.status_code)
            assert isinstance(first, events.AcceptConnection), first
        except BaseException:
            self.sock.close()
            raise

    def _receive(self) -> Iterator[events.Event]:
        while True:
            yield from self._peer.events()
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            self._peer.receive_data(data or None)

    def send(self, text: str) -> None:
        self.send_event(events.TextMessage(data=text))

    def send_event(self, event: events.Event) -> None:
        self.sock.sendall(self._peer.send(event))

    def message(self) -> dict[str, Any]:
        """The next one. Raises Closed."""
        while True:
            event = next(self._messages)
            if isinstance(event, events.CloseConnection):
                raise Closed(int(event.code))
            if isinstance(event, events.Ping):
                self.sock.sendall(self._peer.send(event.response()))
            if isinstance(event, events.TextMessage):
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    found: dict[str, Any] = json.loads(text)
                    return found

    def ends(self) -> int:
        """Read all that comes; the code of its end."""
        try:
            while True:
                self.message()
        except Closed as closed:
            return closed.code

    def execute(self, command: str, /, **arguments: object) -> Any:
        """What the command returns, or its error as {"class", "desc"}."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.send(json.dumps({"execute": command, "arguments": named, "id": command}))
        while "event" in (answer := self.message()):
            self.events.append(answer)
        assert answer.pop("id") == command
        return next(iter(answer.values()))

    def negotiate(self) -> Self:
        assert "QMP" in self.message()
        assert self.execute("qmp_capabilities") == {}
        return self

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
