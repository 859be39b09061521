"""AgentConnection: a client of a guest agent's socket. `qemu` has one while its VM is there.

The agent is a program of the guest: it may be missing, start late, be old, lie, or send without end. Each connection
begins with guest-sync-delimited and a number of which the answer has to consist, so that no answer is taken for
another's; after an answer that does not come it begins anew. What comes before that answer is passed over, and what the
agent sends is read for a share of the loop's time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

from vnic.adopt.channel import Channel
from vnic.adopt.hypervisor import AgentRefused, HypervisorError
from vnic.adopt.limits import Share
from vnic.lifecycle import Lifecycle
from vnic.protocol.qmp.client import Messages, QmpError, Reply, command

log = logging.getLogger(__name__)

ANSWER_S: Final = 5.0
"""How long a command's answer is waited for."""
SYNC_S: Final = (0.5, 1.0, 2.0, 5.0)
"""The same of a sync, first and then; the last one is repeated."""
RECONNECT_S: Final = 1.0
MESSAGE_MAX_BYTES: Final = 1 << 18
SENTINEL: Final = b"\xff"
"""Before the answer to guest-sync-delimited; before a request it ends what the agent may have read in part."""
NO_ANSWER: Final = "its guest agent does not answer"


class State(Enum):
    """Of an AgentConnection."""

    OFF = auto()
    PAUSING = auto()
    CONNECTING = auto()
    SYNCING = auto()
    READY = auto()


class AgentConnection:
    """One client. `changed` is called with whether the agent answers, and a text."""

    state = Lifecycle(
        State.OFF,
        {
            State.OFF: frozenset({State.CONNECTING}),
            State.PAUSING: frozenset({State.CONNECTING, State.OFF}),
            State.CONNECTING: frozenset({State.SYNCING, State.PAUSING, State.OFF}),
            State.SYNCING: frozenset({State.READY, State.PAUSING, State.OFF}),
            State.READY: frozenset({State.SYNCING, State.PAUSING, State.OFF}),
        },
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: str, changed: Callable[[bool, str], None]
    ) -> None:
        """Raises NetError for a path that no socket can have."""
        self._loop = loop
        self._channel = Channel(loop, path, self, closed="it was closed", unread="it does not read")
        self._changed = changed
        self._messages = Messages(MESSAGE_MAX_BYTES)
        self._nonce = 0
        self._delimited = False
        """The sentinel of the awaited answer was read."""
        self._syncs = 0
        self._pending: asyncio.Future[object] | None = None
        self._told = ""
        self._logged = False
        """That the agent broke the protocol was told, of this VM."""
        self._share = Share()
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look for the agent."""
        if self.state in (State.OFF, State.PAUSING):
            self.state = State.CONNECTING
            self._channel.connect()

    def stop(self) -> None:
        """The VM is gone."""
        self.state = State.OFF
        self._read_on()
        self._channel.drop()
        self._fail_pending("the VM is gone")
        self._told, self._logged = "", False

    close = stop

    def retry(self) -> None:
        """The agent may have begun to listen."""
        if self.state is State.SYNCING:
            self._syncs = 0
            self._sync()

    def execute(self, name: str, arguments: Mapping[str, object]) -> asyncio.Future[object]:
        """What the agent returns; HypervisorError."""
        future: asyncio.Future[object] = self._loop.create_future()
        if self.state is not State.READY or self._pending is not None:
            future.set_exception(HypervisorError(NO_ANSWER if self._pending is None else "it is being asked"))
            return future
        self._pending = future
        self._channel.after(ANSWER_S, self._no_answer)
        self._channel.send(command(name, arguments))
        return future

    # -- ChannelUser --------------------------------------------------------------------------------------------

    def connected(self) -> None:
        self.state = State.SYNCING
        self._syncs = 0
        self._sync()

    def ended(self, text: str) -> None:
        self._read_on()
        self._fail_pending(text)
        self.state = State.PAUSING
        self._channel.after(RECONNECT_S, self.start)
        self._tell(False, f"its guest agent's socket: {text}")

    def received(self, data: bytes) -> None:
        began = time.thread_time()
        try:
            self._take(data)
        except QmpError as error:
            self._violated(error)
        pause = self._share.took(time.thread_time() - began, self._loop.time())
        if pause and self._channel.sock is not None:
            self._channel.read(False)
            self._paused = self._loop.call_later(pause, self._read_on)

    def _read_on(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
            self._channel.read(True)

    def _violated(self, error: QmpError) -> None:
        if self.state is State.SYNCING:
            self._delimited = False  # an answer that is none, or one of an earlier request
            self._messages.clear()
            return
        log.log(logging.DEBUG if self._logged else logging.WARNING, "%s: %s", self._channel.path, error)
        self._logged = True
        self._begin_anew(str(error))

    def _fail_pending(self, text: str) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and not pending.done():
            pending.set_exception(HypervisorError(text))
            pending.exception()  # whoever asked may be gone

    # -- messages -----------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Ask for an answer that can only be of now."""
        self._nonce = secrets.randbits(52)
        self._delimited = False
        self._messages.clear()
        self._channel.after(SYNC_S[min(self._syncs, len(SYNC_S) - 1)], self._not_synced)
        self._syncs += 1
        self._channel.send(SENTINEL + command("guest-sync-delimited", {"id": self._nonce}))

    def _not_synced(self) -> None:
        self._tell(False, NO_ANSWER)
        self._sync()

    def _no_answer(self) -> None:
        self._begin_anew(NO_ANSWER)

    def _begin_anew(self, text: str) -> None:
        self.state = State.SYNCING
        self._fail_pending(text)
        self._tell(False, text)
        self._messages.clear()
        self._delimited = False
        self._channel.after(SYNC_S[min(self._syncs, len(SYNC_S) - 1)], self._sync)
        self._syncs += 1

    def _take(self, data: bytes) -> None:
        """Raises QmpError."""
        if SENTINEL in data:
            if self.state is State.READY:
                raise QmpError("the guest agent answered an earlier sync")
            data = data[data.rindex(SENTINEL) + 1 :]
            self._messages.clear()
            self._delimited = True
        if self.state is State.SYNCING and not self._delimited:
            return  # of an earlier request
        for message in self._messages.feed(data):
            if not isinstance(message, Reply):
                raise QmpError("the guest agent sent what is no answer")
            if self.state is State.SYNCING:
                self._synced(message)
            else:
                self._answered(message)

    def _synced(self, reply: Reply) -> None:
        if reply.value != self._nonce or isinstance(reply.value, bool):
            self._delimited = False  # of an earlier sync, or wrong
            return
        self.state = State.READY
        self._channel.cancel_timer()
        self._tell(True, "its guest agent answers")

    def _answered(self, reply: Reply) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            raise QmpError("the guest agent answered what was not asked")
        self._channel.cancel_timer()
        self._syncs = 0
        if pending.done():
            return
        if reply.error is not None:
            pending.set_exception(AgentRefused(reply.error))
            pending.exception()
        else:
            pending.set_result(reply.value)

    def _tell(self, there: bool, text: str) -> None:
        if text != self._told:
            self._told = text
            self._changed(there, text)
