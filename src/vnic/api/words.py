"""Keyword arguments of the Python API, as types: QMP's names with `_` for `-`."""

from __future__ import annotations

from typing import Literal, TypedDict


class Netem(TypedDict, total=False):
    """What link-impair takes, in tc-netem's words. A time and a rate have a unit, a percentage may have its `%`."""

    delay: str
    jitter: str
    delay_correlation: str
    distribution: Literal["uniform", "normal", "pareto", "paretonormal"]
    loss: str
    loss_correlation: str
    duplicate: str
    duplicate_correlation: str
    corrupt: str
    corrupt_correlation: str
    reorder: str
    reorder_correlation: str
    gap: int
    rate: str
    limit: int
    max_frame: int
    seed: int


class Fault(TypedDict, total=False):
    """What link-fault takes beside the shape."""

    direction: Literal["rx", "tx"]
    bytes: int
    delay_ms: int
    half_life_ms: int
    suppress: int
    reuse: int
    max_ms: int
