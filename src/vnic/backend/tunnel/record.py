"""The state of a tunnel netdev apart from its sockets, as `tunnel.backend` saves it."""

from __future__ import annotations

from vnic.protocol.cfm.mep import MepRecord
from vnic.protocol.trailer import TrailerRecord
from vnic.record import Record


class TunnelRecord(Record, frozen=True):
    """Without `mep` there are no CCMs, without `trailer` there is no key."""

    mep: MepRecord | None
    trailer: TrailerRecord | None
    refused: bool
    """The other end's host has said that nothing listens there."""
    sender_waits: bool
