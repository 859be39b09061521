"""Serves a PCI NIC to a VM over vfio-user: the socket shell around `protocol.vfio_user` and `vfio_pci`.

The machine makes one for every NIC with `attach.type=vfio-user`; QEMU connects to it with `-device vfio-user-pci`.
One VM at a time; when it goes, killed or unplugged, the next one may come.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from vnic.attach.gate import Gate
from vnic.attach.unsealed import tell_of_unsealed
from vnic.attach.vfio_user.function import VfioPciPort
from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.net.client import Nic
from vnic.net.records import ShownBy
from vnic.pci.device import PciDevice
from vnic.protocol.frames import FrameError, Message
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import ProtocolError
from vnic.protocol.vfio_user.server import Server, ServerState
from vnic.quota import MOST_FOR_EACH, QUOTA
from vnic.sockets.connection import TURN_S, Connection, peer_is_gone
from vnic.sockets.listener import Listener, listen_at
from vnic.sockets.peer import peer_name

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 2048
"""Bytes read at a time: some 60 register accesses, after which the loop serves the others (about 1 ms)."""
IDLE_SECONDS: Final = 0.05
"""A VM that sent nothing for so long has handled the last interrupt."""
DRAIN_SECONDS: Final = 0.4
"""How long an orderly end waits for that, and again for the VM to close its side."""


class VfioUserState(enum.Enum):
    """Where the attachment stands."""

    NEW = "new"
    LISTENING = "listening"  # no VM is there
    SERVING = "serving"
    DRAINING = "draining"  # closing: the guest may still take its last interrupt
    HALF_CLOSED = "half-closed"  # closing: the VM has been told, what it still sends is read and dropped
    RETURNING = "returning"  # the VM is gone, a back-end still has its rings
    CLOSED = "closed"


class VfioUserAttachment:
    """The socket of one PCI NIC. `start` and `close` are the machine's; all else happens in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, device: PciDevice, nic: Nic, path: str) -> None:
        self._loop = loop
        self._device = device
        self._nic = nic
        self._name = nic.name
        self._path = path
        self._gate = Gate(nic.name, loop)
        self._listener: Listener | None = None
        self._waiting: socket.socket | None = None  # the next VM, while the last one's rings come back
        self._connection: Connection | None = None
        self._server: Server | None = None
        self._port: VfioPciPort | None = None
        self._frames = m.assembler()
        self._messages: deque[Message] = deque()  # not begun yet
        self._steps: Iterator[bytes | None] | None = None  # what is under way
        self._resume: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0  # loop time of the VM's last message
        self._when_closed: list[Callable[[], None]] = []
        self.state = VfioUserState.NEW

    def start(self) -> None:
        """Listen. Raises NetError when the path cannot be listened on."""
        self._listener = Listener(
            self._loop, listen_at(self._path), self._accepted, self._path, gate=self._gate
        )
        self.state = VfioUserState.LISTENING

    @property
    def path(self) -> str:
        return self._path

    # --- A VM comes and goes ---

    def _accepted(self, sock: socket.socket) -> None:
        connection = self._connection
        if connection is not None and self.state is VfioUserState.SERVING and connection.is_abandoned():
            # Killed, behind messages that are not carried out yet. Nobody is left who could want them.
            connection.close()
            self.lost(None)
        if self._waiting is not None and peer_is_gone(self._waiting):
            self._waiting.close()
            self._waiting = None
        if self.state is VfioUserState.LISTENING:
            self._serve(sock)
        elif self.state is VfioUserState.RETURNING and self._waiting is None:
            self._waiting = sock
        else:
            log.warning("%s: refused %s: a VM is attached already", self._name, peer_name(sock))
            sock.close()

    def _serve(self, sock: socket.socket) -> None:
        log.info("%s: a VM attached (%s)", self._name, peer_name(sock))
        self.state = VfioUserState.SERVING
        self._nic.report.guest_attached(ShownBy.DEVICE)
        self._port = VfioPciPort(self._device, self._loop, self._name)
        tell_of_unsealed(self._port.memory, self._name)
        self._server = Server(self._port)
        self._frames = m.assembler()
        port = self._port
        held = QUOTA.join(self._name, lambda: port.descriptors + self._descriptors_waiting())
        self._connection = Connection(
            self._loop, sock, self, max_fds=m.MAX_FDS, owner=self._name, holding=held
        )
        self._port.connect(self._server, self._connection.send)
        self._gate.began(self._throw_out)

    def lost(self, reason: str | None) -> None:
        """ConnectionUser: the VM is gone, or it sent what is refused, or the socket failed (`reason`)."""
        violated = reason is not None
        if self._frames.pending and reason is None:
            reason = "the connection ended within a message"
        level = logging.WARNING if violated else logging.INFO
        log.log(level, "%s: the VM detached%s", self._name, f": {reason}" if reason else "")
        self._detach(violated=violated)

    def _detach(self, *, violated: bool = False) -> None:
        self._gate.ended(violated=violated)
        closing = self.state in (VfioUserState.DRAINING, VfioUserState.HALF_CLOSED)
        self._frames.close()
        self._drop_messages()
        for handle in (self._resume, self._timer):
            if handle is not None:
                handle.cancel()
        port, server, connection = self._port, self._server, self._connection
        self._connection = self._server = self._port = None
        self._resume = self._timer = None
        assert port is not None
        assert server is not None
        assert connection is not None
        self.state = VfioUserState.RETURNING
        self._nic.report.guest_detached()
        port.close(lambda: self._vm_is_gone(connection, closing))
        server.close()

    def _vm_is_gone(self, connection: Connection, closing: bool) -> None:
        connection.released()
        if closing or self._listener is None:
            self._finish()
            return
        self.state = VfioUserState.LISTENING
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._serve(waiting)

    # --- Messages ---

    @property
    def wanted(self) -> int:
        """ConnectionUser: bytes of the next piece: many small messages, or the rest of a large one."""
        return max(PIECE_BYTES, self._frames.wanted)

    def received(self, data: bytes, fds: list[int]) -> None:
        """ConnectionUser: carry out the messages that are complete."""
        self._heard = self._loop.time()
        try:
            self._messages += self._frames.feed(data, fds)
        except (FrameError, ProtocolError) as error:
            self._throw_out(str(error))
            return
        self._work(more=len(data) >= PIECE_BYTES)

    def _descriptors_waiting(self) -> int:
        """Those of messages that are not carried out yet, as many as they may become."""
        return MOST_FOR_EACH * (self._frames.descriptors + sum(len(each.fds) for each in self._messages))

    def _work(self, more: bool) -> None:
        """Carry out what was read, for a turn's time; `more` waits at the socket. Each reply is one send (see
        Server)."""
        connection, server = self._connection, self._server
        assert connection is not None
        assert server is not None
        if self.state is VfioUserState.HALF_CLOSED:
            self._drop_messages()
            connection.resume()
            return
        if self._steps is None:
            self._steps = self._all_steps(server)
        end = self._loop.time() + TURN_S
        try:
            for reply in self._steps:
                if reply is not None:
                    connection.send(reply)
                if self._loop.time() > end:
                    self._let_others_run(connection)
                    return
        except ProtocolError as error:
            self._throw_out(str(error))
        except Exception:  # a bug in the device model must cost this VM its NIC, not the process its loop
            log.exception("%s: a message of the VM could not be carried out", self._name)
            self._throw_out("internal error")
        else:
            self._steps = None
            if server.state is not ServerState.NEGOTIATING:
                self._gate.negotiated()
            if more:
                self._let_others_run(connection)

    def _all_steps(self, server: Server) -> Iterator[bytes | None]:
        while self._messages:
            yield from server.steps(self._messages.popleft())

    def _drop_messages(self) -> None:
        self._steps = None
        while self._messages:
            self._messages.popleft().close()

    def check_memory(self) -> None:
        """Cut the VM off if it took memory away that it shares."""
        if self._port is not None:
            try:
                self._port.memory.check()
            except GuestMemoryError as error:
                self._throw_out(str(error))

    def guest_memory(self) -> GuestMemory | None:
        """The memory of the VM that is there."""
        return self._port.memory if self._port is not None else None

    def _throw_out(self, reason: str) -> None:
        log.warning("%s: the VM is cut off: %s", self._name, reason)
        assert self._connection is not None
        self._connection.close()
        self._detach(violated=True)

    def _let_others_run(self, connection: Connection) -> None:
        """A VM with a backlog (a storm of register writes) is served on in the loop's next turn."""
        connection.pause()
        self._resume = self._loop.call_soon(self._go_on, connection)

    def _go_on(self, connection: Connection) -> None:
        self._resume = None
        if self._steps is not None:
            self._work(more=True)
        else:
            connection.resume()

    # --- The end ---

    def close(self, done: Callable[[], None] | None = None) -> None:
        """End in the order that QEMU survives: the link was announced down by the caller, so let the guest take
        that interrupt, then half-close and read until the VM closes. `done` is called when all is closed, after
        twice DRAIN_SECONDS and the device's `link_lag_seconds` at most.

        A server that just closes under traffic aborts QEMU (facts: 4 of 7; half-closed first: 0 of 3).
        """
        if done is not None:
            self._when_closed.append(done)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        if self.state in (VfioUserState.NEW, VfioUserState.LISTENING, VfioUserState.CLOSED):
            self._finish()
        elif self.state is VfioUserState.SERVING:
            self.state = VfioUserState.DRAINING
            self._timer = self._loop.call_later(self._lag(), self._begin_drain)

    def _lag(self) -> float:
        """How long the guest's driver may still need to look at the last link change."""
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
        self.state = VfioUserState.HALF_CLOSED
        assert self._connection is not None
        self._connection.half_close()
        self._timer = self._loop.call_later(DRAIN_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._detach()

    def _finish(self) -> None:
        self.state = VfioUserState.CLOSED
        callbacks, self._when_closed = self._when_closed, []
        for callback in callbacks:
            callback()
