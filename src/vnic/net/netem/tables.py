"""The distributions of jitter other than `uniform`, as tables of the inverse of their cumulative functions.

The tables are those of iproute2's netem/ by their formulas: 4096 entries, 8192 being one standard deviation (`jitter`).
"""

from __future__ import annotations

import array
import math
from functools import cache
from statistics import NormalDist
from typing import Final

from vnic.net.netem.words import Distribution

ENTRIES: Final = 4096
SCALE: Final = 8192
"""NETEM_DIST_SCALE."""
_PARETO_SHAPE: Final = 3.0
_MOST: Final = 32767


@cache
def table(distribution: Distribution) -> array.array[int]:
    """16-bit entries; none for `uniform`."""
    if distribution == "uniform":
        return array.array("h")
    entry = {"normal": _normal, "pareto": _pareto, "paretonormal": _pareto_normal}[distribution]
    return array.array("h", (entry(index) for index in range(ENTRIES)))


def _clamped(value: float) -> int:
    return max(-_MOST - 1, min(_MOST, math.floor(value + 0.5)))


def _normal(index: int) -> int:
    """Each entry is the middle of its part, so that the mean is 0 and no entry is infinite."""
    return _clamped(NormalDist().inv_cdf((index + 0.5) / ENTRIES) * SCALE)


def _pareto(index: int) -> int:
    """netem/pareto.c: of shape 3, whose mean is 1.5."""
    part = (ENTRIES - index) / ENTRIES
    return _clamped((part ** (-1 / _PARETO_SHAPE) - 1.5) * 4 / 3 * SCALE)


def _pareto_normal(index: int) -> int:
    """netem/paretonormal.c: a quarter of the one and three quarters of the other."""
    return math.trunc((_normal(index) + 3 * _pareto(index)) / 4)
