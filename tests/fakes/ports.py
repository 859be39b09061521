"""Free TCP and UDP ports for code that binds them later, by number."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

FIRST = 10_000


def free_ports(kind: int, count: int) -> list[int]:
    """Free ports of 127.0.0.1, below the range from which the kernel chooses ports itself: until the caller binds one,
    no other program gets it, and no connection has it as its source."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    with contextlib.ExitStack() as bound:
        while len(found) < count:
            port = random.SystemRandom().randrange(FIRST, end)
            sock = bound.enter_context(socket.socket(socket.AF_INET, kind))
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                found.append(port)
    return found
