"""The page's files, read once at the start: the loop waits for no disk, and a sandbox needs no more of the file system.

Nothing in them is about this machine, so that they are served without the token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).with_name("static")
INDEX: Final = "index.html"

TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""By suffix. Files with others are not served."""


class Asset(NamedTuple):
    body: bytes
    content_type: str
    etag: str


def load(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """All files, by their paths below the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content_type = TYPES.get(path.suffix)
        if content_type is not None and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[path.relative_to(folder).as_posix()] = Asset(body, content_type, etag)
    return found
