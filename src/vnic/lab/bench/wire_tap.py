"""Frames through two taps that a kernel bridge joins: vnic's, by vnic-wire, and QEMU's.

`vnic bench wire-tap` runs it, as root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from vnic.lab.bench.far_hosts import await_interface, ip
from vnic.lab.bench.qemu import require_kit
from vnic.lab.bench.report import Missing, Row
from vnic.lab.bench.through import SECONDS, Flood, Rate
from vnic.lab.bench.wire_hub import compare

SIZES: Final = (64, 1514)
WINDOW: Final = 384
"""Frames under way: a tap's queue takes 500 (or 1000), and the bridge drops what does not fit."""

METHOD = (
    "vnic run, and QEMU with -machine none, with the same netdevs, by turns: unix stream → hub of two → tap → bridge of"
    " the kernel → tap → hub of two → unix stream, flooded and drained by C on another CPU, with at most"
    f" {WINDOW} frames under way, because the kernel drops what a tap's queue does not hold; frames that arrived per"
    f" second of CPU time of all threads of the program, which has the kernel's part in it, over {SECONDS:g} s"
)


class Bridge:
    """A context manager around a bridge; the taps are made by the programs and then joined."""

    def __init__(self) -> None:
        self._name = f"vbr{os.getpid()}"
        self._taps = [f"vt{index}-{os.getpid()}" for index in range(2)]

    def __enter__(self) -> Bridge:
        ip("link", "add", self._name, "type", "bridge")
        ip("link", "set", self._name, "addrgenmode", "none", "up")
        return self

    def __exit__(self, *_: object) -> None:
        ip("link", "del", self._name)

    def join(self) -> None:
        for tap in self._taps:
            await_interface(tap)
            ip("link", "set", tap, "addrgenmode", "none", "master", self._name, "up")

    def arguments(self, first: str, second: str) -> Sequence[str]:
        options: list[str] = []
        for index, end in enumerate((first, second)):
            tap = f"tap,id=tap{index},ifname={self._taps[index]},script=no,downscript=no"
            ports = [
                f"hubport,id=hub{index}{name},hubid={index},netdev={name}{index}" for name in ("end", "tap")
            ]
            for netdev in (end, tap, *ports):
                options += ["-netdev", netdev]
        return options


def measure(rounds: int) -> Iterator[Row]:
    if os.geteuid() != 0:
        raise Missing("only root can make a bridge")
    kit = require_kit()
    flood = Flood(WINDOW)
    with Bridge() as bridge:
        for size in SIZES:
            ours: list[Rate] = []
            theirs: list[Rate] = []
            for _ in range(rounds):
                ours.append(flood.vnic("stream", size, bridge.arguments, bridge.join))
                theirs.append(flood.qemu(kit, "stream", size, bridge.arguments, bridge.join))
            yield from compare(f"{size} bytes", ours, theirs, METHOD, "at least 1.0")
