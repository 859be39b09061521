"""The link of an interface netdev, in both directions; `interface.backend` makes one.

The state of the interface sets the hold `uplink`. With `propagate=on` the interface is set down while the wire is held
for any other reason, or the NIC has no VM, so that whoever is plugged into the other end of a veth sees NO-CARRIER.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from vnic.backend.base import log
from vnic.backend.far_side import has_link
from vnic.backend.interface_watch import InterfaceWatch
from vnic.backend.rtnetlink import LinkState
from vnic.net.client import NetClient
from vnic.net.records import HoldKind

CONTESTS_MAX: Final = 5
"""How often the interface is set down again while another program sets it up. Then it stays up, so that the two do not
go on for ever."""


class InterfaceLink:
    """What vnic knows of the interface, what it asks of it, and the hold `uplink`.

    An interface that vnic itself has set down is no reason for the hold: the wire would wait for the interface, and the
    interface for the wire. Then the hold stays as it was, until the interface is up again and shows its state.
    """

    def __init__(
        self,
        watch: InterfaceWatch,
        state: LinkState | None,
        *,
        propagate: bool,
        set_down: bool,
        place: str,
        remedy: Callable[[str], str],
        index: int = 0,
        changed: Callable[[], None] = lambda: None,
        soon: Callable[[Callable[[], None]], object] = lambda call: call(),
    ) -> None:
        """`state` is the present one, None if it is not known yet or there is no interface. `set_down`: vnic has set
        the interface down already; `index` is that of the interface. `place` follows its name in texts, and `remedy`
        makes an `ip` command. `changed` is called when vnic has set the interface, or is about to; it does so by
        `soon`, when that is kept."""
        self.client: NetClient
        """Set before `update`."""
        self._watch = watch
        self._propagate = propagate
        self._place = place
        self._remedy = remedy
        self._index = index
        self._changed = changed
        self._soon = soon
        self.state = state
        self.set_down = set_down
        """vnic has set the interface down, and is to set it up again."""
        self._asked: bool | None = None
        """A request is under way, to set the interface up or down."""
        self._idle: asyncio.Event | None = None
        """Set when no request is under way; only for `restore_interface`."""
        self._refused = False
        """The kernel refused the last request: no other follows until the wire has changed."""
        self._contests = 0
        self._wanted_up: bool | None = None
        self._owed = self.owes
        """What the followers of the interface were told."""

    # -- events -------------------------------------------------------------------------------------------------

    def told(self, state: LinkState) -> None:
        """The kernel reported the interface's state."""
        self.state = state
        self.update()

    def gone(self, text: str) -> None:
        """The interface, or its namespace, is gone; `text` is for the hold."""
        if self.set_down and self.state is not None:  # it may live on under another name
            self._watch.set_up(self.state.index, True, lambda error: None)
        self.state, self.set_down = None, False
        self._hold(text)
        self.update()

    def update(self) -> None:
        """The state of the wire, of the VM or of the interface may have changed."""
        self._update()
        self._changed()
        if self.owes is not self._owed:
            self._owed = self.owes
            self.client.network.links.shown_changed(self.client)

    def _update(self) -> None:
        state = self.state
        if state is None or self._asked is not None:
            return
        if self._propagate:
            self._follow_wire(state)
        if not self.set_down and self._asked is None:
            self._show(state)

    # -- the interface follows the wire -------------------------------------------------------------------------

    def _follow_wire(self, state: LinkState) -> None:
        wanted_up = has_link(self.client, ignoring=HoldKind.UPLINK)
        if wanted_up is not self._wanted_up:
            self._wanted_up, self._refused, self._contests = wanted_up, False, 0
        if self._refused:
            return
        if wanted_up:
            if self.set_down and not state.is_set_up:
                self._ask(state, up=True)
            elif self.set_down:
                self.set_down = False  # another program was faster
        elif state.is_set_up:
            if self.set_down:
                self._contests += 1
            if self._contests < CONTESTS_MAX:
                self._show(state)  # the last that is seen of it
                self._ask(state, up=False)
            elif self.set_down:
                self.set_down = False
                log.warning(
                    "netdev %s: another program sets interface %s up again and again: it stays up",
                    self.client.name,
                    state.name,
                )

    def _ask(self, state: LinkState, *, up: bool) -> None:
        self._asked = up
        self._changed()
        answered = functools.partial(self._answered, state, up)
        self._soon(functools.partial(self._watch.set_up, state.index, up, answered))

    def _answered(self, asked: LinkState, up: bool, error: int) -> None:
        self._asked = None
        if self.state is None or self.state.index != asked.index:
            pass  # it is gone, and another one may be in its place
        elif not error:
            self.set_down = not up
        elif error not in (errno.ENODEV, errno.ECANCELED):
            self._refused = True
            word = "up" if up else "down"
            reason = os.strerror(error)
            log.warning(
                "netdev %s: cannot set interface %s %s: %s", self.client.name, asked.name, word, reason
            )
        if self._idle is not None:
            self._idle.set()
        else:
            self.update()

    # -- the wire follows the interface -------------------------------------------------------------------------

    def _show(self, state: LinkState) -> None:
        trouble = state.trouble
        if not trouble:
            self.client.release(HoldKind.UPLINK, self.client.name, self._text(state, "up"))
        elif trouble == "down" and not state.is_set_up:
            self._hold(f"{self._text(state, trouble)} ({self._remedy(f'link set {state.name} up')})")
        else:
            self._hold(self._text(state, trouble))

    def _text(self, state: LinkState, word: str) -> str:
        return f"interface {state.name}{self._place} is {word}"

    def _hold(self, text: str) -> None:
        there = self.client.holds.get(HoldKind.UPLINK)
        if there is None or there.text != text:
            self.client.hold(HoldKind.UPLINK, self.client.name, text)

    # -- the end ------------------------------------------------------------------------------------------------

    @property
    def owes(self) -> bool:
        """Whether vnic has the interface down, and is to set it up before the netdev is gone."""
        return self.set_down or self._asked is not None

    def restore_interface(self) -> Coroutine[Any, Any, None]:
        """Set the interface as it was found. From this call on, before the result runs, the wire is not followed any
        more, and nothing else may be called."""
        self._idle = asyncio.Event()
        return self._restore_interface(self._idle)

    async def _restore_interface(self, idle: asyncio.Event) -> None:
        if self._asked is not None:
            await idle.wait()
        index = self._index if self.state is None else self.state.index
        if self.set_down and index:
            await self._watch.was_set_up(index, True)
