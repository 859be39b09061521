"""The HTTP server: pages, methods, clients that are slow, many, or speak something else."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.loops import fresh_loop, no_fd_leak, until

from vnic.sockets import http
from vnic.sockets.http import MAX_CLIENTS, HttpServer, Page, Request, plain
from vnic.sockets.listener import listen_at

Loop = asyncio.AbstractEventLoop


@contextmanager
def server(path: Path, body: bytes = b"hello\n") -> Iterator[tuple[Loop, HttpServer]]:
    async def page(request: Request) -> Page:
        if request.path == "/bug":
            raise ZeroDivisionError
        return Page(body, "text/plain") if request.path == "/" else plain(404, "not here")

    with fresh_loop() as loop, no_fd_leak():
        made = HttpServer(loop, listen_at(str(path)), page, "test")
        try:
            yield loop, made
        finally:
            loop.run_until_complete(made.close())
            loop.run_until_complete(asyncio.sleep(0))
        assert not path.exists()


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.setblocking(False)
    return sock


def ask(loop: Loop, path: Path, *pieces: bytes, end: bytes = b"\n") -> bytes:
    """All that comes until the connection ends, or what came ends with `end`."""
    found = b""

    def whole() -> bool:
        nonlocal found
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        found += piece
        return not piece or found.endswith(end)

    with connect(path) as sock:
        for piece in pieces:
            sock.send(piece)
            loop.run_until_complete(asyncio.sleep(0.001))
        until(loop, whole)
    return found


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_page_comes_with_its_length(tmp_path: Path) -> None:
    with server(tmp_path / "s") as (loop, _):
        answer = ask(loop, tmp_path / "s", GET)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 6" in head
        assert body == b"hello\n"


def test_one_connection_serves_several_requests(tmp_path: Path) -> None:
    with server(tmp_path / "s") as (loop, _):
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert ask(loop, tmp_path / "s", GET + GET + last, end=b"never").count(b"hello\n") == 3


def test_request_may_come_in_pieces(tmp_path: Path) -> None:
    with server(tmp_path / "s") as (loop, _):
        assert b"hello" in ask(loop, tmp_path / "s", GET[:5], GET[5:20], GET[20:])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found"),
        (b"GET /?q=1 HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", b"405 Method Not Allowed"),
        (b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n", b"500 Internal Server Error"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\0\xee\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_status(tmp_path: Path, request_: bytes, status: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with server(tmp_path / "s") as (loop, _), caplog.at_level(logging.CRITICAL):
        assert ask(loop, tmp_path / "s", request_).startswith(b"HTTP/1.1 " + status)


def test_head_has_no_body(tmp_path: Path) -> None:
    with server(tmp_path / "s") as (loop, _):
        answer = ask(loop, tmp_path / "s", GET.replace(b"GET", b"HEAD"), end=b"\r\n\r\n")
        assert b"Content-Length: 6" in answer
        assert b"hello" not in answer


def test_client_that_sends_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.01)
    with server(tmp_path / "s") as (loop, _):
        assert ask(loop, tmp_path / "s", b"GET / HT") == b""


def test_client_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.5)  # not shorter than a busy machine stops the test
    with server(tmp_path / "s", b"x" * (8 << 20)) as (loop, made), connect(tmp_path / "s") as sock:
        until(loop, lambda: made._clients)
        sock.send(GET)
        until(loop, lambda: not made._clients)


def test_clients_are_bounded(tmp_path: Path) -> None:
    with server(tmp_path / "s") as (loop, made):
        clients: list[socket.socket] = []
        for _ in range(MAX_CLIENTS):
            clients.append(connect(tmp_path / "s"))
            until(loop, lambda: len(made._clients) == len(clients))  # the backlog holds fewer
        assert ask(loop, tmp_path / "s") == b""
        for each in clients:
            each.close()
        until(loop, lambda: not made._clients)
        assert b"hello" in ask(loop, tmp_path / "s", GET)


def test_close_ends_requests_under_way(tmp_path: Path) -> None:
    with server(tmp_path / "s") as (loop, made), connect(tmp_path / "s") as sock:
        sock.send(b"GET / HTTP/1.1\r\n")
        until(loop, lambda: made._clients)


def test_client_that_cannot_be_served_is_one_quiet_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(**_: object) -> None:
        raise OSError("no memory")

    with server(tmp_path / "s") as (loop, made):
        monkeypatch.setattr(asyncio, "open_unix_connection", refused)
        with connect(tmp_path / "s") as sock:
            until(loop, lambda: sock.recv(1) == b"" if readable(sock) else False)
        until(loop, lambda: not made._clients)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
