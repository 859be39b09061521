"""Words and defaults of a netem that its options need; nothing else is imported with them, so that `vnic run` starts
fast.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

Distribution: TypeAlias = Literal["uniform", "normal", "pareto", "paretonormal"]
DISTRIBUTIONS: Final[tuple[str, ...]] = get_args(Distribution)
DEFAULT_LIMIT: Final = 1000
"""tc's."""
