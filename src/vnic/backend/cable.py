"""cable: one end of a cable between two NICs of this vnic. Frames pass to the other end, and so does the link state.

The registry makes it. Each end holds its wire `far-end` while the other end's NIC is held, is missing, or its guest is
not ready; `follow=` says which of these count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vnic.backend.base import Backend, BackendContext
from vnic.backend.options import CableOptions
from vnic.net.client import NetClient, Nic
from vnic.net.errors import NetError
from vnic.net.follow import UNDECIDED, Follower, Reason, Undecided, hold_to_follow, netdevs
from vnic.net.queue import Frame
from vnic.net.records import HoldKind, ShownBy

OPERATOR: Final = "operator"
ATTACHED: Final = "attached"
DRIVER: Final = "driver"
ADMIN: Final = "admin"
WORDS: Final = (OPERATOR, ATTACHED, DRIVER, ADMIN)
DEFAULT: Final = frozenset((OPERATOR, ATTACHED, DRIVER))
NONE: Final = "none"


def parse_follow(text: str | None) -> frozenset[str]:
    """`operator+driver` as a set; NetError for another word."""
    if text is None:
        return DEFAULT
    if text == NONE:
        return frozenset()
    words = text.split("+")
    if not set(words) <= set(WORDS):
        raise NetError(f"Parameter 'follow' expects '{NONE}', or some of '{'+'.join(WORDS)}'")
    return frozenset(words)


class CableEnd(Backend, Follower):
    """One end; its peer is a NIC, or a hub's port.

    Nothing of it is saved: its client has the hold and the frames that wait.
    """

    kind = HoldKind.FAR_END

    wants_offload = True
    """Frames pass unchanged; the peer of the other end decides which offloads it takes."""

    def __init__(self, context: BackendContext, options: CableOptions) -> None:
        super().__init__(context)
        self.cable = options.cable
        self._follow = parse_follow(options.follow)
        self._joined = False
        self.other: CableEnd | None = None
        self._flush_later = False

    def start(self) -> None:
        self.other = self.context.cables.join(self.cable, self.name, self)
        self._joined = True
        self._plug(self.other)
        if self.other is not None:
            self.other._plug(self)
        self.context.network.links.follow(self)
        for client in (self.client, *self.joined()):
            client.path_changed()

    def _plug(self, other: CableEnd | None) -> None:
        self.other = other
        sources = [] if other is None else [other.client]
        self.context.network.links.followers.set(self, self.client, sources)

    def cleanup(self) -> None:
        if not self._joined:
            return
        self._joined = False
        network = self.context.network
        self.context.cables.leave(self.cable, self.name)
        network.links.followers.remove(self)
        other, self.other = self.other, None
        if other is not None:
            other._plug(None)
            network.links.follow(other)
            other.client.flush(0)  # frames that waited for this end are dropped
            other.client.path_changed()

    def info_text(self, queue: int) -> str:
        return f"cable={self.cable}" if queue == 0 else ""

    # -- link state (Follower) ----------------------------------------------------------------------------------

    @property
    def follower_name(self) -> str:
        return self.name

    def decide(self) -> Reason | Undecided | None:
        other, follow = self.other, self._follow
        if not follow:
            return None
        network = self.context.network
        if other is None or other.client not in network.clients:
            return Reason(self.name, f"the other end of cable {self.cable} does not exist")
        wire = other.wire
        if OPERATOR in follow:
            hold = hold_to_follow(wire, self.wire, but=HoldKind.FAR_END)
            if hold is not None:
                # The text of a hold that came from elsewhere would grow with each cable; `why` has the whole chain.
                what = hold.kind if hold.via else f"{hold.kind}: {hold.text}"
                text = f"{self._at_other_end(hold.client)} is held, {what}"
                return Reason(hold.by, text, (*netdevs(wire), *hold.via))
        if len(wire) == 1:
            if ATTACHED in follow:
                text = f"no NIC is plugged into {self._at_other_end(other.name)}"
                return Reason(self.name, text, netdevs(wire))
            return None
        nic = wire[1]
        missing = self._missing(nic) if isinstance(nic, Nic) else None
        if missing is None or isinstance(missing, Undecided):
            return missing
        return Reason(self.name, f"{self._at_other_end(nic.name)}: {missing}", netdevs(wire))

    def _missing(self, nic: Nic) -> str | Undecided | None:
        """What the guest of the NIC at the other end lacks.

        Some guests see their link by their socket, which is closed while it is down: whether they are there is then
        not known. They count as ready until they leave by themselves: two of them, one at each end, would otherwise
        wait for each other.
        """
        guest, follow = nic.guest, self._follow
        if guest.link_shown_by is not ShownBy.SOCKET:
            if ATTACHED in follow and not guest.attached:
                return "its VM is not attached"
            if guest.attached and guest.link_shown_by is None and not guest.driver_ok:
                return UNDECIDED if follow & {DRIVER, ADMIN} else None
            if follow & {DRIVER, ADMIN} and not guest.driver_ok and not guest.admin_down:
                return "its driver is not ready"
        if ADMIN in follow and guest.admin_down:
            return "its guest has the interface down"
        return None

    def _at_other_end(self, name: str) -> str:
        return f"{name} at the other end of cable {self.cable}"

    def released_text(self) -> str:
        other = self.other
        if other is None:
            return f"cable {self.cable} follows nothing"
        return f"{self._at_other_end(other.wire[-1].name)} is ready"

    def joined(self) -> Sequence[NetClient]:
        return [] if self.other is None else [self.other.client]

    # -- frames -------------------------------------------------------------------------------------------------

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Send to the other end. False while its peer has no room."""
        other = self.other
        if other is None:
            return True
        if not other.client.can_send(0):
            return False
        other.client.send(0, frame, offload)
        return True

    def sent(self, queue: int) -> None:
        """The peer has room again: frames for it may wait at the other end. It runs in a separate turn, since cables
        and hubs that are joined in a ring would notify each other endlessly."""
        if not self._flush_later:
            self._flush_later = True
            self.loop.call_soon(self._flush_other)

    def _flush_other(self) -> None:
        self._flush_later = False
        if self.other is not None:
            self.other.client.flush(0)

    def peer_changed(self) -> None:
        """Without its old peer this end takes frames again, so the other need not wait for it."""
        self.sent(0)
