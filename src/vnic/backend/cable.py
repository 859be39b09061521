"""cable: one end of a cable between two NICs of this vnic. Frames pass to the other end, and so does the link state.

The registry makes it. Each end holds its wire `far-end` while the other end's NIC is held, is missing, or its guest is
not ready; `follow=` says which of these count.
"""

from __future__ import annotations

from collections.abc import Sequence

from vnic.backend.base import Backend, BackendContext
from vnic.backend.options import CableOptions
from vnic.backend.readiness import Lack, parse_follow, what_is_missing
from vnic.net.client import NetClient, Nic
from vnic.net.errors import NetError
from vnic.net.follow import Follower, Reason, Undecided, netdevs
from vnic.net.queue import Frame
from vnic.net.records import HoldKind


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
        self.plugs_into = options.nic
        self._follow = parse_follow(options.follow)
        self._joined = False
        self.other: CableEnd | None = None
        self._flush_later = False

    def start(self) -> None:
        if self.plugs_into is not None:
            self._wait_for(self.plugs_into)
        self.other = self.context.cables.join(self.cable, self.name, self)
        self._joined = True
        self._plug(self.other)
        if self.other is not None:
            self.other._plug(self)
        self.context.network.links.follow(self)
        for client in (self.client, *self.joined()):
            client.path_changed()

    def _wait_for(self, name: str) -> None:
        """The cable is that of an adopted VM's NIC, which may come later."""
        network = self.context.network
        nic = network.find_nic(name)
        if (nic is not None and not nic.endpoint.elsewhere) or (nic is None and "/" not in name):
            raise NetError(
                f"Parameter 'nic' expects a NIC of an adopted VM, as 'vm1/net0', not '{name}':"
                f" other NICs name their netdev, as -device …,netdev={self.name}"
            )
        of_nics = self.context.cables.of_nics
        if name in of_nics:
            raise NetError(f"'{name}' has a cable already: '{of_nics[name]}'")
        of_nics[name] = self.name
        network.links.followers.wait_for(self, "nic", name)

    def client_came(self, client: NetClient) -> None:
        """The adopted VM's NIC is being created."""
        if isinstance(client, Nic):
            self.context.network.plug_adopted(client, self.client)

    def _plug(self, other: CableEnd | None) -> None:
        self.other = other
        sources = [] if other is None else [other.client]
        self.context.network.links.followers.set(self, self.client, sources)

    def cleanup(self) -> None:
        network, cables = self.context.network, self.context.cables
        network.links.followers.remove(self)
        if self.plugs_into is not None and cables.of_nics.get(self.plugs_into) == self.name:
            del cables.of_nics[self.plugs_into]
        if not self._joined:
            return
        self._joined = False
        cables.leave(self.cable, self.name)
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
        other = self.other
        if not self._follow:
            return None
        if other is None or other.client not in self.context.network.clients:
            return Reason(self.name, f"the other end of cable {self.cable} does not exist")
        wire = other.wire
        missing = what_is_missing(wire, self._follow, self.wire)
        if missing is None or isinstance(missing, Undecided):
            return missing
        lack, client, hold = missing
        at = self._at_other_end(client.name)
        if hold is not None:
            # The text of a hold that came from elsewhere would grow with each cable; `why` has the whole chain.
            what = hold.kind if hold.via else f"{hold.kind}: {hold.text}"
            via = (*netdevs(wire), *hold.via)
            return Reason(hold.by, f"{at} is held, {what}", via, hold.first_kind)
        text = f"no NIC is plugged into {at}" if lack is Lack.NO_NIC else f"{at}: {lack.value}"
        return Reason(self.name, text, netdevs(wire))

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
