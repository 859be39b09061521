"""The link of a tap, in both directions; `tap.backend` makes one for each tap.

The host's `ip link set tap0 down` sets the hold `uplink`. The interface has carrier (LOWER_UP in `ip link`) exactly
while the NIC on the wire has a link and a VM.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.backend.far_side import has_link
from vnic.backend.interface_watch import InterfaceWatch
from vnic.backend.tap.device import is_up, set_carrier
from vnic.net.client import NetClient
from vnic.net.records import HoldKind


class TapLink:
    """The interface of one tap, from its opening until it is closed or deleted."""

    def __init__(
        self,
        client: NetClient,
        watch: InterfaceWatch,
        ifname: str,
        fd: int,
        carrier: bool | None = None,
    ) -> None:
        """`fd`: any queue of the tap; `carrier`: what the interface shows already. If the kernel does not report
        interfaces, the host's setting is not followed."""
        self._client = client
        self._ifname = ifname
        self._fd = fd
        self.carrier = carrier
        """What the interface shows; None: it was not set yet."""
        self.shows_down = carrier is False
        """Whether the interface has no carrier because of the wire, as far as the kernel has reported it."""
        self._unsubscribe: Callable[[], None] | None
        try:
            self._unsubscribe = watch.subscribe(ifname, self._changed)
        except OSError:
            self._unsubscribe = None

    def _changed(self) -> None:
        """Follow IFF_UP. An interface that is not found was deleted, or is in another network namespace; only its
        descriptor can report either."""
        up = is_up(self._ifname)
        if up is False and HoldKind.UPLINK not in self._client.holds:
            text = f"interface {self._ifname} is down (ip link set {self._ifname} up)"
            self._client.hold(HoldKind.UPLINK, self._client.name, text)
        elif up is not False:
            self._release()
        if self.carrier and self.shows_down:
            self.shows_down = False
            self._client.network.links.shown_changed(self._client)

    def _release(self) -> None:
        self._client.release(HoldKind.UPLINK, self._client.name, f"interface {self._ifname} is up")

    def show(self) -> None:
        """The link of the wire, or its guest, may have changed: set the interface's carrier."""
        carrier = has_link(self._client)
        if carrier is not self.carrier:
            self.carrier = carrier
            set_carrier(self._fd, carrier)
            self.shows_down |= not carrier

    def show_again(self) -> None:
        """Set the carrier even if it is thought to be right: the process before may have set another one at last."""
        self.carrier = None
        self.show()

    def close(self) -> None:
        """Stop following. Called before the descriptor is closed, or when the interface has been deleted."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._release()
