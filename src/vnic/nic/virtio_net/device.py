"""The virtio-net device model: an Endpoint of its Nic on one side, a VirtioDevice for its transport on the other.

net/ calls `link_status_changed` for every link change, and the device notifies the guest (QEMU's
virtio_net_set_link_status); it reports the guest's read of `status` as seen.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.dataplane.engine import Mode, PairEngine, RingCarrier
from vnic.dataplane.python_pair import PythonPair
from vnic.keep import NO_KEPT
from vnic.net.client import Endpoint, Nic
from vnic.net.lending import GuestRings, LentEnd
from vnic.net.offload import OffloadError, complete
from vnic.net.queue import Frame
from vnic.nic.virtio_net import features as f
from vnic.nic.virtio_net.config import (
    ANNOUNCE,
    DUPLEX,
    DUPLEX_UNKNOWN,
    LINK_UP,
    MAC_BYTES,
    QUEUE_SIZES,
    SPEED_UNKNOWN,
    STATUS_AT,
    STATUS_END,
    NetConfig,
    check_properties,
    config_size,
)
from vnic.nic.virtio_net.control import ControlQueue
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.nic.virtio_net.queues import NetQueues
from vnic.nic.virtio_net.rx_filter import ALL_VLANS, RxFilter, mac_text
from vnic.record import require, within
from vnic.virtio.attachment import VirtioHandles
from vnic.virtio.constants import ID_NET, STATUS_DRIVER_OK
from vnic.virtio.device import RingBackend
from vnic.virtio.device_record import DataPath
from vnic.virtio.features import EVENT_IDX, IN_ORDER, VERSION_1


class VirtioNet(NetQueues, Endpoint, GuestRings):
    """One virtio network device with `pairs` queue pairs and a control queue.

    `speed` is in Mbit/s, `duplex` "half" or "full"; 0 and None leave a field, and its feature, out. `withheld` are
    features that no driver is offered; `in_order` offers IN_ORDER also where the back-end did not ask for it.
    """

    device_id = ID_NET
    client: Nic

    def __init__(
        self,
        pairs: int = 1,
        *,
        mtu: int = 0,
        speed: int | None = None,
        duplex: str | None = None,
        queue_size: int = QUEUE_SIZES[-1],
        withheld: int = 0,
        in_order: bool = False,
    ) -> None:
        """Raises NetError, with QEMU's text, for invalid values."""
        check_properties(pairs, mtu, speed, duplex, queue_size)
        super().__init__(pairs, queue_size)
        self.filter = RxFilter()
        self.config = NetConfig(
            bytes(MAC_BYTES),
            LINK_UP,
            pairs,
            mtu,
            SPEED_UNKNOWN if speed is None else speed,
            DUPLEX_UNKNOWN if duplex is None else DUPLEX[duplex],
        )
        own_features = (
            f.ALWAYS
            | (IN_ORDER if in_order else 0)
            | (f.MQ if pairs > 1 else 0)
            | (f.MTU if mtu else 0)
            | (f.SPEED_DUPLEX if speed is not None or duplex is not None else 0)
        )
        self._withheld = withheld
        self._own_features = f.consistent(own_features & ~withheld)
        self.config_size = config_size(self._own_features)
        self._peer_queues = pairs
        """A replacement netdev may have fewer queues: pairs share them then."""
        self._probed: bool | None = None
        """The link that a driver read before DRIVER_OK."""
        self._bound_away: bool | None = None
        """Whether the client's queues were told last that the rings are away; None: they were told nothing."""
        self._look_scheduled = False
        self._carrier: RingCarrier | None = None
        self._engines: list[PairEngine] = []

    @property
    def name(self) -> str:
        return self.client.name

    # -- Endpoint: called by net/ -------------------------------------------------------------------------------

    def start(self) -> None:
        self.config.mac = self.client.mac
        self.config.status = LINK_UP if self.client.link_up else 0
        scheduler = self.client.network.scheduler
        self._control = ControlQueue(self, scheduler)
        self._engines = [
            PythonPair(self, self.client, pair, self.queues[2 * pair], self.queues[2 * pair + 1], scheduler)
            for pair in range(self.pairs)
        ]
        self.host_features = self.offer_features()
        self.set_features(0)

    def link_status_changed(self) -> None:
        """The guest is interrupted exactly when its status bit changes, and only after DRIVER_OK."""
        up = self.client.link_up
        status = (self.config.status & ~LINK_UP) | (LINK_UP if up else 0)
        changed = status != self.config.status
        self.config.status = status
        self.changed()
        if changed:
            self.client.report.notified(up)
            self.attachment.link_changed(up)
            if self._notify_config():
                self.client.report.interrupted()
        self.update_datapath()

    def link_shown(self) -> bool:
        return bool(self.config.status & LINK_UP)

    def _notify_config(self) -> bool:
        """virtio_notify_config of QEMU's hw/virtio/virtio.c."""
        self.generation += 1
        self.changed()
        if not self.status & STATUS_DRIVER_OK:
            return False
        return self.attachment.config_interrupt()

    def peer_changed(self) -> None:
        peer = self.client.peer
        if peer is not None:
            self._peer_queues = peer.queues
            for pair, engine in enumerate(self._engines):
                engine.set_peer_queue(pair % peer.queues)
        if not self.status & STATUS_DRIVER_OK:
            self.host_features = self.offer_features()
            self.changed()
        self.update_datapath()

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self._carrier is not None and self.datapath is DataPath.TAKEN:
            self._inject(queue, frame, offload)
            return True
        if self.datapath is DataPath.RETURNING and self.wanted_datapath() is DataPath.LOCAL:
            return False  # `serve` flushes when the rings are here
        return self._engines[queue].receive(frame, offload)

    def receiver(self, queue: int) -> Callable[[Frame, bytes], bool] | None:
        away = self.datapath in (DataPath.TAKEN, DataPath.RETURNING)
        return None if away else self._engines[queue].receive

    def _inject(self, queue: int, frame: Frame, offload: bytes) -> None:
        """A frame of this process while the carrier has the rings."""
        assert self._carrier is not None
        try:
            parts = complete(offload, frame) if offload else [frame]
            for part in parts:
                self._carrier.inject(queue, part)
        except OffloadError:
            self.client.dropped += 1

    def sent(self, queue: int) -> None:
        for engine in self._engines[queue :: self._peer_queues]:
            engine.sent()

    def announce(self) -> None:
        """Ask the guest to announce itself (virtio_net_announce)."""
        needed = f.GUEST_ANNOUNCE | f.CTRL_VQ
        if self.driver_features & needed == needed:
            self.config.status |= ANNOUNCE
            self._notify_config()

    def rx_filter(self) -> dict[str, object]:
        return self.filter.info(self.config.mac, bool(self.driver_features & f.CTRL_VLAN))

    def info_text(self, queue: int) -> str:
        return "" if queue else f"model={self.client.model},macaddr={mac_text(self.config.mac)}"

    def datapath_word(self) -> str:
        if self.datapath in (DataPath.TAKEN, DataPath.RETURNING):
            return "wire" if self._peer_backend() is None and self._carrier is not None else "vhost"
        return "python" if self.datapath is DataPath.LOCAL else "none"

    def idle(self) -> bool:
        """No driver, no link, or a ring that does not run: the other ends are joined without it."""
        both = all(queue.ready for queue in self.queues[:2])
        leaving = self._resetting or not self.attached
        return leaving or not both or self.wanted_datapath() is not DataPath.LOCAL

    def wire_end(self) -> LentEnd | str:
        memory = self.memory
        if not any(region.fd is not None for region in memory.regions):
            return "the VM shares no memory"
        return self

    def set_carrier(self, carrier: RingCarrier) -> None:
        """Let `carrier` take the rings whenever they run."""
        self._carrier = carrier
        self.update_datapath()

    def drop_carrier(self, carrier: RingCarrier) -> None:
        """Take the rings back from `carrier`, and process them here."""
        if carrier is self._carrier:
            self._carrier = None
            self.update_datapath()

    def cleanup(self) -> None:
        self.serve(DataPath.OFF)

    # -- state apart from handles -------------------------------------------------------------------------------

    def save(self) -> VirtioNetRecord:
        if self._detaching:
            return VirtioNetRecord.without_vm(
                self.save_device(), self.client.mac, self.config.status & LINK_UP, self.pairs
            )
        return VirtioNetRecord(
            device=self.save_device(),
            mac=self.config.mac,
            config_status=self.config.status,
            active_pairs=self._active_pairs,
            probed=self._probed,
            filter=self.filter.save(),
            engines=[engine.save() for engine in self._engines],
        )

    def restore(self, record: VirtioNetRecord, handles: VirtioHandles) -> None:
        """Take the place of the device that was saved, after `start`. Raises RecordError, and changes nothing then."""
        with within("device"):
            features = self._own_features | self.transport_features | f.OFFLOADS | f.WITH_RING_BACKEND
            record.device.check(self.queues, features & ~self._withheld, handles.memory, handles.attached)
        active = record.active_pairs
        require(1 <= active <= self.pairs, "active_pairs", f"is {active}, of {self.pairs} pairs")
        engines = len(record.engines)
        require(engines == self.pairs, "engines", f"are {engines}, for {self.pairs} pairs")
        self.restore_device(record.device, handles)
        self.features_changed()
        self.filter.restore(record.filter)
        self.config.mac, self.config.status = record.mac, record.config_status
        self._active_pairs, self._probed = record.active_pairs, record.probed
        self._show_filtering()
        for engine, each in zip(self._engines, record.engines, strict=True):
            engine.restore(each)
        control = self.control_index
        self.queues[control].publish_saved(record.device.queues[control].used_idx)
        self.go_on(record.device)

    # -- VirtioDevice: called by the transport ------------------------------------------------------------------

    def offer_features(self) -> int:
        offered = self._own_features | self.transport_features
        peer = self.client.peer
        if peer is not None and peer.endpoint.wants_offload:
            offered |= f.OFFLOADS
        back_end = self._peer_backend()  # the carrier has all that is offered
        if back_end is not None:
            if back_end.ring_features is None:
                # Not every back-end has it, and the first one must be able to serve the guest.
                offered &= ~EVENT_IDX
            else:
                offered = (offered | f.WITH_RING_BACKEND) & (back_end.ring_features | ~f.OF_THE_RINGS)
        return f.consistent(offered & ~self._withheld)

    def features_changed(self) -> None:
        ring_format = f.ring_format(self.driver_features)
        for engine in self._engines:
            engine.set_format(ring_format)
        self.wants_offload = ring_format.rx_offload
        # Without VLAN filtering all pass (virtio_net_set_features).
        self.filter.vlans = frozenset() if self.driver_features & f.CTRL_VLAN else ALL_VLANS
        if self._carrier is not None:
            self._carrier.filter_changed()

    def driver_ok_changed(self, driver_ok: bool) -> None:
        self.client.report.driver_ok(driver_ok)
        if driver_ok:
            if self._probed is not None:
                self.client.report.seen(self._probed)
            self.look_at_rings()

    def queue_enabled(self, index: int, enabled: bool) -> None:
        """A client that disables a running RX ring has its interface down."""
        super().queue_enabled(index, enabled)
        if index == 0 and self.queues[0].ready and self.status & STATUS_DRIVER_OK:
            self.client.report.driver_ok(True, admin_down=not enabled)

    def reset_state(self) -> None:
        """virtio_net_reset; the link stays as it is."""
        self._active_pairs = 1
        self._probed = None
        self.config.status &= ~ANNOUNCE
        self.config.mac = self.client.mac
        self.filter.reset()
        self._show_filtering()

    def read_config(self, offset: int, length: int) -> bytes:
        """`length` bytes, ff beyond the end. A read of `status` after DRIVER_OK counts as seen.

        Before DRIVER_OK only a read that ends with `status` counts, and it counts when DRIVER_OK is set: a vhost-user
        client always reads from offset 0, and QEMU reads the whole space before any guest runs.
        """
        end = offset + length
        if offset < STATUS_END and end > STATUS_AT and self.host_features & f.STATUS:
            if self.status & STATUS_DRIVER_OK:
                self.client.report.seen(bool(self.config.status & LINK_UP))
            elif end == STATUS_END:
                self._probed = bool(self.config.status & LINK_UP)
                self.changed()
        part = self.config.pack(self.config_size)[offset : offset + length]
        return part + b"\xff" * (length - len(part))

    def write_config(self, offset: int, data: bytes) -> None:
        """Only a legacy driver without CTRL_MAC_ADDR sets its MAC like this (virtio_net_set_config)."""
        if self.driver_features & (VERSION_1 | f.CTRL_MAC_ADDR) or offset >= MAC_BYTES:
            return
        mac = bytearray(self.config.mac)
        end = min(offset + len(data), MAC_BYTES)
        mac[offset:end] = data[: end - offset]
        self.set_mac(bytes(mac))

    def kick(self, index: int) -> None:
        if index == self.control_index:
            if not self.status & STATUS_DRIVER_OK:
                return
            if self.kept is NO_KEPT:
                self._control.kick(self.queues[index])
            else:  # which commits: not while a message of the VM is carried out
                self._control.kick_later(self.queues[index])
        elif self.is_data_queue(index):
            engine = self._engines[index // 2]
            if index & 1:
                engine.kick_tx()
            else:
                engine.kick_rx()

    # -- rings --------------------------------------------------------------------------------------------------

    def ring_backend(self) -> RingBackend | None:
        return self._peer_backend() or self._carrier

    def _peer_backend(self) -> RingBackend | None:
        peer = self.client.peer
        if peer is not None and isinstance(peer.endpoint, RingBackend) and peer.endpoint.takes:
            return peer.endpoint
        return None

    def update_datapath(self) -> None:
        super().update_datapath()
        away = self.datapath is DataPath.TAKEN or self.datapath is DataPath.RETURNING
        if away is not self._bound_away:
            self._bound_away = away
            self.client.rebind()
        self.client.path_changed()

    def wanted_datapath(self) -> DataPath:
        """virtio_net_started of QEMU's virtio-net.c."""
        if not self.status & STATUS_DRIVER_OK:
            return DataPath.OFF
        return DataPath.LOCAL if self.config.status & LINK_UP else DataPath.DISCARD

    def serve(self, datapath: DataPath) -> None:
        served = self._served_pairs
        mode = Mode.OFF
        if datapath is DataPath.LOCAL:
            mode = Mode.RUN
        elif datapath is DataPath.DISCARD:
            mode = Mode.DISCARD
        for pair, engine in enumerate(self._engines):
            engine.set_mode(mode if pair < served else Mode.OFF)
        if datapath in (DataPath.OFF, DataPath.DISCARD) and self.client.has_waiting:
            self.client.purge()  # they waited for the rings

    def look_at_rings(self) -> None:
        if not self._look_scheduled:
            self._look_scheduled = True
            self.client.network.scheduler.call_soon(self._look)

    def _look(self) -> None:
        self._look_scheduled = False
        if self._restored:
            self.tell_again()
            for engine in self._engines:
                engine.sent()
        for queue in self.queues:
            if queue.ready:
                self.kick(queue.index)

    def interrupt_now(self, index: int) -> None:
        if self.carries_packets(index) and not index & 1:
            self._engines[index // 2].interrupt_rx()

    def ring_interrupt(self, index: int) -> None:
        """RingHost: interrupt the driver for used buffers of this ring."""
        self.attachment.queue_interrupt(index)

    # -- ControlHost: called by the control queue ---------------------------------------------------------------

    def commit(self) -> None:
        self.kept.commit()

    def filter_changed(self) -> None:
        self._show_filtering()
        self.client.rx_filter_changed()

    def _show_filtering(self) -> None:
        for engine in self._engines:
            engine.set_filtering(not self.filter.promisc)
        if self._carrier is not None:
            self._carrier.filter_changed()

    def accepts(self, frame: Frame) -> bool:
        """RingHost: the receive filter."""
        return self.filter.accepts(frame, self.config.mac)

    def set_mac(self, mac: bytes) -> None:
        self.config.mac = mac
        if self._carrier is not None:
            self._carrier.filter_changed()

    def ack_announce(self) -> bool:
        """VIRTIO_NET_CTRL_ANNOUNCE_ACK (virtio_net_handle_announce)."""
        announced = bool(self.config.status & ANNOUNCE)
        self.config.status &= ~ANNOUNCE
        return announced
