"""The link of a tunnel, in both directions: the hold `far-end` by what the other end's CCMs say, and the status that
this end's CCMs tell.

`tunnel.backend` has one TunnelLink for each netdev.
"""

from __future__ import annotations

from typing import Final

from vnic.backend.readiness import Lack, what_is_missing
from vnic.backend.tunnel.config import Mode
from vnic.backend.tunnel.port import FarState
from vnic.net.client import NetClient, clients_of_wire
from vnic.net.follow import Undecided
from vnic.net.records import HoldKind
from vnic.protocol.cfm.ccm import InterfaceStatus
from vnic.protocol.cfm.mep import Heard

MEANINGS: Final = {
    InterfaceStatus.DOWN: "it was put down there",
    InterfaceStatus.TESTING: "it is being tested",
    InterfaceStatus.UNKNOWN: "it does not know its state",
    InterfaceStatus.DORMANT: "its driver is not ready",
    InterfaceStatus.NOT_PRESENT: "no VM is there, or the program there has ended",
    InterfaceStatus.LOWER_LAYER_DOWN: "something that it depends on is down",
}
_STATUS_OF: Final = {
    Lack.NO_NIC: InterfaceStatus.NOT_PRESENT,
    Lack.NOT_ATTACHED: InterfaceStatus.NOT_PRESENT,
    Lack.DRIVER: InterfaceStatus.DORMANT,
    Lack.ADMIN: InterfaceStatus.DOWN,
}


def own_status(client: NetClient, follow: frozenset[str]) -> InterfaceStatus | Undecided:
    """What the CCMs say of the wire of a tunnel's `client`. The tunnel's own far-end hold is not part of it: two ends
    would hold each other for ever."""
    wire = clients_of_wire(client)
    missing = what_is_missing(wire, follow, wire)
    if missing is None:
        return InterfaceStatus.UP
    if isinstance(missing, Undecided):
        return missing
    if missing.hold is not None:
        operator = any(HoldKind.OPERATOR in end.holds for end in wire)
        return InterfaceStatus.DOWN if operator else InterfaceStatus.LOWER_LAYER_DOWN
    return _STATUS_OF[missing.lack]


def why_held(far: FarState | None, mode: Mode, remote: str, port: int) -> str | None:
    """Why the other end keeps the link down; None: it does not."""
    if far is None or mode == "off":
        return None
    heard, rdi, status, _ = far.mep
    if mode == "auto" and heard is Heard.NEVER:
        return None
    if far.refused:
        return f"{remote} refuses: nothing listens on port {port}"
    if heard is Heard.NEVER:
        return f"nothing heard yet from {remote}"
    if heard is Heard.LOST:
        return f"nothing heard from {remote} for {far.silent_us / 1000:.0f} ms"
    if status not in (None, InterfaceStatus.UP):
        return f"the far end at {remote} says {status.word} ({status.value}): {MEANINGS[status]}"
    if rdi:
        return f"the far end hears nothing from here (RDI): frames from here to {remote} are lost"
    return None


class TunnelLink:
    """The link of one tunnel."""

    def __init__(self, client: NetClient, mode: Mode, remote: str, port: int) -> None:
        """`remote` is the other end's name in texts, `port` its UDP port."""
        self._client = client
        self._mode = mode
        self._remote = remote
        self._port = port

    def update(self, far: FarState | None) -> None:
        """Place, change or release the hold."""
        client, kind = self._client, HoldKind.FAR_END
        text = why_held(far, self._mode, self._remote, self._port)
        hold = client.holds.get(kind)
        if text is None:
            client.release(kind, client.name, f"the far end at {self._remote} is up, and hears this end")
        elif hold is None or hold.text != text:
            client.hold(kind, client.name, text)
