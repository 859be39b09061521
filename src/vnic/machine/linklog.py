"""The log lines of link changes, for operators: what changed, why, and who asked for it.

`Machine` passes all events to it."""

from __future__ import annotations

import logging

from vnic.net.records import VNIC, LinkChanged, LinkImpaired

log = logging.getLogger(__name__)


def log_event(_event: str, data: object) -> None:
    """A subscriber of the network's events."""
    if isinstance(data, LinkImpaired):
        log.info("%s: %s: %s (by %s)", data.name, data.source, data.text, data.by)
    elif isinstance(data, LinkChanged):
        cause = data.cause
        by = "" if cause.by in (VNIC, data.name) else f" (by {cause.by})"
        log.info("%s: link %s, %s: %s%s", data.name, data.link, cause.kind, cause.text, by)
