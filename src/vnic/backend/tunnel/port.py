"""TunnelPort: the datagrams of one tunnel, in Python: frames, CCMs by timers of the loop, the key's trailer.

`tunnel.backend` has one for each netdev. It is the reference for vnic-wire, and does the work where there is none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, NamedTuple, Protocol

import msgspec

from vnic.backend.tunnel.config import TunnelConfig
from vnic.backend.tunnel.info import TROUBLES, TunnelCounters
from vnic.backend.tunnel.record import TunnelRecord
from vnic.backend.tunnel.sockets import TunnelSockets
from vnic.keep import Kept
from vnic.net.lending import ResidentEnd
from vnic.net.queue import Frame
from vnic.protocol import vxlan
from vnic.protocol.cfm.ccm import ETHERNET_BYTES, InterfaceStatus, level_of
from vnic.protocol.cfm.mep import Mep, MepConfig, MepRecord, MepState, Verdict
from vnic.protocol.trailer import TRAILER_BYTES, Refused, Trailer, TrailerRecord

log = logging.getLogger("vnic.backend")

MAX_UDP_BYTES: Final = {socket.AF_INET: 65507, socket.AF_INET6: 65527}
LATE_US: Final = 50_000
"""How long after its time a loss is put off while datagrams wait to be read."""
_VLAN_TYPES: Final = (b"\x81\x00", b"\x88\xa8")


class FarState(NamedTuple):
    """What is known of the other end."""

    mep: MepState
    refused: bool
    silent_us: int
    """Since the last CCM, or since vnic-wire told that it hears it."""


class PortUser(Protocol):
    """The netdev."""

    @property
    def name(self) -> str: ...
    @property
    def kept(self) -> Kept: ...

    def frame_came(self, frame: bytes) -> None:
        """A frame for the guest."""

    def far_state_changed(self) -> None:
        """`far_state` is another one."""

    def has_room(self) -> None:
        """`send` takes frames again."""


class Mover(Protocol):
    """vnic-wire, as a tunnel that it has knows it."""

    def inject(self, frame: bytes) -> None:
        """Send a frame of this process."""

    def set_status(self, status: InterfaceStatus) -> None:
        """Tell the other end, at once."""


class TunnelPort(ResidentEnd):
    """One tunnel, from its start to its end. While vnic-wire has it (`mover`), it only keeps the books."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: TunnelConfig,
        sockets: TunnelSockets,
        mep_id: int,
        wall_ns: int,
        user: PortUser,
    ) -> None:
        """`wall_ns`: CCMs and datagrams are numbered from the time of their start on, so that those of a later start
        are ahead of those of an earlier one."""
        self._loop = loop
        self.config = config
        self._wall_ns = wall_ns
        self.sockets = sockets
        self._user = user
        self.mep_id = mep_id
        self._made_us = self.now_us()
        self.counters = TunnelCounters()
        self._header = vxlan.header(config.vni)
        self.trailer = None if config.key is None else Trailer(config.key, mep_id, wall_ns)
        self.mep: Mep | None = None
        if config.mode != "off":
            mep_config = MepConfig(
                config.level,
                mep_id,
                config.maid,
                config.interval,
                self.source_mac,
                quiet=config.mode == "auto",
            )
            sequence, status = wall_ns >> 20, InterfaceStatus.NOT_PRESENT  # 953 a second: more than CCMs
            self.mep = Mep(mep_config, now_us=self.now_us(), sequence=sequence, status=status)
        overhead = vxlan.HEADER_BYTES + (0 if self.trailer is None else TRAILER_BYTES)
        self._max_frame = MAX_UDP_BYTES[sockets.sending.family] - overhead
        self.refused = False
        self.too_long = self.send_errors = self.filtered = 0
        self._told: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waits_writable = False
        self._ccm_waits = False
        self.running = False
        self.mover: Mover | None = None
        self._at_mover: FarState | None = None
        self._told_us = 0
        """When it told that."""
        self.mover_sequence: int | None = None
        """A number of the other end's CCMs that vnic-wire has told: what comes later is ahead of it."""
        self.mover_counters = TunnelCounters()
        """What vnic-wire has counted since it has the tunnel."""

    def wall_ns(self) -> int:
        """The wall clock's time, as if it had not been set since the start."""
        return self._wall_ns + 1000 * (self.now_us() - self._made_us)

    @property
    def source_mac(self) -> bytes:
        """Where CCMs come from: a local address, another one for each end and tunnel of a host."""
        return b"\x02\x76" + self.mep_id.to_bytes(2, "big") + (self.config.vni & 0xFFFF).to_bytes(2, "big")

    def all_counters(self) -> TunnelCounters:
        """Those of this process and of vnic-wire."""
        return self.counters.plus(self.mover_counters)

    def now_us(self) -> int:
        return int(self._loop.time() * 1e6)

    def start(self) -> None:
        """Send and receive."""
        self.running = True
        self._loop.add_reader(self.sockets.sending, self._answered)
        self._tick()

    def start_later(self) -> None:
        """Start in the loop's next turn: all else is restored then, and the other end is told of no state between."""
        self._timer = self._loop.call_later(0, self.start)

    def stop(self) -> None:
        """Touch the sockets no more."""
        self.running = False
        self._loop.remove_reader(self.sockets.sending)
        self._loop.remove_writer(self.sockets.sending)
        self._waits_writable = self._ccm_waits = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- vnic-wire ------------------------------------------------------------------------------------------------

    def hand_over(self, mover: Mover) -> None:
        """vnic-wire goes on from the present state."""
        self.stop()
        if self.mep is not None:
            self._at_mover = self.far_state()
            self._told_us = self.now_us()
            self.mover_sequence = self.mep.save(self.now_us()).remote_sequence
        self.mover = mover
        self._user.has_room()

    def mover_told(self, told: FarState) -> None:
        """What vnic-wire knows of the other end has changed."""
        if self.mover is not None:
            self._at_mover, self._told_us = told, self.now_us()
            self._user.far_state_changed()

    def mover_received(self, frame: bytes) -> None:
        """A frame of the other end, while Python moves the packets of this wire."""
        self._user.frame_came(frame)

    def take_back(
        self, mep: MepRecord | None, trailer: TrailerRecord | None, *, refused: bool | None
    ) -> None:
        """Go on where vnic-wire stopped; without records it has died. Then the numbers begin anew, ahead of all that it
        can have used, and the other end is heard for as long as if it were now."""
        self._take_back(mep, trailer, refused)
        self._user.far_state_changed()

    def _take_back(self, mep: MepRecord | None, trailer: TrailerRecord | None, refused: bool | None) -> None:
        told, self._at_mover = self._at_mover, None
        self.mover = None
        self.counters, self.mover_counters = self.all_counters(), TunnelCounters()
        now, wall_ns = self.now_us(), self.wall_ns()
        if self.mep is not None:
            if mep is None:
                assert told is not None
                was = self.mep.save(now)
                mep = msgspec.structs.replace(
                    was,
                    sequence=(wall_ns >> 20) & 0xFFFF_FFFF,
                    heard=int(told.mep.heard),
                    rdi=told.mep.rdi,
                    status=int(told.mep.status or 0),
                    remote_sequence=self.mover_sequence,
                    remote_interval=was.remote_interval or self.config.interval,
                    heard_age_us=0,
                    send_left_us=0,
                )
            self.mep.restore(mep, now)
            self.refused = bool(told is not None and told.refused) if refused is None else refused
        if self.trailer is not None:
            if trailer is None:
                trailer = msgspec.structs.replace(self.trailer.save(), counter=wall_ns)
            self.trailer.restore(trailer)
        self.start()

    def recalled(
        self,
        mep: MepRecord | None,
        trailer: TrailerRecord | None,
        *,
        refused: bool | None,
        told: tuple[FarState, int | None] | None,
        counters: TunnelCounters,
    ) -> None:
        """As `take_back`, of a tunnel that was restored just now: its record was saved while vnic-wire had it. `told`:
        what vnic-wire said last, and the number of a CCM; `counters`: what it counted."""
        self.mover_counters = counters
        self._at_mover, self.mover_sequence = told if told is not None else (self.far_state(), None)
        self._told_us = self.now_us()
        self.stop()
        self._take_back(mep, trailer, refused)
        self._loop.call_soon(
            self._user.far_state_changed
        )  # a change is one of the time after the restoration

    def far_state(self) -> FarState | None:
        """None: there are no CCMs."""
        if self.mep is None:
            return None
        if self._at_mover is not None:
            silent_us = self._at_mover.silent_us + self.now_us() - self._told_us
            return self._at_mover._replace(silent_us=silent_us)
        return FarState(self.mep.state, self.refused, self.mep.silent_us(self.now_us()))

    @property
    def sender_waits(self) -> bool:
        """Whether `has_room` will be called."""
        return self._waits_writable

    def ahead(self, record: TunnelRecord) -> TunnelRecord:
        """The record of a process that was killed, which may have sent more since then: its numbers begin anew, ahead
        of all that it can have used; and the other end, whose CCMs wait in the socket, is heard as if it were now."""
        mep, trailer = record.mep, record.trailer
        if mep is not None and self.mep is not None:
            sequence = self.mep.save(self.now_us()).sequence
            mep = msgspec.structs.replace(mep, sequence=sequence, heard_age_us=0, send_left_us=0)
        if trailer is not None:
            trailer = msgspec.structs.replace(trailer, counter=self._wall_ns)
        return msgspec.structs.replace(record, mep=mep, trailer=trailer)

    def restore(self, record: TunnelRecord) -> None:
        """Go on in the place of one that was saved, of the same configuration. Called before `start`."""
        self.refused = record.refused
        if self.mep is not None and record.mep is not None:
            self.mep.restore(record.mep, self.now_us())
        if self.trailer is not None and record.trailer is not None:
            self.trailer.restore(record.trailer)

    # -- frames of the guest ------------------------------------------------------------------------------------

    def send(self, frame: Frame) -> bool:
        """Send a frame. False: the socket has no room, and `has_room` follows."""
        if self.mover is not None:
            self.mover.inject(bytes(frame))
            return True
        if not self._fits(frame):
            self.too_long += 1
            return True
        if self.mep is not None:
            level = level_of(frame)
            if level is not None and level <= self.config.level:
                self.filtered += 1  # a guest is not to speak for this end (802.1Q §19.2: a MEP stops these)
                return True
        return self._send(frame)

    def _fits(self, frame: Frame) -> bool:
        limit = self._max_frame
        if self.config.mtu is not None:
            tag = 4 if bytes(frame[12:14]) in _VLAN_TYPES else 0
            limit = min(limit, self.config.mtu + ETHERNET_BYTES + tag)
        return ETHERNET_BYTES <= len(frame) <= limit

    def _send(self, frame: Frame) -> bool:
        datagram = b"".join((self._header, frame))
        if self.trailer is not None:
            datagram = self.trailer.seal(datagram)
        for _ in range(2):  # the first may only report what became of an earlier datagram
            try:
                self.sockets.sending.send(datagram, socket.MSG_NOSIGNAL)
                return True
            except (BlockingIOError, InterruptedError):
                self.wait_for_room()
                return False
            except ConnectionRefusedError:
                self._set_refused()
            except OSError:
                self.send_errors += 1  # lost, as datagrams may be
                return True
        return True

    def wait_for_room(self) -> None:
        if not self._waits_writable:
            self._waits_writable = True
            self._loop.add_writer(self.sockets.sending, self._writable)

    def _writable(self) -> None:
        self._waits_writable = False
        self._loop.remove_writer(self.sockets.sending)
        if self._ccm_waits and self.mep is not None:
            self._ccm_waits = False
            self._send_ccm(self.mep.make())
        self._user.has_room()

    def _answered(self) -> None:
        """The sending socket has an ICMP error, or a datagram, which is not of the tunnel."""
        try:
            self.sockets.sending.recv(1)
        except ConnectionRefusedError:
            self._set_refused()
        except OSError:
            return

    def _set_refused(self) -> None:
        if not self.refused:
            self.refused = True
            self._user.far_state_changed()

    # -- datagrams of the other end -----------------------------------------------------------------------------

    def datagram(self, data: bytes) -> None:
        """A datagram with the VXLAN header of this tunnel."""
        if self.trailer is not None:
            opened = self.trailer.open(data)
            if isinstance(opened, Refused):
                self._trouble(opened.value)
                return
            data = opened
            self._user.kept.changed()  # so that it is not taken once more by another process
        frame = data[vxlan.HEADER_BYTES :]
        if len(frame) < ETHERNET_BYTES:
            self._trouble("truncated")
        elif self.mep is not None and level_of(frame) is not None:
            self._continuity(self.mep, frame)
        else:
            self._deliver(frame)

    def _deliver(self, frame: bytes) -> None:
        if self._fits(frame):
            self._user.frame_came(frame)
        else:
            self.too_long += 1

    def _continuity(self, mep: Mep, frame: bytes) -> None:
        before = mep.state
        verdict = mep.receive(frame, self.now_us())
        if verdict is Verdict.PASS:
            self._deliver(frame)
        elif verdict is Verdict.FILTERED:
            self.filtered += 1
        elif verdict is not Verdict.TAKEN:
            self._trouble(verdict.value)
        else:
            self.counters.ccm_received += 1
            was_refused, self.refused = self.refused, False
            if mep.state != before or was_refused:
                self._tick()  # a CCM may be due, and the time of the loss has come nearer
                self._user.far_state_changed()

    def _trouble(self, cause: str) -> None:
        setattr(self.counters, cause, getattr(self.counters, cause) + 1)
        self.tell(cause)

    def tell(self, cause: str) -> None:
        """Log one line the first time."""
        if cause not in self._told:
            self._told.add(cause)
            log.warning("netdev %s: %s; more of them are only counted", self._user.name, TROUBLES[cause])

    # -- CCMs ---------------------------------------------------------------------------------------------------

    def set_status(self, status: InterfaceStatus) -> None:
        """Tell the other end how the wire is here."""
        if self.mep is None or not self.mep.set_status(status, self.now_us()):
            return
        if self.mover is not None:
            self.mover.set_status(status)
        elif self.running:
            self._tick()

    def farewell(self) -> None:
        """Tell the other end that this one is gone. Called before `stop`."""
        if self.mover is not None:
            self.set_status(InterfaceStatus.NOT_PRESENT)
        elif self.mep is not None and self.running:
            self.mep.set_status(InterfaceStatus.NOT_PRESENT, self.now_us())
            self._send_ccm(self.mep.make())

    def _send_ccm(self, frame: bytes) -> None:
        if self._send(frame):
            self.counters.ccm_sent += 1
        else:
            self._ccm_waits = True

    def _tick(self) -> None:
        """Do what is due, and set the timer for what comes next."""
        mep = self.mep
        if mep is None or not self.running:
            return
        lost = self._judge(mep)
        frame = mep.make_due(self.now_us())
        if frame is not None:
            self._send_ccm(frame)
        self._set_timer(mep)
        if lost:
            self._user.far_state_changed()

    def _set_timer(self, mep: Mep) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = mep.send_due_us if mep.lost_due_us is None else min(mep.send_due_us, mep.lost_due_us)
        self._timer = self._loop.call_later(max(0, due - self.now_us()) / 1e6, self._tick)

    def _judge(self, mep: Mep) -> bool:
        """Whether the other end is found to be lost. A CCM that waits in the socket has come in time, however late
        this process is; but not for ever, for a flood could hide a dead peer."""
        due = mep.lost_due_us
        if due is None or self.now_us() < due:
            return False
        empty = self.sockets.shared.read()
        if not empty and self.now_us() < due + LATE_US:
            return False
        return mep.expire(self.now_us())
