"""Detects HTTP requests on a monitor's TCP socket: a web page can make a browser send one to any port of this host.

The monitor would run the body line by line. `connection` calls the guard with the first bytes, which the browser
chooses.
"""

from __future__ import annotations

from typing import Final

METHODS: Final = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI")
)
"""RFC 9110 §9, RFC 5789, and the first word of HTTP/2. For other methods a browser sends OPTIONS first."""
_LONGEST: Final = max(map(len, METHODS))


class HttpGuard:
    """Checks the first bytes of a connection."""

    def __init__(self) -> None:
        self._seen = b""
        self._decided = False

    def is_http(self, data: bytes) -> bool:
        """Whether `data`, the next input, completes the name of a method."""
        if self._decided:
            return False
        self._seen += data[:_LONGEST]
        if self._seen.startswith(METHODS):
            return True
        self._decided = not any(method.startswith(self._seen) for method in METHODS)
        return False
