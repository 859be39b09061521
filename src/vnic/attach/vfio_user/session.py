"""One VM at a PCI NIC over vfio-user: connects `protocol.vfio_user.server` with the PCI function that it serves.

`VfioUserAttachment` makes one for each VM.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Final

from vnic.attach.session import Session, SessionHost, SessionState
from vnic.attach.vfio_user.function import VfioPciPort
from vnic.attach.vfio_user.shadow import MessageShadow
from vnic.attach.vfio_user.turns import Turns
from vnic.net.client import Nic
from vnic.net.records import ShownBy
from vnic.pci.device import PciDevice
from vnic.protocol.frames import FrameError, MessageQueue
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError
from vnic.protocol.vfio_user.server import Server, ServerState
from vnic.quota import MOST_FOR_EACH
from vnic.sockets.connection import TURN_S

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 2048
"""The bytes of one read: some 60 register accesses, after which the loop serves the others (about 1 ms)."""
IDLE_SECONDS: Final = 0.05
"""A VM that has been silent for so long has handled the last interrupt."""
DRAIN_SECONDS: Final = 0.4
"""How long an orderly close waits for that, and again for the VM to close its side."""


class VfioUserSession(Session):
    """From the connection of a VM until its rings are back and its descriptors closed."""

    LEFT_TEXT = "the VM detached"
    CUT_OFF_TEXT = "the VM is cut off"
    CUT_SHORT_TEXT = "the connection ended within a message"

    def __init__(
        self,
        host: SessionHost,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        device: PciDevice,
        nic: Nic,
    ) -> None:
        super().__init__(host, loop, sock, nic, max_fds=m.MAX_FDS)
        self.shown_by = ShownBy.DEVICE
        self._device = device
        self._messages = MessageQueue(m.assembler())
        self._steps: Iterator[bytes | None] | None = None  # the message in progress
        self._heard = 0.0  # loop time of the VM's last message
        self._resume: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turns = Turns(loop, self._connection, self._at_rest)
        self._port = VfioPciPort(device, self.memory, loop, self._name, self._shadow, self._turns)
        self._server = Server(self._port)

    def _shadow(self, forget: Callable[[], None]) -> MessageShadow:
        """Asks the VM for memory that it does not share."""
        return MessageShadow(self.memory, self._server, self._connection.send, forget)

    @property
    def descriptors(self) -> int:
        """A message that waits counts with the most descriptors that it may need."""
        return self._port.descriptors + MOST_FOR_EACH * self._messages.descriptors

    # --- Messages ---

    @property
    def pending(self) -> bool:
        return self._messages.pending

    def _at_rest(self) -> bool:
        """Turns: the next byte of the VM begins a message, and nothing is in progress."""
        return (
            self.state is SessionState.SERVING
            and not self._messages
            and not self._messages.pending
            and self._steps is None
            and self._resume is None
            and self._connection.at_rest
        )

    @property
    def wanted(self) -> int:
        """ConnectionUser: the size of the next piece: many small messages, or the rest of a large one."""
        return max(PIECE_BYTES, self._messages.wanted)

    def received(self, data: bytes, fds: list[int]) -> None:
        """ConnectionUser: carry out the complete messages."""
        self._heard = self._loop.time()
        self._turns.heard(self._heard)
        try:
            self._messages.feed(data, fds)
        except (FrameError, ProtocolError) as error:
            self.cut_off(str(error))
            return
        self._work(more=len(data) >= PIECE_BYTES)

    def _work(self, more: bool) -> None:
        """Carry out messages for the time of one turn; `more` input waits at the socket. Each reply is one send (see
        Server)."""
        if self.state is SessionState.HALF_CLOSED:
            self._drop_messages()
            self._connection.resume()
            return
        if self._steps is None:
            self._steps = self._all_steps()
        end = self._loop.time() + TURN_S
        try:
            for reply in self._steps:
                if reply is not None:
                    self._connection.send(reply)
                if self._loop.time() > end:
                    self._let_others_run()
                    return
        except ProtocolError as error:
            self.cut_off(str(error))
        except Exception:  # a bug in the device model must disconnect this VM only, not end the process
            log.exception("%s: a message of the VM could not be carried out", self._name)
            self.cut_off("internal error")
        else:
            self._steps = None
            if self._server.state is not ServerState.NEGOTIATING:
                self._host.negotiated()
            if more:
                self._let_others_run()

    def _all_steps(self) -> Iterator[bytes | None]:
        while (message := self._messages.take()) is not None:
            yield from self._server.steps(message)

    def _drop_messages(self) -> None:
        self._steps = None
        self._messages.drop()

    def _let_others_run(self) -> None:
        """A VM with a backlog (a storm of register writes) continues in the loop's next turn."""
        self._connection.pause()
        self._resume = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        if self._steps is not None:
            self._work(more=True)
        else:
            self._connection.resume()

    # --- The end ---

    def leave(self, *, violated: bool = False) -> None:
        self._turns.close()
        super().leave(violated=violated)

    def close(self) -> None:
        """Close in the order that QEMU survives: half-close, then read until the VM closes.

        The caller has set the link down, so the guest first gets time to handle that interrupt. The close takes at most
        twice DRAIN_SECONDS and the device's `link_lag_seconds`. A server that closes at once under traffic aborts QEMU
        (observed in 4 of 7 runs; after a half-close in 0 of 3).
        """
        self.state = SessionState.DRAINING
        self._timer = self._loop.call_later(self._lag(), self._begin_drain)

    def _lag(self) -> float:
        """How long the guest's driver may still need to notice the last link change."""
        change = self._nic.last_change
        if change is None or not self._nic.guest.driver_ok:
            return 0.0
        age = self._nic.network.clock.monotonic_ns() / 1e9 - change.monotonic_us / 1e6
        return max(0.0, self._device.link_lag_seconds - age)

    def _begin_drain(self) -> None:
        self._heard = self._loop.time()
        self._drain(self._heard + DRAIN_SECONDS)

    def _drain(self, deadline: float) -> None:
        now = self._loop.time()
        if now < deadline and now - self._heard < IDLE_SECONDS:
            self._timer = self._loop.call_later(IDLE_SECONDS / 5, self._drain, deadline)
            return
        self.state = SessionState.HALF_CLOSED
        self._connection.half_close()
        self._timer = self._loop.call_later(DRAIN_SECONDS, self.leave)

    def _unplug(self) -> None:
        self._steps = None
        self._messages.close()
        for handle in (self._resume, self._timer):
            if handle is not None:
                handle.cancel()
        self._resume = self._timer = None
        self._port.close(self._released)
        self._server.close()
