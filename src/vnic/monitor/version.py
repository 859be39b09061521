"""The version in the greeting, in query-version and in `info version`. The sessions and commands call it."""

from __future__ import annotations

import msgspec

from vnic import __version__


class VersionTriple(msgspec.Struct):
    major: int
    minor: int
    micro: int


class VersionInfo(msgspec.Struct):
    qemu: VersionTriple
    package: str


def version() -> VersionInfo:
    """vnic's version in place of QEMU's; `package` is printed right behind it."""
    major, minor, micro = (int(part) for part in __version__.split(".")[:3])
    return VersionInfo(VersionTriple(major, minor, micro), " (vnic)")
