"""The log lines of link changes, for operators: what changed, why, and who asked for it."""

from __future__ import annotations

import logging

from vnic.net.holds import VNIC

log = logging.getLogger(__name__)


def log_event(event: str, data: dict[str, object]) -> None:
    """A subscriber of the network's events."""
    if event != "LINK_CHANGED":
        return
    cause = data["cause"]
    assert isinstance(cause, dict)
    by = "" if cause["by"] in (VNIC, data["name"]) else f" (by {cause['by']})"
    log.info("%s: link %s, %s: %s%s", data["name"], data["link"], cause["kind"], cause["text"], by)
