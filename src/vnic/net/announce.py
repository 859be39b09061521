"""announce-self: gratuitous RARP for each NIC and virtio's GUEST_ANNOUNCE, in rounds (QEMU's net/announce.c).

`Network.announce_self` calls it for the monitor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vnic.net.client import Nic
from vnic.net.clock import Scheduler, Timer

ETH_P_RARP = 0x8035
RARP_FRAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class AnnounceParameters:
    """QAPI's AnnounceParameters; times in milliseconds, `interfaces` None: all NICs."""

    initial: int = 50
    max: int = 550
    rounds: int = 5
    step: int = 100
    interfaces: tuple[str, ...] | None = None
    id: str = ""

    def delay_ms(self, rounds_left: int) -> int:
        """qemu_announce_timer_step: initial + (rounds - left - 1) * step; max where that is more, or negative."""
        delay = self.initial + (self.rounds - rounds_left - 1) * self.step
        return delay if 0 <= delay <= self.max else max(0, self.max)


def rarp_frame(mac: bytes) -> bytes:
    """A reverse-ARP request of `mac` for itself, 60 bytes (announce_self_create)."""
    header = b"\xff" * 6 + mac + ETH_P_RARP.to_bytes(2, "big")
    # Ethernet, IPv4, 6- and 4-byte addresses, operation 3: "request reverse".
    request = b"\x00\x01\x08\x00\x06\x04\x00\x03" + (mac + bytes(4)) * 2
    return (header + request).ljust(RARP_FRAME_LENGTH, b"\0")


class Announcer:
    """The announcements in progress, by id: a new one of the same id replaces the old one."""

    def __init__(self, scheduler: Scheduler, nics: Callable[[], Iterable[Nic]]) -> None:
        """`nics` returns the NICs; it is called at the start of each round."""
        self._scheduler = scheduler
        self._nics = nics
        self._timers: dict[str, Timer] = {}

    def announce(self, parameters: AnnounceParameters) -> None:
        """Send the first round now and the others by timer."""
        running = self._timers.pop(parameters.id, None)
        if running is not None:
            running.cancel()
        if parameters.rounds > 0:
            self._round(parameters, parameters.rounds)

    def _round(self, parameters: AnnounceParameters, left: int) -> None:
        self._timers.pop(parameters.id, None)
        for nic in list(self._nics()):
            if parameters.interfaces is None or nic.name in parameters.interfaces:
                self._announce_nic(nic)
        left -= 1
        if left > 0:
            delay = parameters.delay_ms(left) / 1000
            self._timers[parameters.id] = self._scheduler.call_later(delay, self._round, parameters, left)

    def _announce_nic(self, nic: Nic) -> None:
        if nic.endpoint.elsewhere:
            return  # its packets are the VM's own
        # `send` drops the frame of a NIC whose wire is down.
        nic.send(0, rarp_frame(nic.mac))
        nic.endpoint.announce()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
