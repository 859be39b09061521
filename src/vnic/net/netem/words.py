"""The words of a netem, for its options and for link-impair.

Little is imported with them, so that `vnic run` starts fast.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec

Distribution: TypeAlias = Literal["uniform", "normal", "pareto", "paretonormal"]
DISTRIBUTIONS: Final[tuple[str, ...]] = get_args(Distribution)
DEFAULT_LIMIT: Final = 1000
"""tc's."""


U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
U64: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""An unsigned number of 64 bits: the bound is QAPI's."""


class NetemWords(msgspec.Struct, rename="kebab", frozen=True, kw_only=True, omit_defaults=True):
    """The properties of a netem, in the words of tc-netem(8); None: not given."""

    delay: str | None = None
    jitter: str | None = None
    delay_correlation: str | None = None
    distribution: Distribution | None = None
    loss: str | None = None
    loss_correlation: str | None = None
    duplicate: str | None = None
    duplicate_correlation: str | None = None
    corrupt: str | None = None
    corrupt_correlation: str | None = None
    reorder: str | None = None
    reorder_correlation: str | None = None
    gap: U32 | None = None
    rate: str | None = None
    limit: U32 | None = None
    seed: U64 | None = None
    max_frame: U32 | None = None
