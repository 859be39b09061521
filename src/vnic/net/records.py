"""The records of a link that monitors get: causes, holds, changes, guests, entries of query-links, events.

`link.py` and `report.py` write them; the journal keeps them, and the monitor sends them unchanged.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, NamedTuple

import msgspec

UpDown = Literal["up", "down"]
ClientType = Literal["nic", "netdev"]
OperState = Literal["up", "down", "lowerlayerdown"]
DataPathWord = Literal["none", "python", "wire", "vhost", "elsewhere"]
"""What moves the packets of a wire: nothing, this process, vnic-wire, a vhost-user back-end, or the hypervisor of an
adopted VM."""
SeenWord = Literal["up", "down", "unknown"]
SeenBy = Literal["agent"]
"""Who said that a guest saw its link, where the device model cannot know it: the agent in the guest."""


class HoldKind(StrEnum):
    """Why an end of a wire is down."""

    OPERATOR = "operator"
    """set_link, or `link=off` at the start."""
    DISCONNECTED = "disconnected"
    """The back-end's socket is not connected."""
    NO_PEER = "no-peer"
    """The NIC has no back-end, or its back-end was deleted."""
    FAR_END = "far-end"
    """The other end of a cable is down, or its VM is off."""
    UPLINK = "uplink"
    """A followed host interface is down."""
    SLOW_UP = "slow-up"
    """A fault: the link comes up some time after nothing else holds it."""
    DAMPENED = "dampened"
    """A fault: the link went down too often."""


SOFT = frozenset((HoldKind.SLOW_UP, HoldKind.DAMPENED))
"""Kinds that only put off the end of others."""


VNIC = "vnic"
"""The `by` of changes that no monitor client requested: the command line's and vnic's own."""

CREATED = "created"
"""The kind of cause of a client's first record, when the client is created up."""


class Cause(msgspec.Struct, frozen=True):
    """Why a link changed: the kind of hold (or `created`), who placed or released it, and a text."""

    kind: str
    by: str
    text: str


class Hold(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """One reason that keeps a wire down, its end and its start."""

    client: str
    kind: HoldKind
    by: str
    text: str
    since: float
    """Seconds of wall-clock time. Compute the age from `monotonic-us`, since the wall clock may be set."""
    monotonic_us: int
    via: tuple[str, ...] = ()
    """Of a hold that follows from another wire, the netdevs of the wires through which it came, the nearest first."""
    root: HoldKind | None = None
    """Of a hold that follows from one of another wire: the kind of the first of them."""

    @property
    def first_kind(self) -> HoldKind:
        """The kind of the hold that it follows from, or its own."""
        return self.root or self.kind


class LinkChange(msgspec.Struct, rename="kebab", omit_defaults=True):
    """One record of the journal: a client's link went up or down. The steps are microseconds after the change."""

    id: int
    name: str
    type: ClientType
    link: UpDown
    cause: Cause
    time: float
    """Seconds of wall-clock time."""
    monotonic_us: int
    caused_by: int | None = None
    """The id of the change that caused this one."""
    notified_us: int | None = None
    """The device model changed its status."""
    interrupt_us: int | None = None
    """The interrupt was sent to the guest."""
    seen_us: int | None = None
    """The guest's driver read the new status."""
    seen_latency_us: int | None = None
    """From the change, or from the guest's attachment if that was later, to the guest's read."""
    boot_id: str | None = None
    """The boot of the machine that `monotonic_us` counts from; absent: the boot in which vnic runs."""
    seen_by: SeenBy | None = None
    """With `seen_us`: who said so; absent: the device model."""


class NoteKind(StrEnum):
    """What a Note is about. Records of other versions may have others."""

    START = "start"
    """vnic started."""
    RESTART = "restart"
    """Another process took the place of the one that ran, with all links as they were; `details` says how it ended."""
    END = "end"
    """vnic ended in order. A start without an end before it follows a crash, a SIGKILL or a loss of power."""
    GUEST = "guest"
    """A VM attached or detached, or its driver started or stopped the device."""
    IMPAIRED = "impaired"
    """Impairments of a wire were set, changed or cleared. `details` has `source`, the id of the object or the fault."""
    LOST = "lost"
    """Records before it were not stored, because the disk was full, gone or too slow."""


class Note(msgspec.Struct, rename="kebab", omit_defaults=True):
    """A record of the journal that is not a change of a link. It has an id of the same count."""

    id: int
    kind: str
    event: str
    """What happened, in a word for programs: `attached`."""
    text: str
    """The same for people."""
    time: float
    """Seconds of wall-clock time."""
    monotonic_us: int
    by: str = VNIC
    name: str | None = None
    """The NIC or netdev; None: vnic itself."""
    caused_by: int | None = None
    """The id of the record that caused this one."""
    details: dict[str, Any] = {}
    """Values that depend on the kind, by names in kebab case."""
    boot_id: str | None = None
    """As a LinkChange's."""


class ShownBy(StrEnum):
    """How a guest gets its link state."""

    DEVICE = "device"
    """It reads the link status from its device; `seen` is that read."""
    SOCKET = "socket"
    """Its socket is closed and opened again; vnic cannot know whether the guest noticed."""
    HYPERVISOR = "hypervisor"
    """The hypervisor of an adopted VM shows it, when vnic asks for it; `seen` is what an agent in the guest proves."""
    NOTHING = "nothing"
    """Its device shows no link (ne2k_pci): the guest cannot see it, and frames are dropped while it is down."""


class GuestInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """The known state of a NIC's guest."""

    attached: bool
    driver_ok: bool
    seen: SeenWord
    """The link that the guest last read from the device."""
    seen_latency_us: int | None = None
    """From the last change to the guest's read of it; absent before that read."""
    admin_down: bool = False
    """The device shows that the guest has its interface down, although its driver runs (`ip link set eth0 down`)."""
    link_shown_by: ShownBy | None = None
    """Absent if there is no guest, or if it is not known yet. It stays after vnic closed the socket to show the link
    down."""
    seen_by: SeenBy | None = None
    """Who said what it saw; absent: the device model."""


class LinkImpairment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done to the frames of a wire, or to its link."""

    id: str
    """Of the object, or of the fault."""
    text: str
    """In tc's words."""
    queue: Literal["all", "rx", "tx"] | None = None
    """Which frames, as the netdev sees them."""


class VmInfo(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """Of a NIC of an adopted VM: what there is behind it."""

    object: str
    """The object that adopted the VM."""
    device: str
    """The NIC's name in the VM."""
    text: str
    """What is known of the VM: `QEMU 11.1.3, running`."""
    netdev: str | None = None
    """What the VM has it plugged into."""
    trouble: str | None = None
    """Why the VM does not show the link as it should."""
    agent: str | None = None
    """What is known of its guest agent, if one was named."""


class Adopted(NamedTuple):
    """What a NIC of an adopted VM has in query-links beside others."""

    vm: VmInfo
    assumed: bool


class LinkInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """One client of query-links. `holds` are those that keep `link` down: of both ends for a NIC, its own for a netdev.
    A netdev's `guest` is that of its peer NIC."""

    name: str
    type: ClientType
    model: str
    link: UpDown
    operstate: OperState
    holds: list[Hold]
    carrier_changes: int
    carrier_up_changes: int
    carrier_down_changes: int
    last_change: LinkChange
    guest: GuestInfo
    datapath: DataPathWord
    peer: str | None = None
    mac: str | None = None
    datapath_reason: str | None = None
    """Why Python moves its packets, with `python`."""
    impairments: list[LinkImpairment] = []
    """Those in effect on its wire."""
    assumed: bool = False
    """The VM was adopted, does not tell how its link is, and vnic has not set it yet: it is taken to be up."""
    vm: VmInfo | None = None
    """Of a NIC of an adopted VM."""


def link_word(up: bool) -> UpDown:
    """A link's state as a word."""
    return "up" if up else "down"


class LinkChanged(msgspec.Struct, frozen=True):
    """The data of LINK_CHANGED: a link went up or down."""

    name: str
    link: UpDown
    id: int
    cause: Cause


class LinkHoldsChanged(msgspec.Struct, frozen=True):
    """The data of LINK_HOLDS_CHANGED: the holds changed and the link stays down."""

    name: str
    link: UpDown
    holds: list[Hold]
    """The present holds, as in query-links."""


class LinkSeen(msgspec.Struct, rename="kebab", frozen=True):
    """The data of LINK_SEEN: the guest read the new state from its device."""

    name: str
    link: UpDown
    id: int
    latency_us: int


class LinkImpaired(msgspec.Struct, frozen=True):
    """The data of LINK_IMPAIRED: other impairments, or none any more. The link is as it was."""

    name: str
    id: int
    """Of the Note in the journal."""
    source: str
    """The object or the fault."""
    by: str
    text: str
