"""Carries out the messages of a VM step by step, so that the next process can go on after any of them.

`session.VfioUserSession` has one where a keeper holds its descriptors; `exact` and `progress` say how it works.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from vnic.attach.vfio_user import progress as p
from vnic.attach.vfio_user.exact import ExactConnection
from vnic.attach.vfio_user.progress import NO_STEP, Progress, StepRecord
from vnic.descriptors import close_fds
from vnic.keep import NO_HANDLES, NO_KEEP, NO_KEPT, Keep, Kept, NoHandles
from vnic.pci.device import PciDevice
from vnic.protocol.frames import FrameAssemblerRecord, MessageQueue
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import ServerState

SOON_S: Final = 0.001
"""When the socket is read again if it has only part of a message. A VM sends each message at once."""
LATER_S: Final = 0.01
"""The same after the part was taken and saved, which costs the more the longer it is."""


class StepKeeping:
    """What an attachment keeps for its VMs beside its own unit: the position in their messages, and the last step that
    changed records. It is the unit `step/NAME`."""

    def __init__(self, keep: Keep, name: str) -> None:
        self.keep = keep
        self._key = f"step/{name}"
        self._kept: Kept = NO_KEPT
        self.progress = Progress(p.plain())
        self.record = NO_STEP

    def save_kept(self) -> tuple[StepRecord, object]:
        return self.record, NO_HANDLES

    def begin(self) -> None:
        """Nothing is there of a process before."""
        self._kept = self.keep.unit(self._key, self)
        self.progress.use(self.keep.cells(self._key, p.COUNT))

    def restore(self) -> bool:
        """Go on with what the process before left. False: it is not there, or is refused."""
        found = self.keep.inherited(self._key, StepRecord, NoHandles)
        if found is None:
            return False
        self.record, _ = found
        self._kept = self.keep.unit(self._key, self)
        self.progress = Progress(self.keep.cells(self._key, p.COUNT))
        return True

    def end(self) -> None:
        """Nothing is kept any more; what is still to be done is done in plain memory."""
        self.keep, keep = NO_KEEP, self.keep
        if keep.active:
            self.progress.use(p.plain())
        self._kept.end()
        self._kept = NO_KEPT

    def next_vm(self) -> None:
        """A VM connects."""
        progress = self.progress
        progress.number = progress.next  # the last one may be saved and not done
        progress.steps = progress.done = progress.flags = 0
        progress.write()

    def save(self, last: bool, size: int, reply: bytes | None) -> None:
        """Save what a step has changed, before it is done."""
        self.record = StepRecord(number=self.progress.next, last=last, size=size, reply=reply or b"")
        self._kept.changed()
        self.keep.commit()


class Steps:
    """The messages of one VM."""

    def __init__(
        self,
        keeping: StepKeeping,
        connection: ExactConnection,
        messages: MessageQueue,
        server: Server,
        device: PciDevice,
        kept: Kept,
    ) -> None:
        """`kept`: the unit with the session's record."""
        self._keeping = keeping
        self._connection = connection
        self._messages = messages
        self._server = server
        self._device = device
        self._kept = kept
        self._begun = b""
        self._begun_fds: list[int] = []
        self._saw_part = False
        """The socket had part of a message when it was read last."""
        self._part_has_fds = False
        self.wait_s = 0.0
        """After `carry_out`: how long the rest of a message is waited for."""
        self._dirty = False
        device.access[0] = keeping.progress.next

    # --- State apart from handles ---

    @property
    def begun(self) -> FrameAssemblerRecord:
        return FrameAssemblerRecord(data=self._begun, descriptors=len(self._begun_fds))

    @property
    def begun_fds(self) -> list[int]:
        return self._begun_fds

    def restore(self, record: FrameAssemblerRecord, fds: list[int]) -> None:
        """Go on with a checked record; the descriptors are ours then."""
        self._begun, self._begun_fds = record.data, fds

    def go_on(self) -> str | None:
        """Complete the step that the process before was in. Returns why that is not possible, or None."""
        try:
            reason = self._connection.go_on(self._keeping.record)
        except OSError as error:
            return error.strerror
        number = self._keeping.progress.next
        self._device.undo_read(number)
        self._device.access[0] = number
        return reason

    def close(self) -> None:
        self._forget_begun()

    # --- One piece ---

    @property
    def pending(self) -> bool:
        """Part of a message has arrived."""
        return bool(self._begun or self._saw_part)

    def session_changed(self) -> None:
        """The session's record or descriptors differ."""
        self._dirty = True
        self._kept.changed()
        self._kept.handles_changed()

    def feed(self, data: bytes, fds: list[int]) -> None:
        """One piece, after what was taken of the message that it may continue. Raises FrameError, ProtocolError."""
        if self._begun:
            try:
                again = [os.dup(fd) for fd in self._begun_fds]
            except BaseException:
                close_fds(fds)
                raise
            self._messages.feed(self._begun, again)
        self._part_has_fds = bool(fds)
        self._messages.feed(data, fds)

    def carry_out(self) -> Iterator[None]:
        """Carry out the whole messages of the piece. Raises ProtocolError."""
        self.wait_s = 0.0
        progress, server = self._keeping.progress, self._server
        begun = len(self._begun)
        new = server.state is ServerState.NEGOTIATING
        while (message := self._messages.take()) is not None:
            size = len(message.header) + len(message.payload) - begun
            server.begin(message, progress.steps)
            if not server.step():
                self._stepped(False, 0, None)
                yield None
                while not server.step():
                    self._stepped(False, 0, None)
                    yield None
            if begun:
                self._forget_begun()
                begun = 0
            if new and server.state is not ServerState.NEGOTIATING:
                new = False
                self.session_changed()
            self._stepped(True, size, server.take_reply())
            yield None
        self._end_piece()

    def _stepped(self, last: bool, size: int, reply: bytes | None) -> None:
        if self._dirty or self._device.dirty:
            self._dirty = self._device.dirty = False
            self._keeping.save(last, size, reply)
        self._connection.stepped(last, size, reply)
        self._device.access[0] = self._keeping.progress.next

    def _forget_begun(self) -> None:
        self._begun = b""
        fds, self._begun_fds = self._begun_fds, []
        close_fds(fds)
        self.session_changed()

    def _end_piece(self) -> None:
        """All whole messages are done. The beginning of another stays in the socket, unless its rest does not come soon
        or could not be waited for there."""
        data, fds = self._messages.take_begun()
        left = self._connection.left
        if not left:
            self._saw_part = False
        elif self._begun or self._saw_part or self._part_has_fds or self._connection.ends:
            self._saw_part = False
            before, self._begun_fds = self._begun_fds, fds
            close_fds(before)
            self._begun, fds = data, []
            self.session_changed()
            self._stepped(True, left, None)
            self.wait_s = LATER_S
        else:
            self._saw_part = True
            self.wait_s = SOON_S
        close_fds(fds)
        self._connection.end_piece()

    def drop(self) -> None:
        """Nothing that the VM says counts any more."""
        self._forget_begun()
        close_fds(self._messages.take_begun()[1])
        self._connection.skip()
        self._connection.end_piece()
