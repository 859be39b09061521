"""Decides when a NIC accepts its next client, and how long one may be silent: faulty clients harm only themselves.

Both attachments report how their clients start and end; the Listener calls it before each accept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from vnic.net.clock import Timer
from vnic.record import U32, U64, Record, left_us
from vnic.sockets.closers import closers

log = logging.getLogger(__name__)

FREE_STRIKES: Final = 3
"""The failures that cause no delay: a program under development, a probe."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
FORGIVEN_AFTER_S: Final = 5.0
"""The seconds after which one strike is removed."""
HANDSHAKE_S: Final = 30.0
"""The time a client has to negotiate the protocol. QEMU, User-Mode Linux and DPDK do so as soon as they connect, in
milliseconds and before the guest's first instruction (also with -S, also under TCG)."""
CONTESTED_S: Final = 1.0
"""The same while another client waits for the NIC. It is long enough that a storm of new clients does not end the
handshake of an honest one."""
CONTESTED_POLL_S: Final = 0.05
"""The interval at which the present client is checked; if it has negotiated, the new client is refused."""
BUSY_POLL_S: Final = 0.05
"""The interval at which the descriptors of the last client are checked."""


class Clock(Protocol):
    """The part of asyncio's event loop that has the time."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...


class GateRecord(Record, frozen=True):
    """The state of a Gate. Times are in the past, or remaining."""

    strikes: U32
    struck_us: U64
    """The time since the last strike."""
    closed_us: U64
    """The time until the next client is accepted."""
    handshake_us: U64 | None
    """The time since a client connected that has not negotiated yet."""


class _Handshake:
    """A client that has not negotiated yet; `give_up(reason)` is called if it takes too long."""

    def __init__(self, loop: Clock, give_up: Callable[[str], None], age_s: float = 0.0) -> None:
        self._loop = loop
        self._give_up = give_up
        self.began = loop.time() - age_s
        left = max(0.0, HANDSHAKE_S - age_s)
        self._timer = loop.call_later(left, give_up, f"it did not negotiate within {HANDSHAKE_S:g} s")

    def contest(self) -> None:
        """Another client waits."""
        self._timer.cancel()
        left = self.began + CONTESTED_S - self._loop.time()
        text = "it did not negotiate, and another client waits"
        self._timer = self._loop.call_later(max(left, 0.0), self._give_up, text)

    def end(self) -> None:
        self._timer.cancel()


class Gate:
    """The gate of one NIC. A strike is a client that broke the protocol, or disconnected before it negotiated."""

    def __init__(self, name: str, loop: Clock) -> None:
        """`name`: the NIC's."""
        self._name = name
        self._loop = loop
        self._handshake: _Handshake | None = None
        self._strikes = 0
        self._last = 0.0
        self._until = 0.0
        self._told = False

    def save(self) -> GateRecord:
        now = self._loop.time()
        began = None if self._handshake is None else self._handshake.began
        return GateRecord(
            strikes=self._strikes,
            struck_us=left_us(now, self._last) if self._strikes else 0,
            closed_us=left_us(self._until, now),
            handshake_us=None if began is None else left_us(now, began),
        )

    def restore(self, record: GateRecord, age_us: int, give_up: Callable[[str], None]) -> None:
        """Take the place of the gate that was saved so long ago. `give_up` is as for `began`, if a client is there."""
        now = self._loop.time()
        self._strikes = record.strikes
        self._last = now - (record.struck_us + age_us) / 1e6
        self._until = now + min(max(0, record.closed_us - age_us) / 1e6, LONGEST_PAUSE_S)
        if record.handshake_us is not None:
            self._handshake = _Handshake(self._loop, give_up, record.handshake_us / 1e6)

    def began(self, give_up: Callable[[str], None]) -> None:
        """A client has connected. `give_up(reason)` is called if it does not negotiate in time."""
        self._handshake = _Handshake(self._loop, give_up)

    def negotiated(self) -> None:
        """The client has negotiated."""
        if self._handshake is not None:
            self._handshake.end()
            self._handshake = None

    def ended(self, *, violated: bool) -> None:
        """The client has disconnected or is being disconnected; `violated`: because of data that it sent."""
        silent = self._handshake is not None
        self.negotiated()
        if violated or silent:
            self._strike()

    def _strike(self) -> None:
        now = self._loop.time()
        if self._strikes:
            self._strikes -= min(self._strikes, int((now - self._last) / FORGIVEN_AFTER_S))
        self._strikes += 1
        self._last = now
        if self._strikes > FREE_STRIKES:
            doublings = min(self._strikes - FREE_STRIKES - 1, 16)
            self._until = now + min(FIRST_PAUSE_S * 2**doublings, LONGEST_PAUSE_S)

    def delay(self) -> float:
        """The seconds to wait before the next client is accepted, or before the next call; 0: none."""
        if closers.busy(self._name):
            if not self._told:
                self._told = True
                log.warning(
                    "%s: no client is taken until the descriptors of the last one are closed", self._name
                )
            return BUSY_POLL_S
        self._told = False
        if self._handshake is not None:
            self._handshake.contest()
            return CONTESTED_POLL_S
        return max(0.0, self._until - self._loop.time())
