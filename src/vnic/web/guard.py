"""Decides which requests are answered, before the application sees them: ASGI middleware without state but the token.

Any web page can have a browser send requests to a port of this host. Who may: requests that name this host as its user
does (DNS rebinding), WebSockets that a page from here opens (Origin), and beyond static files, those with the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

log = logging.getLogger(__name__)

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the token is in the page's URL
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of each answer."""

FIELDS_MAX: Final = 16
"""Of a query."""
HOST: Final = "this is not a name of this server: use its address, or start vnic with -web …,name=NAME"
ORIGIN: Final = "a page from elsewhere has no access"
METHOD: Final = "only GET and HEAD are answered, without a body"


class Guard:
    """Passes on what may be answered."""

    def __init__(self, app: ASGIApp, where: str, names: Iterable[str]) -> None:
        """`where` is for the log; `names`: how browsers may name this server, beside its addresses."""
        self._app = app
        self._where = where
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._guarded(scope, receive, with_headers)
        except OSError as error:  # the browser is gone
            log.debug("%s: %r", self._where, error)
        except Exception:  # a bug must not end more than this request
            log.exception("%s: a request could not be answered", self._where)
            raise ConnectionAbortedError from None

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        code, why = refusal
        log.warning("%s: a request of %s is refused: %s", self._where, peer_of(scope), why)
        response = PlainTextResponse(f"{why}\n", code, {"Connection": "close"})
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if not self._is_ours(headers.getlist("host")):
            return 421, HOST
        if scope["type"] == "websocket":
            origins = headers.getlist("origin")
            # A browser always sends it. A program that is no browser does not, and needs the token as well.
            if origins and not is_same_origin(origins, headers["host"]):
                return 403, ORIGIN
        elif scope["method"] not in ("GET", "HEAD"):
            return 405, METHOD
        elif headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return 413, METHOD
        return None

    def _is_ours(self, hosts: list[str]) -> bool:
        """Whether the request is for an address or a name of this server. A page of another site has its own name,
        whatever address that leads to."""
        if len(hosts) != 1:
            return False
        name = _name_of(hosts[0])
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name_of(host: str) -> str:
    """The Host header without its port (RFC 3986 §3.2.2)."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        return name if bracket and (not rest or rest[:1] == ":") else ""
    name, _, port = host.partition(":")
    return name if not port or (port.isascii() and port.isdigit()) else ""


def is_same_origin(origins: list[str], host: str) -> bool:
    """Whether a page of that Origin came from the Host that it connects to."""
    scheme, _, rest = origins[0].partition("://")
    return len(origins) == 1 and scheme in ("http", "https") and rest.lower() == host.lower()


def peer_of(scope: Scope) -> str:
    """The other end, for the log and the journal: `browser 127.0.0.1:5000`."""
    host, port = (scope.get("client") or ("", 0))[:2]
    return f"browser [{host}]:{port}" if ":" in host else f"browser {host}:{port}"


def has_token(scope: Scope, token: str) -> bool:
    """Whether the request has the token, as `?token=` or as `Authorization: Bearer`. The time that it takes tells
    nothing of the token."""
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=FIELDS_MAX)
    except ValueError:
        query = {}
    given = query.get("token", [])
    scheme, _, value = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given.append(value.strip())
    wanted = token.encode()
    return any(hmac.compare_digest(each.encode("utf-8", "surrogatepass"), wanted) for each in given)
