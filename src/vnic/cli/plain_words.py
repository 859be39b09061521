"""What the options of `vnic run` share that take plain words, as -journal, -metrics and -web do."""

from __future__ import annotations

from collections.abc import Collection

from vnic.net.errors import NetError
from vnic.protocol import keyval


def plain_words(text: str, implied: str, keys: Collection[str]) -> keyval.Tree:
    """`TEXT,key=value,…`: the text is that of the key `implied`. Raises NetError for other keys, and without values."""
    tree, _ = keyval.parse(text, implied)
    for key, value in tree.items():
        if key not in keys:
            raise NetError(f"Invalid parameter '{key}'")
        if not isinstance(value, str) or not value or "\0" in value:
            raise NetError(f"Parameter '{key}' expects a value")
    return tree


def host_and_port(text: str) -> tuple[str | None, int] | None:
    """Of `HOST:PORT`, `[IPV6]:PORT`, or `PORT`, which has no host; None for anything else."""
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 1 << 16):
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return (host if colon else None), int(port)
