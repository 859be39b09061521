"""Watches the network interfaces of a network namespace: the kernel reports every change (rtnetlink(7)). There is no
polling.

`tap` subscribes to changes; link-follow and `interface` follow the state, and `interface` sets it. One socket serves
all netdevs of a machine; it is open while any of them needs it. Another namespace has a watch of its own, with a socket
that was opened there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from vnic.backend.rtnetlink import (
    RTMGRP_LINK,
    Answer,
    LinkMessage,
    LinkState,
    get_link,
    parse,
    set_link,
)

_READS_PER_TURN: Final = 64
_MESSAGE_BYTES: Final = 1 << 16

Told = Callable[[LinkState | None], None]
"""Called with an interface's state; None: there is no interface of that name."""


class InterfaceWatch:
    """Notifies subscribers when the interface of their name changes, appears or disappears."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket | None = None) -> None:
        """`sock`: a netlink socket of another namespace, bound to RTMGRP_LINK, which is now the watch's."""
        self._loop = loop
        self._followers: dict[str, list[Told]] = {}
        self._names: dict[int, str] = {}
        """The followed interfaces by their index, so that a renamed one is missed under its old name."""
        self._sequences = itertools.count(1)
        self._asked: dict[int, str] = {}
        """Requests for the state, by sequence number."""
        self._setting: dict[int, Callable[[int], None]] = {}
        self.sock = sock
        """None: no netdev needs it."""
        self._of_this_namespace = sock is None
        if sock is not None:
            loop.add_reader(sock, self._readable, sock)

    # -- who follows --------------------------------------------------------------------------------------------

    def subscribe(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed()` at each change of the interface `name` of this network namespace, and once soon.

        The callee reads the new state: one call may stand for several changes. The returned function ends the
        subscription. OSError if the socket cannot be made.
        """
        remove = self._add(name, lambda _: changed())
        first = self._loop.call_soon(changed)

        def unsubscribe() -> None:
            first.cancel()
            remove()

        return unsubscribe

    def follow(self, name: str, told: Told) -> Callable[[], None]:
        """Call `told` with the state of the interface `name` as soon as the kernel has reported it, and at each change.

        The returned function ends that. OSError if the socket cannot be made.
        """
        remove = self._add(name, told)
        self._ask(name)
        return remove

    def _add(self, name: str, told: Told) -> Callable[[], None]:
        self._opened()
        self._followers.setdefault(name, []).append(told)

        def remove() -> None:
            self._followers[name].remove(told)
            if not self._followers[name]:
                del self._followers[name]
                self._names = {index: each for index, each in self._names.items() if each != name}
            self._close_unused()

        return remove

    # -- requests -----------------------------------------------------------------------------------------------

    def set_up(self, index: int, up: bool | None, done: Callable[[int], None]) -> None:
        """Set an interface administratively up or down; None only checks the right to do so.

        `done` is called with 0 or an errno, after all changes that came before it have been reported.
        """
        sequence = next(self._sequences)
        self._setting[sequence] = done
        self._send(sequence, set_link(sequence, index, up))

    async def was_set_up(self, index: int, up: bool | None) -> int:
        """Do the same, and wait for the result."""
        future: asyncio.Future[int] = self._loop.create_future()

        def done(error: int) -> None:
            if not future.done():
                future.set_result(error)

        self.set_up(index, up, done)
        return await future

    def _ask(self, name: str) -> None:
        sequence = next(self._sequences)
        self._asked[sequence] = name
        self._send(sequence, get_link(sequence, name))

    def _send(self, sequence: int, request: bytes) -> None:
        """Send from a thread: the kernel carries a request out within the call, and waits there for whoever else
        configures interfaces (rtnl_lock). The answer is read by the loop, in order with the reported changes."""
        sock = self._opened().dup()  # the thread's own, which nobody closes under it

        def send() -> None:
            with sock:
                try:
                    sock.send(request)
                except OSError as error:
                    failed = Answer(sequence, error.errno or errno.EIO)
                    with contextlib.suppress(RuntimeError):  # the loop is closed
                        self._loop.call_soon_threadsafe(self._not_sent, failed)

        try:
            threading.Thread(target=send, name="vnic-rtnetlink", daemon=True).start()
        except RuntimeError:  # no thread can start
            send()

    def _not_sent(self, answer: Answer) -> None:
        """The state that was asked for stays unknown until the next change."""
        self._asked.pop(answer.sequence, None)
        self._answered(answer)

    # -- the socket ---------------------------------------------------------------------------------------------

    def _opened(self) -> socket.socket:
        if self.sock is None:
            if not self._of_this_namespace:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self.sock = open_route_socket()
            self._loop.add_reader(self.sock, self._readable, self.sock)
        return self.sock

    def _close_unused(self) -> None:
        if self._of_this_namespace and not self._followers and not self._setting:
            self.close()

    def close(self) -> None:
        """Close the socket. Requests under way may be carried out or not: their error is ECANCELED."""
        if self.sock is not None:
            self._loop.remove_reader(self.sock)
            self.sock.close()
            self.sock = None
            self._asked.clear()
            self._names.clear()
            setting, self._setting = self._setting, {}
            for done in setting.values():
                done(errno.ECANCELED)

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = sock.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the socket has lost changes
                self._lost()
                return
            for message in parse(data):
                if isinstance(message, Answer):
                    self._answered(message)
                else:
                    self._changed(message)
            if self.sock is not sock:
                return  # a callee closed it

    def _changed(self, message: LinkMessage) -> None:
        state = message.state
        if self._asked.get(message.sequence) == state.name:
            del self._asked[message.sequence]
        former = self._names.get(state.index)
        if former is not None and (message.deleted or former != state.name):
            del self._names[state.index]
            self._tell(former, None)
        if state.name not in self._followers:
            return
        if not message.deleted:
            self._names[state.index] = state.name
            self._tell(state.name, state)
        elif former != state.name:
            self._tell(state.name, None)

    def _tell(self, name: str, state: LinkState | None) -> None:
        for told in list(self._followers.get(name, ())):
            told(state)

    def _answered(self, answer: Answer) -> None:
        name = self._asked.pop(answer.sequence, None)
        if name is not None and answer.error:
            self._tell(name, None)
        done = self._setting.pop(answer.sequence, None)
        if done is not None:
            done(answer.error)
            self._close_unused()

    def _lost(self) -> None:
        """Changes or answers were lost: ask for all states anew. What was set is taken for done, since the states show
        whether it was."""
        setting, self._setting = self._setting, {}
        for done in setting.values():
            done(0)
        self._asked.clear()
        for name in list(self._followers):
            self._ask(name)
        self._close_unused()


def open_route_socket() -> socket.socket:
    """A netlink socket of this network namespace that gets every change of an interface."""
    sock = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        socket.NETLINK_ROUTE,
    )
    try:
        sock.bind((0, RTMGRP_LINK))
    except OSError:
        sock.close()
        raise
    return sock


def interface_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
