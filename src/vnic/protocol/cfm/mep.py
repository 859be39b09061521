"""A maintenance end point (MEP): makes the CCMs of one end of a tunnel, and judges those of the other end.

The netdev `tunnel` owns one, gives it each CCM and the time, and sends what it makes. Times are microseconds of any
monotonic clock. vnic-wire's `mep.c` follows the same rules.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, NamedTuple

import msgspec

from vnic.protocol.cfm.ccm import (
    ETHERNET_BYTES,
    INTERVALS_US,
    MEP_IDS,
    OPCODE_CCM,
    Ccm,
    CcmError,
    InterfaceStatus,
    ethernet_header,
    level_of,
)
from vnic.record import U8, U16, U32, Record, require

LOST_AFTER: Final = 3.5
"""Intervals without a CCM after which the other end is lost (§20.1)."""
_U32_MASK: Final = 0xFFFF_FFFF
_HALF: Final = 1 << 31


class Heard(enum.IntEnum):
    """What is known of the other end."""

    NEVER = 0
    YES = 1
    LOST = 2


class Verdict(enum.Enum):
    """What became of a continuity frame; all but TAKEN and PASS are dropped, and counted under their name."""

    TAKEN = "taken"
    PASS = "pass"
    """It is of a higher level: an ordinary frame (§19.2)."""
    BAD_CCM = "bad_ccm"
    WRONG_LEVEL = "wrong_level"
    """A lower level: of the other end's inside, and not meant for this."""
    WRONG_MAID = "wrong_maid"
    WRONG_MEP = "wrong_mep"
    """Its id is this end's own (both have the same, or the frame came back), or none that there may be."""
    OLD_SEQUENCE = "old_sequence"
    FILTERED = "filtered"
    """No CCM: what else there is of continuity checks (loopback, link trace) is not answered."""


class MepConfig(NamedTuple):
    """What does not change."""

    level: int
    mep: int
    maid: bytes
    interval: int
    """A key of INTERVALS_US."""
    source: bytes
    """The MAC address that its frames come from."""
    quiet: bool = False
    """Say nothing of silence (RDI) before the other end was heard: it may be one that sends no CCMs."""

    @property
    def interval_us(self) -> int:
        return INTERVALS_US[self.interval]


class MepState(NamedTuple):
    """What its owner acts on."""

    heard: Heard
    rdi: bool
    """The other end hears nothing from here."""
    status: InterfaceStatus | None
    """The other end's; None: it was not told."""
    remote_mep: int
    """0: not known."""


class MepRecord(Record, frozen=True):
    """The state of a Mep, which another process may go on with."""

    sequence: U32
    heard: Annotated[int, msgspec.Meta(ge=0, le=2)]
    rdi: bool
    status: Annotated[int, msgspec.Meta(ge=0, le=7)]
    """0: none."""
    remote_mep: U16
    remote_sequence: U32 | None
    """None: it is not known, and any is taken."""
    remote_interval: Annotated[int, msgspec.Meta(ge=0, le=7)]
    """Its code; 0: none."""
    heard_age_us: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """The time since the last CCM."""
    send_left_us: Annotated[int, msgspec.Meta(ge=0, le=max(INTERVALS_US.values()))]
    """The time to its own next CCM."""
    own_status: U8

    def check_fields(self) -> None:
        require(self.own_status in list(InterfaceStatus), "own_status", f"is {self.own_status}")
        require(self.remote_mep == 0 or self.remote_mep in MEP_IDS, "remote_mep", f"is {self.remote_mep}")
        silent = self.heard != Heard.YES
        require(silent or self.remote_interval, "remote_interval", "is missing")


class Mep:
    """One end. `sequence` is the number of its first CCM."""

    def __init__(self, config: MepConfig, *, now_us: int, sequence: int, status: InterfaceStatus) -> None:
        self.config = config
        self.own_status = status
        self._header = ethernet_header(config.level, config.source)
        self._sequence = sequence & _U32_MASK
        self._heard = Heard.NEVER
        self._rdi = False
        self._status: InterfaceStatus | None = None
        self._remote_mep = 0
        self._remote_sequence: int | None = 0
        self._remote_interval = 0
        self._heard_us = now_us
        self._send_us = now_us
        """When the next CCM is due."""

    @property
    def state(self) -> MepState:
        return MepState(self._heard, self._rdi, self._status, self._remote_mep)

    @property
    def own_rdi(self) -> bool:
        """Whether its CCMs say that nothing is heard."""
        return self._heard is Heard.LOST if self.config.quiet else self._heard is not Heard.YES

    def silent_us(self, now_us: int) -> int:
        """The time since the last CCM, or since the start."""
        return max(0, now_us - self._heard_us)

    # -- CCMs of the other end ----------------------------------------------------------------------------------

    def receive(self, frame: bytes, now_us: int) -> Verdict:
        """Judge a continuity frame (`level_of` is not None)."""
        config = self.config
        level = level_of(frame)
        if level is None or level > config.level:
            return Verdict.PASS
        pdu = frame[ETHERNET_BYTES:]
        if len(pdu) > 1 and pdu[1] != OPCODE_CCM:
            return Verdict.FILTERED
        if level < config.level:
            return Verdict.WRONG_LEVEL
        try:
            ccm = Ccm.parse(pdu)
        except CcmError:
            return Verdict.BAD_CCM
        if ccm.maid != config.maid:
            return Verdict.WRONG_MAID
        if ccm.mep == config.mep or ccm.mep not in MEP_IDS:
            return Verdict.WRONG_MEP
        if not self._is_next(ccm.sequence):
            return Verdict.OLD_SEQUENCE
        self._remote_sequence, self._remote_interval = ccm.sequence, ccm.interval
        self._rdi, self._status, self._remote_mep = ccm.rdi, ccm.status, ccm.mep
        self._heard_us = now_us
        if self._heard is not Heard.YES:
            self._heard = Heard.YES
            self._send_us = now_us  # it is told at once that it is heard
        return Verdict.TAKEN

    def _is_next(self, sequence: int) -> bool:
        """Whether a number is ahead of the last one, in serial arithmetic.

        Only while the other end is heard: then an old CCM is a repeated one. An end that was silent for so long that
        it counts as lost may have started anew, with a clock that is wrong.
        """
        if (
            self._heard is not Heard.YES
            or self._remote_sequence is None
            or sequence == self._remote_sequence == 0
        ):
            return True
        return 0 < (sequence - self._remote_sequence) & _U32_MASK < _HALF

    # -- CCMs of this end ---------------------------------------------------------------------------------------

    def set_status(self, status: InterfaceStatus, now_us: int) -> bool:
        """Its interface has another status: a CCM is due at once. False: it has that status already."""
        if status is self.own_status:
            return False
        self.own_status = status
        self._send_us = now_us
        return True

    def make_due(self, now_us: int) -> bytes | None:
        """The frame with the CCM that is due; None: none is."""
        if now_us < self._send_us:
            return None
        self._send_us += self.config.interval_us
        if self._send_us <= now_us:  # it is late: no burst makes up for that
            self._send_us = now_us + self.config.interval_us
        return self.make()

    def make(self) -> bytes:
        """A frame with the next CCM."""
        ccm = Ccm(
            level=self.config.level,
            interval=self.config.interval,
            sequence=self._sequence,
            mep=self.config.mep,
            maid=self.config.maid,
            rdi=self.own_rdi,
            status=self.own_status,
        )
        self._sequence = (self._sequence + 1) & _U32_MASK
        return self._header + ccm.pack()

    # -- time -----------------------------------------------------------------------------------------------------

    @property
    def send_due_us(self) -> int:
        """When `make_due` gives the next CCM."""
        return self._send_us

    @property
    def lost_due_us(self) -> int | None:
        """When the other end is lost, unless a CCM comes before; None: it is not heard. The interval is its own: it may
        be another than this end's."""
        if self._heard is not Heard.YES:
            return None
        return self._heard_us + int(INTERVALS_US[self._remote_interval] * LOST_AFTER)

    def expire(self, now_us: int) -> bool:
        """Whether the other end is lost now. Call it only when no CCM waits to be received."""
        due = self.lost_due_us
        if due is None or now_us < due:
            return False
        self._heard = Heard.LOST
        self._rdi, self._status = False, None
        self._send_us = now_us  # with RDI
        return True

    # -- state ----------------------------------------------------------------------------------------------------

    def save(self, now_us: int) -> MepRecord:
        return MepRecord(
            sequence=self._sequence,
            heard=int(self._heard),
            rdi=self._rdi,
            status=int(self._status or 0),
            remote_mep=self._remote_mep,
            remote_sequence=self._remote_sequence,
            remote_interval=self._remote_interval,
            heard_age_us=self.silent_us(now_us),
            send_left_us=max(0, self._send_us - now_us),
            own_status=int(self.own_status),
        )

    def restore(self, record: MepRecord, now_us: int) -> None:
        """Go on where another one stopped."""
        self._sequence = record.sequence
        self._heard = Heard(record.heard)
        self._rdi = record.rdi
        self._status = InterfaceStatus(record.status) if record.status else None
        self._remote_mep = record.remote_mep
        self._remote_sequence, self._remote_interval = record.remote_sequence, record.remote_interval
        self._heard_us = now_us - record.heard_age_us
        self.own_status = InterfaceStatus(record.own_status)
        self._send_us = now_us + min(record.send_left_us, self.config.interval_us)
