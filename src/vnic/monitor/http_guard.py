"""Tells a browser from a monitor's client: any web page can have one send a request to a TCP port of this host.

The request's body would be run line by line. A browser chooses the first bytes itself, so that these tell it.
"""

from __future__ import annotations

from typing import Final

METHODS: Final = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI")
)
"""RFC 9110 §9, RFC 5789, and the first word of HTTP/2. A page that chooses another has the browser ask by OPTIONS."""
_LONGEST: Final = max(map(len, METHODS))


class HttpGuard:
    """Looks at what a connection sends first."""

    def __init__(self) -> None:
        self._seen = b""
        self._decided = False

    def is_http(self, data: bytes) -> bool:
        """Whether a method's name is complete with `data`, which is the next that was read."""
        if self._decided:
            return False
        self._seen += data[:_LONGEST]
        if self._seen.startswith(METHODS):
            return True
        self._decided = not any(method.startswith(self._seen) for method in METHODS)
        return False
