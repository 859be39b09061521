"""NetClient, one end of a virtual wire (QEMU's NetClientState), and Endpoint, its implementation (NetClientInfo).

NIC device models and back-ends derive from Endpoint; they send frames and set holds through their `client`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import msgspec

from vnic.keep import NO_HANDLES, NO_KEPT, Kept, NoHandles
from vnic.net.client_record import ChangeRecord, HoldRecord, IncomingQueueRecord, NetClientRecord, NicRecord
from vnic.net.clock import Clock, Scheduler
from vnic.net.filters import Filter, filter_frame
from vnic.net.journal import Journal
from vnic.net.lending import LentEnd
from vnic.net.queue import Frame, IncomingQueue, Sender
from vnic.net.records import (
    Adopted,
    ClientType,
    GuestInfo,
    Hold,
    HoldKind,
    LinkChange,
    LinkChanged,
    LinkSeen,
    OperState,
)
from vnic.net.report import LinkReport
from vnic.net.traffic import Traffic
from vnic.record import require

Watcher = Callable[[LinkChanged | LinkSeen], None]


class LinkControl(Protocol):
    """Carries out link changes (`link.Links`)."""

    def hold(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None: ...

    def release(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None: ...

    def seen(self, nic: Nic, change: LinkChange) -> None: ...

    def guest_changed(self, nic: Nic) -> None: ...

    def shown_on(self, client: NetClient, ifname: str) -> None: ...

    def shown_changed(self, client: NetClient) -> None: ...


class PathChooser(Protocol):
    """Chooses the path of packets (`wire.Wires`)."""

    def changed(self, client: NetClient) -> None: ...

    def drained(self, client: NetClient) -> None: ...


class Surroundings(Protocol):
    """The part of Network that its clients use."""

    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def links(self) -> LinkControl: ...
    @property
    def wires(self) -> PathChooser: ...

    def emit(self, name: str, data: object) -> None: ...


class Endpoint:
    """The implementation of a client: a device model or a back-end. The default methods do nothing.

    Every method is called from the control thread and must not block.
    """

    client: NetClient
    """Set when the client is created, before `start`."""

    kept: Kept = NO_KEPT
    """Its place among what outlives the process; it ends after `cleanup`."""

    wants_offload = False
    """True: `receive` takes frames with a pending checksum or segmentation (`offload`)."""

    passes_frames = True
    """False: another process works on the guest's rings (vhost), so that filters would see no frames."""

    elsewhere = False
    """True: the device model of this NIC is in a VM that was adopted. Only its link is vnic's; its packets are not."""
    plugs_into: str | None = None
    """Of a netdev: the NIC of an adopted VM whose cable it is. No other NIC may be plugged in."""

    def start(self) -> None:
        """Open resources and place the first holds; a NetError here removes the client again."""

    def link_status_changed(self) -> None:
        """The link of this wire was set; `client.link_up` is the new state."""

    def link_shown(self) -> bool | None:
        """The link that a NIC's device model has been notified of."""
        return None

    def peer_changed(self) -> None:
        """The client got or lost a peer; if that changes the link, `link_status_changed` follows."""

    def guest_changed(self) -> None:
        """The guest of the peer NIC attached or detached, or its driver started or stopped the device."""

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Take one frame. False: no room; the client queues it and offers it again after `client.flush(queue)`.

        `offload` is a 10-byte virtio_net_hdr (virtio 1.2 §5.1.6) where wants_offload is set, else empty.
        The frame may be a view that is invalid after the call returns: copy what is kept.
        """
        return True

    def receiver(self, queue: int) -> Callable[[Frame, bytes], bool] | None:
        """What `receive` would call for this queue, without the calls between; None: `receive` itself. It is asked
        once, and again after `client.rebind`."""
        return None

    def overrun(self, queue: int) -> None:
        """A frame was dropped because the queue of waiting frames is full."""

    def sent(self, queue: int) -> None:
        """The peer took the frames for which `client.send` returned False: continue to send (QEMU's sent_cb)."""

    def announce(self) -> None:
        """Ask the guest to announce itself (virtio-net's GUEST_ANNOUNCE)."""

    def rx_filter(self) -> dict[str, object] | None:
        """QMP's RxFilterInfo without `name`, or None where the model has none."""
        return None

    def info_text(self, queue: int) -> str:
        """The text after `index=0,type=…,` in `info network`."""
        return ""

    def datapath_word(self) -> str:
        """Of a NIC, who processes its guest's rings: `none`, `python`, `wire` or `vhost`."""
        return "none" if self.idle() else "python"

    def adopted(self) -> Adopted | None:
        """Of a NIC of an adopted VM."""
        return None

    def shows_down(self) -> bool:
        """Of a netdev that shows its wire's link on an interface of the host (`Links.shown_on`): whether it has that
        interface down now, so that the interface's state tells nothing else."""
        return False

    def joined(self) -> Sequence[NetClient] | None:
        """The clients that get the frames of this one by a way other than its peer: a hub's other ports. None: this
        is an end, where frames come from and go to."""
        return None

    def idle(self) -> bool:
        """Whether no frame comes from this end or is taken there: a NIC without a driver."""
        return False

    def wire_end(self) -> LentEnd | str:
        """What vnic-wire needs to move this end's frames, or why it cannot. `Wires.changed` follows each change."""
        return f"frames of {self.client.model} pass through Python"

    @property
    def wire(self) -> Sequence[NetClient]:
        """The client and its peer, the client first."""
        return clients_of_wire(self.client)

    def cleanup(self) -> None:
        """Close everything; called once, also after a failed start."""


class NetClient:
    """One end of a wire. Queue i peers with queue i of `peer`.

    `holds` are the reasons why this end is down; `model` is what QEMU's `info network` calls the type of a netdev,
    or the device model of a NIC.
    """

    is_nic = False
    record_type: ClassVar[ClientType] = "netdev"

    def __init__(
        self, network: Surroundings, name: str, model: str, endpoint: Endpoint, queues: int = 1
    ) -> None:
        self.network = network
        self.name = name
        self.model = model
        self.endpoint = endpoint
        self.queues = queues
        self.peer: NetClient | None = None
        self.holds: dict[HoldKind, Hold] = {}
        self.filters: list[Filter] = []
        """Only a netdev's; the first is the nearest to it (QEMU's QTAILQ of the same name)."""
        self.created = False
        """False: holds that are placed now belong to the initial state and are not recorded as changes."""
        self.last_change: LinkChange | None = None
        self.carrier_up_changes = 0
        self.carrier_down_changes = 0
        self.dropped = 0
        """Frames dropped because an end was down, there was no peer, or a queue was full; without those that the peer's
        endpoint drops (`receive` returns True)."""
        self._incoming = [IncomingQueue(self, index) for index in range(queues)]
        self.traffic = Traffic(self._incoming)
        self._watchers: list[Watcher] = []
        self.kept = self.item = NO_KEPT
        """What is told of changes of what `save_kept` saves; of a netdev's filters."""
        endpoint.client = self

    @property
    def scheduler(self) -> Scheduler:
        return self.network.scheduler

    def path_changed(self) -> None:
        """Something changed on which the path of this end's packets may depend."""
        self.network.wires.changed(self)

    def drained(self) -> None:
        """No frame waits at this end any more."""
        self.network.wires.drained(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} ({self.model})>"

    @property
    def type(self) -> str:
        """What `info network` prints as `type=`."""
        return self.model

    # -- link ---------------------------------------------------------------------------------------------------

    @property
    def link_down(self) -> bool:
        """QEMU's flag of this end alone."""
        return bool(self.holds)

    @property
    def link_up(self) -> bool:
        """Whether this client's link is up. A netdev's depends on its own holds, a NIC's on those of both ends."""
        return not self.holds

    @property
    def operstate(self) -> OperState:
        """RFC 2863's ifOperStatus: `down` for an operator hold at this end, `lowerlayerdown` for any other reason."""
        if self.link_up:
            return "up"
        return "down" if HoldKind.OPERATOR in self.holds else "lowerlayerdown"

    def hold(self, kind: HoldKind, by: str, text: str) -> None:
        """Keep the wire down for `kind`; a hold of that kind that exists only gets the new text."""
        self.network.links.hold(self, kind, by, text)

    def release(self, kind: HoldKind, by: str, text: str) -> None:
        """Release the hold of `kind`, if there is one; the link comes up when no hold is left at either end."""
        self.network.links.release(self, kind, by, text)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` for this client's LINK_CHANGED and LINK_SEEN; the returned function ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def tell_watchers(self, event: LinkChanged | LinkSeen) -> None:
        for watcher in list(self._watchers):
            watcher(event)

    # -- packets (QEMU's qemu_send_packet_async, qemu_deliver_packet_iov) ---------------------------------------

    def send(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Send one frame to the peer. True: delivered or dropped (no peer, an end is down). False: it waits
        at the peer; pause until `endpoint.sent(queue)`."""
        peer = self.peer
        if peer is None or self.holds:
            self.dropped += 1
            return True
        if (self.filters or peer.filters) and filter_frame(self, queue, frame, offload):
            return True
        if peer.holds or queue >= peer.queues:  # as `deliver`, without its call
            peer.dropped += 1
            return True
        return peer._incoming[queue].send(self, frame, offload)

    def deliver(self, sender: Sender, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Pass a frame to this end's endpoint, or queue it while the endpoint has no room. Filters ran before."""
        if self.holds or queue >= self.queues:
            self.dropped += 1
            return True
        return self._incoming[queue].send(sender, frame, offload)

    @property
    def has_waiting(self) -> bool:
        """Whether frames wait at this end."""
        return any(incoming.frames for incoming in self._incoming)

    def can_send(self, queue: int) -> bool:
        """False while frames of an earlier `send` still wait at the peer (qemu_can_send_packet)."""
        peer = self.peer
        return peer is None or queue >= peer.queues or not peer._incoming[queue].frames

    def rebind(self) -> None:
        """`endpoint.receiver` has changed."""
        for incoming in self._incoming:
            incoming.receive = self.endpoint.receiver(incoming.index)

    def flush(self, queue: int) -> None:
        """This end has room again: offer it the waiting frames (qemu_flush_queued_packets)."""
        self._incoming[queue].flush()

    # -- state apart from endpoint and peer ---------------------------------------------------------------------

    def save(self) -> NetClientRecord:
        now_us, change = self.network.clock.monotonic_ns() // 1000, self.last_change
        return NetClientRecord(
            saved_us=now_us,
            name=self.name,
            holds=[HoldRecord.of(hold, now_us) for hold in self.holds.values()],
            last_change=None if change is None else ChangeRecord.of(change, now_us),
            carrier_up_changes=self.carrier_up_changes,
            carrier_down_changes=self.carrier_down_changes,
            dropped=self.dropped,
            incoming=[incoming.save() for incoming in self._incoming],
            nic=self._save_nic(now_us),
        )

    def save_kept(self) -> tuple[NetClientRecord, NoHandles]:
        """The record without the frames that wait, which end with the process."""
        empty = [IncomingQueueRecord(frames=[])] * self.queues
        return msgspec.structs.replace(self.save(), incoming=empty), NO_HANDLES

    def restore(self, record: NetClientRecord, *, same_boot: bool = False) -> None:
        """Take the state of the client that was saved; with `same_boot` time went on since. Both ends of the wire must
        exist and be peers again. No endpoint is notified: each restores its state itself. Raises RecordError."""
        require(record.name == self.name, "name", f"is {record.name!a}, not {self.name!a}")
        queues = len(record.incoming)
        require(queues == self.queues, "incoming", f"has {queues} queues, not {self.queues}")
        kind = None if record.last_change is None else record.last_change.type
        require(kind in (None, self.record_type), "last_change.type", f"is {kind}, not {self.record_type}")
        require((record.nic is not None) is self.is_nic, "nic", f"does not go with a {self.record_type}")
        waiting = next((at for at, each in enumerate(record.incoming) if each.frames), None)
        require(waiting is None or self.peer, f"incoming[{waiting}]", "has frames, and there is no peer")
        now_us = record.saved_us if same_boot else self.network.clock.monotonic_ns() // 1000
        self.holds = {hold.kind: hold.hold(self.name, now_us) for hold in record.holds}
        self.last_change = None if record.last_change is None else record.last_change.change(now_us)
        self.carrier_up_changes = record.carrier_up_changes
        self.carrier_down_changes = record.carrier_down_changes
        if self.peer is not None:
            for incoming, each in zip(self._incoming, record.incoming, strict=True):
                incoming.restore(each, self.peer)
        self.dropped = record.dropped
        if record.nic is not None:
            self._restore_nic(record.nic, now_us)

    def _save_nic(self, now_us: int) -> NicRecord | None:
        return None

    def _restore_nic(self, record: NicRecord, now_us: int) -> None:
        """Overridden by Nic."""

    def purge(self, queue: int | None = None) -> None:
        """Drop the frames that wait at this end (qemu_purge_queued_packets), in one queue or in all; senders may
        continue."""
        for incoming in self._incoming if queue is None else (self._incoming[queue],):
            incoming.purge()


class Nic(NetClient):
    """The end that a guest sees (QEMU's NICState): a NetClient with a MAC, a guest, and the id of its netdev."""

    is_nic = True
    record_type = "nic"

    def __init__(
        self,
        network: Surroundings,
        name: str,
        model: str,
        endpoint: Endpoint,
        queues: int,
        mac: bytes,
        netdev_id: str | None,
        path: str,
    ) -> None:
        super().__init__(network, name, model, endpoint, queues)
        self.mac = mac
        self.netdev_id = netdev_id
        """The id of its netdev, which need not exist yet."""
        self.path = path
        """Its QOM path, as QEMU's events contain it."""
        links = network.links
        self.report = LinkReport(
            name,
            network.clock,
            network.journal,
            lambda change: links.seen(self, change),
            lambda: links.guest_changed(self),
            lambda: self.kept.changed(),
        )
        self.leaving = False
        """device_del was requested and the VM is being detached: set_link no longer brings the link up."""
        self.rx_filter_notify = True
        """Whether the next filter change emits an event (QEMU's rxfilter_notify_enabled: one until it is queried)."""

    @property
    def type(self) -> str:
        return "nic"

    @property
    def link_up(self) -> bool:
        return not self.holds and not (self.peer is not None and self.peer.holds)

    def _save_nic(self, now_us: int) -> NicRecord:
        return NicRecord(
            report=self.report.save(now_us), leaving=self.leaving, rx_filter_notify=self.rx_filter_notify
        )

    def _restore_nic(self, record: NicRecord, now_us: int) -> None:
        self.report.restore(record.report, self.last_change, now_us)
        self.leaving, self.rx_filter_notify = record.leaving, record.rx_filter_notify

    def mac_text(self) -> str:
        return ":".join(f"{byte:02x}" for byte in self.mac)

    @property
    def guest(self) -> GuestInfo:
        """The known state of the guest."""
        return self.report.guest

    def rx_filter_changed(self) -> None:
        """Emit one event, until the next query-rx-filter, that the guest changed its filter (rxfilter_notify)."""
        if self.rx_filter_notify:
            self.rx_filter_notify = False
            self.kept.changed()
            # QEMU's path is that of the virtio device within its transport.
            path = f"{self.path}/virtio-backend"
            self.network.emit("NIC_RX_FILTER_CHANGED", {"name": self.name, "path": path})


def clients_of_wire(client: NetClient) -> Sequence[NetClient]:
    """The client and its peer, the client first."""
    return (client,) if client.peer is None else (client, client.peer)
