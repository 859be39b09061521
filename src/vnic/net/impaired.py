"""What the journal and the monitors are told of impairments: a Note of the kind `impaired`, and LINK_IMPAIRED.

`filter.netem` and `faults` report here. The link stays as it is.
"""

from __future__ import annotations

from typing import Literal

from vnic.net.client import NetClient, Surroundings, clients_of_wire
from vnic.net.records import LinkImpaired, NoteKind


def report(
    network: Surroundings,
    client: NetClient,
    event: Literal["set", "changed", "cleared"],
    source: str,
    by: str,
    text: str,
) -> None:
    """Note it for both ends of the wire of `client`; `source` is the id of the object or the fault."""
    caused_by = None
    for end in clients_of_wire(client):
        note = network.journal.note(
            NoteKind.IMPAIRED,
            event,
            text,
            name=end.name,
            by=by,
            caused_by=caused_by,
            details={"source": source},
        )
        caused_by = note.id if caused_by is None else caused_by
        network.emit("LINK_IMPAIRED", LinkImpaired(end.name, note.id, source, by, text))
