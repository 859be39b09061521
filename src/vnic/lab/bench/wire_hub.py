"""Frames per CPU-second from one socket to another through a hub: vnic's, by vnic-wire, and QEMU's.

`vnic bench wire-hub` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from vnic.lab.bench.qemu import require_kit
from vnic.lab.bench.report import Row, row
from vnic.lab.bench.through import SECONDS, Flood, Rate

KINDS: Final = ("stream", "dgram")
SIZES: Final = (64, 1514)

METHOD = (
    "vnic run, and QEMU with -machine none, with the same netdevs, by turns: unix socket → hub of two → unix socket,"
    " flooded and drained by C on another CPU; frames that arrived per second of CPU time of all threads of the program"
    f" (vnic's Python and vnic-wire together), over {SECONDS:g} s"
)

BARE_METHOD = (
    "the same flood through one thread in C that moves what a call takes, 64 KiB of a stream or 64 datagrams, from one"
    " socket to another, and looks at nothing: no program in user space can be much faster than that"
)


def through_a_hub(first: str, second: str) -> Sequence[str]:
    ports = (
        "-netdev",
        "hubport,id=hub0,hubid=0,netdev=end0",
        "-netdev",
        "hubport,id=hub1,hubid=0,netdev=end1",
    )
    return "-netdev", first, "-netdev", second, *ports


def measure(rounds: int) -> Iterator[Row]:
    kit = require_kit()
    flood = Flood()
    for kind in KINDS:
        for size in SIZES:
            ours: list[Rate] = []
            theirs: list[Rate] = []
            bare: list[Rate] = []
            for _ in range(rounds):
                ours.append(flood.vnic(kind, size, through_a_hub, lambda: None))
                theirs.append(flood.qemu(kit, kind, size, through_a_hub, lambda: None))
                bare.append(flood.bare(kind, size))
            what = f"{kind}, {size} bytes"
            yield from compare(what, ours, theirs, METHOD, "at least 10")
            yield from beside_bare(what, ours, theirs, bare)


def beside_bare(what: str, ours: list[Rate], theirs: list[Rate], bare: list[Rate]) -> Iterator[Row]:
    """What the kernel's calls alone allow."""
    yield row(
        f"{what}: bare loop, per CPU-second",
        "M",
        [rate.per_cpu_second / 1e6 for rate in bare],
        BARE_METHOD,
        digits=3,
    )
    for name, more, less in (("vnic / bare loop", ours, bare), ("bare loop / QEMU", bare, theirs)):
        ratios = [a.per_cpu_second / b.per_cpu_second for a, b in zip(more, less, strict=True)]
        yield row(f"{what}: {name}, per CPU-second", "x", ratios, BARE_METHOD, digits=2)


def compare(what: str, ours: list[Rate], theirs: list[Rate], method: str, aim: str) -> Iterator[Row]:
    """Both programs' rates, and the ratio, of which the one per CPU-second has the aim."""
    for name, rates in (("vnic", ours), ("QEMU", theirs)):
        samples = [rate.per_cpu_second / 1e6 for rate in rates]
        yield row(f"{what}: {name}, per CPU-second", "M", samples, method, digits=3)
        yield row(
            f"{what}: {name}, per second", "M", [rate.per_second / 1e6 for rate in rates], method, digits=3
        )
    pairs = list(zip(ours, theirs, strict=True))
    by_cpu = [our.per_cpu_second / their.per_cpu_second for our, their in pairs]
    yield row(f"{what}: vnic / QEMU, per CPU-second", "x", by_cpu, method, aim, digits=2)
