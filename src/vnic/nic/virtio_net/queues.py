"""Which queues a virtio-net device has, and which of them its driver uses (virtio 1.2 §5.1.2)."""

from __future__ import annotations

from vnic.nic.virtio_net import features as f
from vnic.virtio.device import VirtioDevice
from vnic.virtio.queue import SplitQueue


class NetQueues(VirtioDevice):
    """The queue pairs and the control queue, which `VirtioNet` serves."""

    def __init__(self, pairs: int, queue_size: int) -> None:
        super().__init__([SplitQueue(index, queue_size) for index in range(2 * pairs + 1)])
        self.pairs = pairs
        self._active_pairs = 1

    @property
    def control_index(self) -> int:
        """§5.1.2: after all pairs if MQ was negotiated, otherwise after the first."""
        return 2 * self.pairs if self.driver_features & f.MQ else 2

    @property
    def active_pairs(self) -> int:
        """The pairs, from the first on, that take frames: who spreads frames over queues (tap) asks this. A
        vhost-user client that keeps the control queue to itself has enabled those that its driver uses."""
        pairs = self._served_pairs
        others = enumerate(self.queues[2 : 2 * pairs : 2], 1)
        return next((pair for pair, rx in others if not (rx.ready and rx.enabled)), pairs)

    @property
    def _served_pairs(self) -> int:
        """One, without MQ; as many as the driver set with the control queue; all, where a vhost-user client keeps
        the control queue to itself and enables rings instead."""
        if not self.driver_features & f.MQ:
            return 1
        return self._active_pairs if self.driver_features & f.CTRL_VQ else self.pairs

    def carries_packets(self, index: int) -> bool:
        return index < 2 * self.pairs and index != self.control_index

    def is_data_queue(self, index: int) -> bool:
        return index < 2 * self._served_pairs and self.carries_packets(index)

    def set_active_pairs(self, pairs: int) -> bool:
        """VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET (virtio_net_handle_mq)."""
        if not self.driver_features & f.MQ or not 1 <= pairs <= self.pairs:
            return False
        self._active_pairs = pairs
        self._rings_changed()
        return True
