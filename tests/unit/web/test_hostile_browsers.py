"""Browsers, and programs in their place, that break rules or do not read: they harm themselves and nobody else."""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Iterator

import pytest
import wsproto.frame_protocol as frames
from tests.fakes.browser import PATIENCE_S, Closed, Refused, request
from tests.fakes.web_server import Served, served
from tests.needs import need
from wsproto import events

from vnic.web import app, connection, server
from vnic.web.choice import WebChoice


@pytest.fixture(scope="module")
def web() -> Iterator[Served]:
    need("web")
    with served(WebChoice(port=0)) as made:
        yield made


@pytest.fixture(autouse=True)
def serves_on(web: Served, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each test it serves, and nothing of it was taken for a fault of vnic."""
    with caplog.at_level(logging.INFO):
        yield
    with web.browser().negotiate() as browser:
        assert browser.execute("query-status")["status"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not any(record.exc_info for record in caplog.records if record.levelno > logging.DEBUG)


def raw(web: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), PATIENCE_S)


def all_of(sock: socket.socket) -> bytes:
    """What comes until the end."""
    found = b""
    try:
        while data := sock.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


HANDSHAKE = (
    "GET /qmp?token={token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)


@pytest.mark.parametrize(
    "head",
    [
        b"\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET " + b"/" * 20000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /?" + b"&token" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /?" + b"&token=x" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /%ff%00%0a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /static/%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /qmp HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n\r\n",
        b"GET /qmp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"POST /qmp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",
        HANDSHAKE.format(token="", more="Sec-WebSocket-Version: 12\r\n").encode(),
        HANDSHAKE.format(token="", more="Sec-WebSocket-Key: \r\n").encode(),
        HANDSHAKE.format(token="", more="Sec-WebSocket-Protocol: ,,\r\nCookie: \xff\r\n").encode("latin-1"),
        HANDSHAKE.format(token="%ff", more="Origin: \xff\r\nOrigin: x\r\n").encode("latin-1"),
        HANDSHAKE.replace("/qmp", "/elsewhere").format(token="", more="").encode(),
    ],
    ids=lambda head: repr(head[:24]),
)
def test_what_is_no_request_gets_an_error_or_the_end(
    web: Served, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "REFUSAL_S", 0)
    with raw(web) as sock:
        sock.sendall(head)
        answer = all_of(sock)
        assert not answer or answer.split()[1][:1] == b"4", answer


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("reserved bits", b"\xff" * 64, 1006),
        ("no mask", b"\x81\x00", 1006),
        ("reserved opcode", b"\x83\x80\0\0\0\0", 1006),
        ("continuation of nothing", b"\x80\x80\0\0\0\0", 1006),
        ("ping of 256 bytes", b"\x89\xfe\x01\x00\0\0\0\0", 1006),
        ("no UTF-8", b"\x81\x82\0\0\0\0\xff\xff", 1006),
        ("bytes", b"\x82\x81\0\0\0\0x", 1003),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_frame_ends_its_connection(web: Served, name: str, data: bytes, code: int) -> None:
    with web.browser().negotiate() as browser:
        browser.sock.sendall(data)
        with pytest.raises(Closed, match=str(code)):
            browser.message()


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", "[]", "7", '{"execute": 7}', "{}{}", "\0", "\ud7ff" * 9]
)
def test_a_text_that_is_no_command_is_answered_as_on_any_monitor(web: Served, text: str) -> None:
    with web.browser().negotiate() as browser:
        browser.send(text)
        browser.send('}{"execute": "no-such", "id": "last"}')
        while (answer := browser.message()).get("id") != "last":
            assert "error" in answer


def test_a_long_message_ends_its_connection_before_it_is_whole(web: Served) -> None:
    with web.browser().negotiate() as browser:
        browser.send_event(events.TextMessage(data="x" * server.MESSAGE_MAX_BYTES, message_finished=False))
        browser.send_event(events.TextMessage(data="x", message_finished=False))
        with pytest.raises(Closed, match="1009"):
            browser.message()


def test_messages_in_pieces_are_put_together(web: Served) -> None:
    with web.browser().negotiate() as browser:
        text = '{"execute": "query-status", "id": 1}'
        for char in text[:-1]:
            browser.send_event(events.TextMessage(data=char, message_finished=False))
        browser.send_event(events.Ping(payload=b"within"))
        browser.send_event(events.TextMessage(data=text[-1]))
        assert browser.message()["id"] == 1


def test_a_browser_that_does_not_read_its_events_is_cut_off(
    web: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vnic.web.session.OUTPUT_MAX_BYTES", 1 << 16)
    with web.browser().negotiate() as slow, web.browser().negotiate() as quick:
        end = time.monotonic() + PATIENCE_S
        while not any("does not read its events" in record.getMessage() for record in caplog.records):
            assert time.monotonic() < end
            web.do(lambda: web.machine.network.emit("STOP", {"fill": "x" * 30000}))
            assert quick.message()["event"] == "STOP"
        assert slow.ends() == 1006
        assert quick.execute("query-status")["status"] == "running"


def test_pings_of_a_browser_that_does_not_read_are_not_answered_without_bounds(web: Served) -> None:
    """It is stopped by its own socket: vnic does not read on."""
    ping = frames.FrameProtocol(client=True, extensions=[]).ping(b"x" * 125)
    with web.browser().negotiate() as browser:
        browser.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        browser.sock.setblocking(False)
        sent = 0
        idle_since = time.monotonic()
        while time.monotonic() < idle_since + 1:
            try:
                sent += browser.sock.send(ping * 500)
                idle_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
            except ConnectionError:
                break  # it was cut off as a slow one
            assert sent < 1 << 27, "vnic reads on and on"
        buffered = web.do(
            lambda: sum(
                each._transport.get_write_buffer_size()
                for each in web.web._connections
                if each._transport is not None
            )
        )
        assert buffered < 1 << 20


def test_nothing_is_kept_of_what_comes_behind_a_wrong_token(web: Served) -> None:
    """The refusal takes a second, in which a program could send much."""
    with raw(web) as sock:
        sock.sendall(HANDSHAKE.format(token="x" * 43, more="").encode())
        sock.setblocking(False)
        sent = 0
        refused = False
        end = time.monotonic() + PATIENCE_S
        while not refused and time.monotonic() < end:
            try:
                sent += sock.send(b"\x89\x80\0\0\0\0" * 10000)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                refused = True
            assert sent < 1 << 25, "vnic reads on and on"
        assert refused


def test_silent_connections_make_room_for_others(web: Served) -> None:
    with web.browser().negotiate() as old:
        silent = [raw(web) for _ in range(server.CONNECTIONS_MAX + 8)]
        try:
            assert request(web.port, f"/?token={web.token}").status == 200
            assert old.execute("query-status")
            for sock in silent[:8]:
                assert all_of(sock) == b"", "the oldest are ended first"
        finally:
            for sock in silent:
                sock.close()


def test_a_slow_request_ends_after_a_time(web: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    with raw(web) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        assert all_of(sock) == b""


def test_a_slow_answer_ends_after_a_time(web: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests at once, whose answers are not read."""
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    before = web.do(lambda: len(web.web._connections))
    with raw(web) as sock:
        sock.settimeout(0.5)
        try:
            while True:
                sock.sendall(b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        except OSError:
            pass  # it is not read any more, or the connection was ended
        end = time.monotonic() + PATIENCE_S
        while web.do(lambda: len(web.web._connections)) > before:
            assert time.monotonic() < end


def test_no_more_browsers_than_a_limit(web: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SESSIONS_MAX", 2)
    with web.browser().negotiate(), web.browser().negotiate(), pytest.raises(Refused, match="503"):
        web.browser()


def test_an_answer_that_is_too_long_is_an_error_with_its_id(
    web: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnic.web.session.ANSWER_MAX_BYTES", 1000)
    with web.browser().negotiate() as browser:
        browser.send('{"execute": "query-commands", "id": {"a": 1}}')
        answer = browser.message()
        assert answer["id"] == {"a": 1}
        assert "ask for less" in answer["error"]["desc"]
        assert browser.execute("query-status")


def test_random_bytes_do_no_harm(web: Served) -> None:
    """Frames and heads with random bytes in them, of a seed that is printed when this fails."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    head = HANDSHAKE.format(token=web.token, more="").encode()
    mask = frames.FrameProtocol(client=True, extensions=[])
    frame = mask.send_data('{"execute": "qmp_capabilities"}')
    for _ in range(150):
        data = bytearray(head + frame * 3)
        first = 0 if chance.random() < 0.5 else len(head)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(first, len(data))] = chance.randrange(256)
        with raw(web) as sock:
            sock.sendall(data)
            if chance.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(0.01)
                try:
                    all_of(sock)
                except TimeoutError:
                    pass


def test_the_end_does_not_wait_for_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLOSE_S", 0.1)
    with served(WebChoice(port=0)) as web:
        deaf = web.browser()
        deaf.negotiate()
        for _ in range(100):
            web.do(lambda: web.machine.network.emit("STOP", {"fill": "x" * 65536}))
        half = raw(web)
        half.sendall(b"GET /")
    assert all_of(half) == b""
    half.close()
    deaf.close()
