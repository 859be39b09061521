"""LinkReport: the steps of a link change on its way to the guest (notified, interrupted, seen), for all device models.

The device model and its attachment tell the report. It alone writes the times `notified`, `interrupted` and `seen` of
a change, updates the journal, and has `Links` emit `LINK_SEEN`.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.net.client_record import LinkReportRecord
from vnic.net.clock import Clock
from vnic.net.guest_notes import GuestNotes
from vnic.net.journal import Journal
from vnic.net.records import GuestInfo, LinkChange, SeenBy, ShownBy, link_word


class LinkReport:
    """The last change of one NIC's link on its way to the guest: changed → notified → interrupted → seen.

    A step that comes before its predecessor, or twice, or after the next change, is not recorded.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        journal: Journal,
        seen: Callable[[LinkChange], None],
        guest_changed: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`name` is the NIC's. `seen` is called once for each change that the guest saw. `guest_changed` is called when
        the guest attaches or detaches, negotiates how it sees its link, or its driver starts or stops the device.
        `changed` is called when `save` would give another record."""
        self.guest = GuestInfo(attached=False, driver_ok=False, seen="unknown")
        self._clock = clock
        self._journal = journal
        self._notes = GuestNotes(name, clock, journal)
        self._tell_seen = seen
        self._tell_guest_changed = guest_changed
        self._saved_changed = changed
        self._attached_us = 0
        self._change: LinkChange | None = None
        self._created = False
        """`_change` is the NIC's initial state: it needs no interrupt and emits no LINK_SEEN."""
        self._notice_owed = self._interrupt_owed = False

    # -- the link -----------------------------------------------------------------------------------------------

    def changed(self, change: LinkChange, *, created: bool = False) -> None:
        """The NIC's link changed (or the NIC was created with it)."""
        self._change = change
        self._created = created
        self._notice_owed = not created
        self._interrupt_owed = False
        self.guest.seen_latency_us = None
        self._saved_changed()

    # -- the device model ---------------------------------------------------------------------------------------

    def notified(self, up: bool, *, interrupts: bool = True) -> None:
        """The device's status now reads `up`. `interrupts`: the device sends an interrupt for it."""
        change = self._change
        if change is None or not self._notice_owed or (change.link == "up") is not up:
            return
        self._notice_owed = False
        self._interrupt_owed = interrupts
        change.notified_us = self._clock.monotonic_ns() // 1000 - change.monotonic_us
        self._update(change)

    @property
    def interrupt_owed(self) -> bool:
        """Whether the device's status shows the change and the interrupt is still pending."""
        return self._interrupt_owed

    def interrupted(self) -> None:
        """The interrupt for the change was sent to the guest."""
        change = self._change
        if change is None or not self._interrupt_owed:
            return
        self._interrupt_owed = False
        change.interrupt_us = self._now_us() - change.monotonic_us
        self._update(change)

    def interrupt_acknowledged(self) -> None:
        """A polling driver cleared the cause before the interrupt was sent: a later interrupt has another cause."""
        self._interrupt_owed = False
        self._saved_changed()

    def seen(self, up: bool, by: SeenBy | None = None) -> None:
        """The guest's driver read the link status from the device; the value was `up`. `by`: who says so, if it is not
        the device model."""
        guest = self.guest
        if guest.seen != link_word(up) or guest.seen_by != by:
            guest.seen, guest.seen_by = link_word(up), by
            self._saved_changed()
        change = self._change
        if change is None or change.link != guest.seen or change.seen_us is not None:
            return
        now_us = self._now_us()
        change.seen_us = now_us - change.monotonic_us
        change.seen_by = by
        change.seen_latency_us = now_us - max(change.monotonic_us, self._attached_us)
        guest.seen_latency_us = change.seen_latency_us
        self._update(change)
        if not self._created:
            self._tell_seen(change)

    # -- the guest ----------------------------------------------------------------------------------------------

    def guest_attached(self, shown_by: ShownBy | None = None) -> None:
        """A VM attached; what an earlier one had seen is cleared."""
        self._attached_us = self._now_us()
        self._set_guest(attached=True, shown_by=shown_by)

    def guest_detached(self, shown_by: ShownBy | None = None) -> None:
        """The VM detached. `shown_by` is SOCKET if vnic closed the socket to show the link down."""
        self._set_guest(attached=False, shown_by=shown_by)

    def _set_guest(self, attached: bool, shown_by: ShownBy | None) -> None:
        if attached is not self.guest.attached:
            self._notes.attached(attached)
        self.guest = GuestInfo(attached, driver_ok=False, seen="unknown", link_shown_by=shown_by)
        self._saved_changed()
        self._tell_guest_changed()

    def guest_shown_by(self, shown_by: ShownBy) -> None:
        """The VM negotiated how it gets its link state."""
        if shown_by is not self.guest.link_shown_by:
            self.guest.link_shown_by = shown_by
            self._saved_changed()
            self._tell_guest_changed()

    def driver_ok(self, ok: bool, *, admin_down: bool = False) -> None:
        """The guest's driver set DRIVER_OK, or reset the device. `admin_down`: see GuestInfo."""
        guest = self.guest
        admin_down = admin_down and guest.attached
        if ok is not guest.driver_ok:
            self._notes.driver(ok)
        if (ok, admin_down) != (guest.driver_ok, guest.admin_down):
            guest.driver_ok, guest.admin_down = ok, admin_down
            self._saved_changed()
            self._tell_guest_changed()

    # -- state --------------------------------------------------------------------------------------------------

    def _update(self, change: LinkChange) -> None:
        """A step of the change was set."""
        self._journal.update(change)
        self._saved_changed()

    def save(self, now_us: int) -> LinkReportRecord:
        return LinkReportRecord(
            attached=self.guest.attached,
            driver_ok=self.guest.driver_ok,
            admin_down=self.guest.admin_down,
            seen=self.guest.seen,
            seen_latency_us=self.guest.seen_latency_us,
            shown_by=self.guest.link_shown_by,
            attached_age_us=max(0, now_us - self._attached_us),
            created=self._created,
            notice_owed=self._notice_owed,
            interrupt_owed=self._interrupt_owed,
            seen_by=self.guest.seen_by,
        )

    def restore(self, record: LinkReportRecord, change: LinkChange | None, now_us: int) -> None:
        """`change` is the client's last one; ages are those at `now_us`. No callback runs, since the state is the same
        for all others."""
        self.guest = GuestInfo(
            record.attached,
            record.driver_ok,
            record.seen,
            record.seen_latency_us,
            record.admin_down,
            record.shown_by,
            record.seen_by,
        )
        self._attached_us = now_us - record.attached_age_us
        self._change, self._created = change, record.created
        self._notice_owed, self._interrupt_owed = record.notice_owed, record.interrupt_owed

    def _now_us(self) -> int:
        return self._clock.monotonic_ns() // 1000
