"""VhostTap: a tap with `vhost=on`, whose packets the kernel moves between the guest's rings and the interface.

The registry makes it. Where the kernel cannot have a guest's rings (no virtio NIC, memory that the VM does not share),
it is a tap as any other.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence

from vnic.backend.base import BackendContext, log
from vnic.backend.options import TapOptions
from vnic.backend.tap import vhost_net
from vnic.backend.tap.backend import TapBackend
from vnic.backend.tap.device import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN
from vnic.backend.tap.record import TapRecord
from vnic.backend.tap.vhost import check_vhost
from vnic.backend.tap.vhost_net import VhostNet, check_vhost_net, open_vhost_net
from vnic.backend.tap.vhost_rings import Returned, VhostRings
from vnic.backend.vhost_user_session import acked, lacking, usable_rings
from vnic.descriptors import close_fds
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.lending import LentEnd
from vnic.nic.virtio_net import features as f
from vnic.sockets import unblock
from vnic.virtio.device import RingBackend, VirtioDevice
from vnic.virtio.features import VERSION_1

_TUN_FLAGS = {
    f.GUEST_CSUM: TUN_F_CSUM,
    f.GUEST_TSO4: TUN_F_TSO4,
    f.GUEST_TSO6: TUN_F_TSO6,
    f.GUEST_ECN: TUN_F_TSO_ECN,
}


def make_tap(context: BackendContext, options: TapOptions) -> TapBackend:
    """A tap as the options ask. Raises NetError if they contradict each other."""
    return (VhostTap if check_vhost(options) else TapBackend)(context, options)


class VhostTap(TapBackend, RingBackend):
    """One tap netdev with vhost-net; a RingBackend for the virtio NIC that is plugged into it.

    The worker in the kernel belongs to this process. When another process takes its place, the rings are handed over
    anew, from used.idx on; meanwhile their packets wait.
    """

    def __init__(self, context: BackendContext, options: TapOptions) -> None:
        super().__init__(context, options)
        self._kernel: list[VhostNet] = []
        """One for each queue; none: vhost-net is not there."""
        self._features = 0
        """Those of the kernel."""
        self._rings: VhostRings | None = None
        self._refused = False
        """The kernel cannot have the rings of the VM that is attached."""
        self.takes = False
        self._ended = False
        self._unwatch_interface: Callable[[], None] = _nothing

    # -- opening --------------------------------------------------------------------------------------------------

    def open_vhost(self, passed: list[int]) -> None:
        """net_init_tap_one: without vhostforce, a kernel without vhost-net is no error. Raises NetError."""
        try:
            self._open_kernel(passed)
        except NetError as error:
            close_fds(passed)
            self._close_kernel()
            if self._options.vhostforce:
                raise
            log.warning("netdev %s: %s: packets pass through vnic", self.name, error.desc)

    def _open_kernel(self, passed: list[int]) -> None:
        if passed and len(passed) != self.queues:
            raise NetError("The number of fds passed does not match the number of vhostfds passed")
        for fd in passed:
            check_vhost_net(fd)
        try:
            while len(self._kernel) < self.queues:
                each = VhostNet(passed.pop(0) if passed else open_vhost_net())
                self._kernel.append(each)
                each.own()
                self._features = each.features()
        except OSError as error:
            raise NetError(
                f"vhost-net requested but could not be initialized: {error.strerror or error}"
            ) from None
        if missing := self._header_feature & ~self._features:
            raise NetError(f"vhost lacks feature mask {missing:#x} for backend")
        self.passes_frames = False
        self.takes = not self._refused
        of_the_tap = f.OFFLOADS if self.wants_offload else 0
        always = f.MTU | f.GUEST_ANNOUNCE | (f.MQ if self.queues > 1 else 0)
        self.ring_features = self._features & f.OF_THE_RINGS & ~f.OFFLOADS | of_the_tap | always

    def restore(self, record: TapRecord, fds: Sequence[int], script: int | None = None) -> None:
        super().restore(record, fds, script)
        for queue in self._queues:
            queue.reclaim(multi_queue=self.queues > 1)
        self._refused = True  # so that the device takes its rings back from the process before
        self.loop.call_soon(self._begin_again)

    def _begin_again(self) -> None:
        """After a restart. A passed descriptor was of the process before."""
        if self._ended:
            return
        self.open_vhost([])
        self._try_again()

    # -- RingBackend ------------------------------------------------------------------------------------------------

    def take_rings(self, device: VirtioDevice) -> bool:
        if self._rings is not None or any(queue.lent for queue in self._queues):
            return False  # `_returned` or `lender_returned` has the device ask again
        missing = acked(device) & ~(self.ring_features or 0)
        try:
            if missing:
                raise ValueError(lacking(missing))
            usable_rings(device, self.queues)
            rings = VhostRings(
                self,
                self.loop,
                device,
                self._kernel,
                [queue.fd for queue in self._queues],
                self._kernel_features(device),
                self._options.poll_us or 0,
            )
        except (ValueError, OSError) as error:
            self._refuse(_text(error))
            return False
        self._rings = rings
        self._watch()
        header = 12 if device.driver_features & (VERSION_1 | f.MRG_RXBUF) else 10
        for queue in self._queues:
            queue.lend_to_kernel(header, _offloads(device.driver_features))
        self._call(rings.start)
        return True

    def _kernel_features(self, device: VirtioDevice) -> int:
        """vhost_net_ack_features."""
        return device.driver_features & self._features | self._header_feature

    @property
    def _header_feature(self) -> int:
        """Frames of a tap without headers get them from the kernel."""
        return 0 if self.wants_offload else vhost_net.NET_F_VIRTIO_NET_HDR

    def rings_changed(self, device: VirtioDevice) -> None:
        if self._rings is not None and self._rings.device is device:
            self._call(self._rings.changed)

    def _call(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (ValueError, OSError) as error:
            self.refuse(_text(error))

    def give_back(self, device: VirtioDevice, done: Returned) -> None:
        if self._rings is None:
            done([])
            return

        def returned(bases: Sequence[int | None]) -> None:
            self._rings = None
            self._unwatch_interface()
            self._unwatch_interface = _nothing
            for queue in self._queues:
                queue.reclaim(multi_queue=self.queues > 1)
                queue.take_back()
            if self._ended:
                self._close_kernel()
            done(bases)

        self._rings.give_back(returned)

    def _watch(self) -> None:
        """While the kernel reads the tap's descriptors, they do not tell of a deleted interface by themselves."""

        def look() -> None:
            if self._queues and self._queues[0].is_dead():
                self.died(OSError(errno.EBADFD, os.strerror(errno.EBADFD)))

        with contextlib.suppress(OSError):  # then it is noticed when the rings come back
            self._unwatch_interface = self.context.interfaces.subscribe(self.ifname, look)

    # -- RingsOwner -------------------------------------------------------------------------------------------------

    def refuse(self, reason: str) -> None:
        """Have the rings back, for as long as this VM is attached."""
        if not self._refused:
            self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        self._refused, self.takes = True, False
        log.warning("netdev %s: vhost-net: %s: packets pass through vnic", self.name, reason)
        self.loop.call_soon(self._ask_device)

    def queue_used(self, pair: int, used: bool) -> None:
        if self.queues > 1:
            self._queues[pair].use(used or pair == 0)

    # -- Endpoint ---------------------------------------------------------------------------------------------------

    def guest_changed(self) -> None:
        super().guest_changed()
        peer = self.client.peer
        if self._refused and isinstance(peer, Nic) and not peer.guest.attached:
            self._try_again()

    def lender_returned(self) -> None:
        """vnic-wire has given the interface back."""
        self.loop.call_soon(self._ask_device)

    def _try_again(self) -> None:
        self._refused, self.takes = False, bool(self._kernel)
        self._ask_device()

    def _ask_device(self) -> None:
        """What `takes` says may differ."""
        peer = self.client.peer
        if peer is not None and isinstance(peer.endpoint, VirtioDevice) and not self._ended:
            peer.endpoint.update_datapath()
            self.client.path_changed()

    def wire_end(self) -> LentEnd | str:
        peer = self.client.peer
        if self.takes and peer is not None and isinstance(peer.endpoint, VirtioDevice):
            return "vhost-net has not taken the rings"
        return super().wire_end()

    def cleanup(self) -> None:
        self._ended = True
        super().cleanup()
        if self._rings is None:
            self._close_kernel()

    def _close_kernel(self) -> None:
        """Beside the loop: the kernel waits for its worker."""
        for each in self._kernel:
            unblock.close(each.fd)
        self._kernel.clear()


def _nothing() -> None:
    """No interface is watched."""


def _offloads(features: int) -> int:
    """What the guest takes, for TUNSETOFFLOAD (tap_fd_set_offload)."""
    return sum(flag for bit, flag in _TUN_FLAGS.items() if features & bit)


def _text(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
