"""filter-replay: passes all frames, as QEMU's does outside its record and replay modes (net/filter-replay.c).

`registry` makes it.
"""

from __future__ import annotations

from vnic.backend.base import BackendContext
from vnic.filter.options import ReplayOptions
from vnic.net.filters import Filter


class ReplayFilter(Filter):
    """Accepted for command lines that name it; vnic records nothing."""

    type = "filter-replay"

    def __init__(self, context: BackendContext, options: ReplayOptions) -> None:
        super().__init__(options)

    def wire_refusal(self) -> str:
        return ""
