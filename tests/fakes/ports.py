"""Free TCP and UDP ports for code that binds them later, by number."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

FIRST = 10_000


def free_ports(kind: int, count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free, and that the kernel gives to nobody meanwhile: neither to another program nor,
    as its source, to whoever tries to connect there."""
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
