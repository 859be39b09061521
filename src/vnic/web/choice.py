"""What one `-web` asks for, as data. `cli.web_option` makes it of the option's text, and `Web` acts on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vnic.monitor.policy import Policy

LOOPBACK: Final = "127.0.0.1"
PAGE: Final = "vnic: the page is at "
"""What `vnic run` says of each page, with the URL behind it."""
TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]{16,256}")
"""A token that is given: what a URL holds as it is (RFC 3986 §2.3), and too long to be tried out."""


@dataclass(frozen=True, slots=True)
class WebChoice:
    """One -web."""

    port: int
    """0: one that is free."""
    host: str = LOOPBACK
    token_file: str | None = None
    """Where the token stands; None: one is made."""
    policy: Policy | None = None
    """What its browsers may do; None: that of -monitor-policy."""
    names: tuple[str, ...] = ()
    """Names by which browsers reach it, beside addresses, localhost and `host`."""

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
