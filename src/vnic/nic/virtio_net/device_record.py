"""The state of a virtio-net device as data: what its driver has set, and the state of its rings.

`device` saves and restores it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.dataplane.engine import PairRecord
from vnic.nic.virtio_net.config import ANNOUNCE, LINK_UP
from vnic.nic.virtio_net.rx_filter import RxFilterRecord
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
