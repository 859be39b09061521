"""Which received frames the driver wants: modes, MAC table and VLAN table (virtio 1.2 §5.1.6.5.1 to .3).

The control queue sets it, the data plane asks it, and query-rx-filter shows it; all as QEMU's virtio-net.c does.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.net.queue import Frame
from vnic.record import Mac, Record, require

MAC_TABLE_ENTRIES = 64
"""The size of QEMU's table; with a longer one the device accepts all addresses of its kind (`overflow`)."""
VLANS = 4096
ALL_VLANS = frozenset(range(VLANS))

_BROADCAST = b"\xff" * 6
_VLAN_TYPE = b"\x81\x00"


class RxFilterRecord(Record, frozen=True):
    """The state of an RxFilter."""

    promisc: bool
    allmulti: bool
    alluni: bool
    nomulti: bool
    nouni: bool
    nobcast: bool
    unicast: list[Mac]
    multicast: list[Mac]
    unicast_overflow: bool
    multicast_overflow: bool
    vlans: list[Annotated[int, msgspec.Meta(ge=0, lt=VLANS)]] | None
    """None: all of them."""

    def check_fields(self) -> None:
        entries = len(self.unicast) + len(self.multicast)
        require(entries <= MAC_TABLE_ENTRIES, "multicast", f"makes {entries} addresses in a table of 64")
        require(not (self.unicast and self.unicast_overflow), "unicast", "is of a table that overflowed")
        require(
            not (self.multicast and self.multicast_overflow), "multicast", "is of a table that overflowed"
        )


class RxFilter:
    """The filter of one device; `reset` gives a promiscuous one (virtio_net_reset)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.promisc = True
        self.allmulti = self.alluni = self.nomulti = self.nouni = self.nobcast = False
        self.unicast: list[bytes] = []
        self.multicast: list[bytes] = []
        self.unicast_overflow = self.multicast_overflow = False
        self.vlans: frozenset[int] = frozenset()

    def save(self) -> RxFilterRecord:
        return RxFilterRecord(
            promisc=self.promisc,
            allmulti=self.allmulti,
            alluni=self.alluni,
            nomulti=self.nomulti,
            nouni=self.nouni,
            nobcast=self.nobcast,
            unicast=list(self.unicast),
            multicast=list(self.multicast),
            unicast_overflow=self.unicast_overflow,
            multicast_overflow=self.multicast_overflow,
            vlans=None if self.vlans == ALL_VLANS else sorted(self.vlans),
        )

    def restore(self, record: RxFilterRecord) -> None:
        self.promisc, self.allmulti, self.alluni = record.promisc, record.allmulti, record.alluni
        self.nomulti, self.nouni, self.nobcast = record.nomulti, record.nouni, record.nobcast
        self.unicast, self.multicast = list(record.unicast), list(record.multicast)
        self.unicast_overflow, self.multicast_overflow = record.unicast_overflow, record.multicast_overflow
        self.vlans = ALL_VLANS if record.vlans is None else frozenset(record.vlans)

    def set_macs(self, unicast: list[bytes], multicast: list[bytes]) -> None:
        """Set a new MAC table; addresses that do not fit count as overflow (virtio_net_handle_mac)."""
        self.unicast_overflow = len(unicast) > MAC_TABLE_ENTRIES
        self.unicast = [] if self.unicast_overflow else unicast
        self.multicast_overflow = len(self.unicast) + len(multicast) > MAC_TABLE_ENTRIES
        self.multicast = [] if self.multicast_overflow else multicast

    def accepts(self, frame: Frame, mac: bytes) -> bool:
        """receive_filter: whether a frame passes, `mac` being the device's own address."""
        if self.promisc:
            return True
        if len(frame) < 14:
            return False  # no Ethernet header, so no address to filter by
        if frame[12:14] == _VLAN_TYPE and int.from_bytes(frame[14:16], "big") & 0xFFF not in self.vlans:
            return False
        destination = bytes(frame[:6])
        if destination[0] & 1:
            if destination == _BROADCAST:
                return not self.nobcast
            if self.nomulti:
                return False
            return self.allmulti or self.multicast_overflow or destination in self.multicast
        if self.nouni:
            return False
        return self.alluni or self.unicast_overflow or destination == mac or destination in self.unicast

    def info(self, mac: bytes, vlan_filtering: bool) -> dict[str, object]:
        """QMP's RxFilterInfo without `name` (virtio_net_query_rxfilter; its lists are built back to front)."""
        vlans = sorted(self.vlans, reverse=True)
        return {
            "promiscuous": self.promisc,
            "multicast": _state(self.nomulti, self.allmulti),
            "unicast": _state(self.nouni, self.alluni),
            "vlan": _state(not vlans, False) if vlan_filtering else "all",
            # Inverted in QEMU; its clients expect that.
            "broadcast-allowed": self.nobcast,
            "multicast-overflow": self.multicast_overflow,
            "unicast-overflow": self.unicast_overflow,
            "main-mac": mac_text(mac),
            "vlan-table": vlans,
            "unicast-table": [mac_text(each) for each in reversed(self.unicast)],
            "multicast-table": [mac_text(each) for each in reversed(self.multicast)],
        }


def _state(none: bool, everything: bool) -> str:
    """QMP's RxState."""
    return "none" if none else "all" if everything else "normal"


def mac_text(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)
