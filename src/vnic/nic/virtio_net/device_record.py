"""The state of a virtio-net device as data: what its driver has set, and the state of its rings.

`device` saves and restores it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.dataplane.engine import PairRecord
from vnic.nic.virtio_net.config import ANNOUNCE, LINK_UP
from vnic.nic.virtio_net.rx_filter import ALL_VLANS, RxFilter, RxFilterRecord
from vnic.record import U16, Mac, Record
from vnic.virtio.device_record import VirtioDeviceRecord


class VirtioNetRecord(Record, frozen=True):
    """The state of a VirtioNet; the link's own is with its client."""

    device: VirtioDeviceRecord
    mac: Mac
    config_status: Annotated[int, msgspec.Meta(ge=0, le=LINK_UP | ANNOUNCE)]
    active_pairs: U16
    probed: bool | None
    filter: RxFilterRecord
    engines: list[PairRecord]

    @staticmethod
    def without_vm(device: VirtioDeviceRecord, mac: bytes, config_status: int, pairs: int) -> VirtioNetRecord:
        """That of a device which no VM has; `device` is its shared part."""
        rx_filter = RxFilter()
        rx_filter.vlans = ALL_VLANS
        return VirtioNetRecord(
            device=device,
            mac=mac,
            config_status=config_status,
            active_pairs=1,
            probed=None,
            filter=rx_filter.save(),
            engines=[PairRecord(interrupt_due=False, peer_is_full=False)] * pairs,
        )
