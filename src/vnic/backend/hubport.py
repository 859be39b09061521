"""hubport: a port of a hub. A frame that one port receives is sent to all others (QEMU's net/hub.c).

The registry makes it. A port whose link is down drops its traffic, and the others are not affected: a hub propagates no
link state.
"""

from __future__ import annotations

from collections.abc import Sequence

from vnic.backend.base import Backend, BackendContext
from vnic.backend.hub import Hub, Port
from vnic.backend.options import HubPortOptions
from vnic.net.client import NetClient
from vnic.net.errors import NetError
from vnic.net.queue import Frame


class HubPort(Backend):
    """A port of a hub; its peer is a NIC, or the netdev that `netdev=` names.

    Nothing of it is saved: its client has the frames that wait, and each port offers them again when its peer comes.
    """

    wants_offload = True
    """Frames pass unchanged; the peer of the far port decides which offloads it takes."""

    def __init__(self, context: BackendContext, options: HubPortOptions) -> None:
        super().__init__(context)
        self._hub_id = options.hubid
        self._netdev_id = options.netdev
        self._hub: Hub | None = None
        self._flush_later = False

    def start(self) -> None:
        if self._netdev_id is not None:
            netdev = self.context.network.find_netdev(self._netdev_id)
            if netdev is None:
                raise NetError(f"netdev '{self._netdev_id}' not found")
            if netdev.peer is not None or netdev.endpoint.plugs_into is not None:
                # QEMU fails an assertion here (net_client_setup: !peer->peer).
                raise NetError(f"netdev '{self._netdev_id}' is in use")
            self.context.network.connect(self.client, netdev)
        self._hub = self.context.hubs.join(self, self._hub_id)
        for each in (self, *self._others()):
            each.client.path_changed()

    def joined(self) -> Sequence[NetClient]:
        return [port.client for port in self._others()]

    def _others(self) -> list[Port]:
        return [port for port in self._hub.ports if port is not self] if self._hub is not None else []

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Send to every other port. False while none of them can take a frame (net_hub_port_can_receive)."""
        others = self._others()
        if others and not any(port.client.can_send(0) for port in others):
            return False
        for port in others:
            port.client.send(0, frame, offload)
        return True

    def sent(self, queue: int) -> None:
        """This port's peer has room again: the other ports may hold frames for it (net_hub_flush). It runs in a
        separate turn, because hubs that are joined in a ring would notify each other endlessly."""
        if not self._flush_later:
            self._flush_later = True
            self.loop.call_soon(self._flush_others)

    def _flush_others(self) -> None:
        self._flush_later = False
        for port in self._others():
            port.client.flush(0)

    def peer_changed(self) -> None:
        """Without its old peer this port takes frames again, so the others need not wait for it."""
        self.sent(0)

    def cleanup(self) -> None:
        if self._hub is not None:
            hub, self._hub = self._hub, None
            self.context.hubs.leave(self, hub)
            for port in list(hub.ports):
                port.client.flush(0)  # this one may have been the port that they waited for
                port.client.path_changed()
