"""The records of all trips, as one version of vnic writes them: a line for each unit.

`python -m tests.fakes.trips.golden` writes those of the version in pyproject.toml, before it is released. Those of
released versions stay as they are: an upgrade has to read them.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.fakes import trips
from tests.fakes.trips import ALL

from vnic import __version__
from vnic.record import Record, RecordError, decode, encode

FOLDER = Path(__file__).parents[2] / "unit" / "golden"


LONG = re.compile(rb'("[A-Za-z0-9+/]{1024})[A-Za-z0-9+/]+={0,2}(?=")')
"""Bytes, in base64."""


def load() -> None:
    """Fill `ALL`."""
    for module in iter_modules(trips.__path__):
        if module.name != "golden":
            import_module(f"{trips.__name__}.{module.name}")


def records() -> list[bytes]:
    """One of each trip, by the trips' names."""
    load()
    with ExitStack() as stack:
        return [short(ALL[name](stack).unit.save()) for name in sorted(ALL)]


def short(record: Record) -> bytes:
    """The record with less of long data, if it is valid so: many have some that waits for a peer."""
    data = encode(record)
    try:
        cut = encode(decode(type(record), LONG.sub(rb"\1", data)))
    except RecordError:
        return data
    return min(cut, data, key=len)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"records-{__version__}.jsonl"
    path.write_bytes(b"".join(record + b"\n" for record in records()))
    print(path)
