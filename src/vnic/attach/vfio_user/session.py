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
from vnic.attach.vfio_user.exact import ExactConnection
from vnic.attach.vfio_user.function import VfioPciPort
from vnic.attach.vfio_user.progress import NEXT_ID
from vnic.attach.vfio_user.record import VfioUserSessionRecord, VmHandles
from vnic.attach.vfio_user.shadow import MessageShadow
from vnic.attach.vfio_user.steps import StepKeeping, Steps
from vnic.attach.vfio_user.turns import Turns
from vnic.keep import NO_KEPT, Kept
from vnic.net.client import Nic
from vnic.net.records import ShownBy
from vnic.pci.device import PciDevice, PciHandles
from vnic.protocol.frames import FrameError, MessageQueue
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import ServerState
from vnic.quota import MOST_FOR_EACH
from vnic.record import within
from vnic.sockets.connection import TURN_S, Connection

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
        *,
        kept: Kept = NO_KEPT,
        keeping: StepKeeping | None = None,
        outbox: int | None = None,
        restored: bool = False,
    ) -> None:
        """`kept`, `outbox`: as for Session, with `keeping`. `restored`: `restore` is called next, then the device is
        restored, then `go_on` is called."""
        self._keeping = keeping
        super().__init__(host, loop, sock, nic, max_fds=m.MAX_FDS, kept=kept, outbox=outbox)
        self.shown_by = ShownBy.DEVICE if device.shows_link else ShownBy.NOTHING
        self._device = device
        self._messages = MessageQueue(m.assembler())
        self._steps: Iterator[bytes | None] | None = None  # the message in progress
        self._exact: Steps | None = None
        """Where a keeper is."""
        self._early: list[bytes] | None = [] if restored else None
        """The device's requests to the VM before `go_on`."""
        self._negotiated = False
        self._heard = 0.0  # loop time of the VM's last message
        self._resume: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turns = Turns(loop, self._connection, self._at_rest)
        self._port = VfioPciPort(
            device, self.memory, loop, self._name, self._shadow, self._turns, self._changed, restored
        )
        self._server = Server(self._port)
        if keeping is not None and isinstance(self._connection, ExactConnection):
            self._exact = Steps(keeping, self._connection, self._messages, self._server, device, kept)
            if not restored:
                self._connection.begin()

    def _kept_connection(self, sock: socket.socket, max_fds: int, outbox: int) -> Connection:
        assert self._keeping is not None
        return ExactConnection(
            self._loop,
            sock,
            self,
            max_fds=max_fds,
            owner=self._name,
            holding=self._held,
            outbox=outbox,
            progress=self._keeping.progress,
        )

    def _shadow(self, forget: Callable[[], None]) -> MessageShadow:
        """Asks the VM for memory that it does not share."""
        return MessageShadow(self.memory, self._server, self._send_request, forget)

    def _send_request(self, message: bytes) -> None:
        if self._keeping is not None:
            self._keeping.progress.cells[NEXT_ID] = self._server.next_id
        if self._early is None:
            self._connection.send(message)
        else:
            self._early.append(message)

    def _changed(self) -> None:
        """The record differs, and perhaps the descriptors."""
        if self._exact is not None:
            self._exact.session_changed()

    @property
    def descriptors(self) -> int:
        """A message that waits counts with the most descriptors that it may need."""
        return self._port.descriptors + MOST_FOR_EACH * self._messages.descriptors

    # --- State apart from handles ---

    def save(self) -> VfioUserSessionRecord:
        """The record of a session that is `serving`, with a keeper."""
        assert self._exact is not None
        memory, shared, irqs = self._port.save()
        return VfioUserSessionRecord(
            server=self._server.save(between_messages=True),
            memory=memory,
            shared=shared,
            irqs=irqs,
            begun=self._exact.begun,
        )

    @property
    def handles(self) -> VmHandles:
        """The descriptors that belong to the record, still the session's."""
        assert self._exact is not None
        assert isinstance(self._connection, ExactConnection)
        connection = self._connection
        memory, irqs = self._port.fds
        return VmHandles(connection.sock.fileno(), connection.outbox, memory, irqs, self._exact.begun_fds)

    @property
    def device_handles(self) -> PciHandles:
        """What the device is restored with."""
        return self._port.handles

    def restore(self, record: VfioUserSessionRecord, handles: VmHandles) -> None:
        """Take the place of the session that was saved. The descriptors of the interrupts, and those that were begun,
        are ours then. Raises RecordError, and leaves them to the caller then."""
        assert self._exact is not None
        assert self._keeping is not None
        with within("server"):
            self._server.check(record.server)
        with within("begun"):
            m.assembler().check(record.begun, len(handles.begun))
        self._port.restore(
            (record.memory, handles.memory),
            record.shared,
            (record.irqs, list(handles.irqs)),
            lambda: self._server.restore(record.server),
        )
        self._server.take_up(self._keeping.progress.cells[NEXT_ID])
        self._exact.restore(record.begun, list(handles.begun))
        self._count_descriptors()

    def go_on(self) -> None:
        """All else is restored: complete the step that the process before was in, and serve the VM."""
        assert self._exact is not None
        early, self._early = self._early or [], None
        reason = self._exact.go_on()
        if reason is not None:
            self.cut_off(reason)
            return
        for message in early:
            self._connection.send(message)
        self._port.go_on()

    def refuse(self) -> None:
        self._port.refuse()
        if self._exact is not None:
            self._exact.close()
        super().refuse()

    # --- Messages ---

    @property
    def pending(self) -> bool:
        return self._messages.pending or (self._exact is not None and self._exact.pending)

    def _at_rest(self) -> bool:
        """Turns: the next byte of the VM begins a message, and nothing is in progress."""
        return (
            self.state is SessionState.SERVING
            and not self._messages
            and not self.pending
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
            if self._exact is None:
                self._messages.feed(data, fds)
            else:
                self._exact.feed(data, fds)
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
            self._steps = self._all_steps() if self._exact is None else self._exact.carry_out()
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
            if self._server.state is not ServerState.NEGOTIATING and not self._negotiated:
                self._negotiated = True
                self._host.negotiated()
            if self._exact is not None and self._exact.wait_s:
                self._connection.pause()
                self._resume = self._loop.call_later(self._exact.wait_s, self._go_on)
            elif more:
                self._let_others_run()

    def _all_steps(self) -> Iterator[bytes | None]:
        while (message := self._messages.take()) is not None:
            yield from self._server.steps(message)

    def _drop_messages(self) -> None:
        self._steps = None
        self._messages.drop()
        if self._exact is not None:
            self._exact.drop()

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
        if self._exact is not None:
            self._exact.close()
        for handle in (self._resume, self._timer):
            if handle is not None:
                handle.cancel()
        self._resume = self._timer = None
        self._port.close(self._released)
        self._server.close()
