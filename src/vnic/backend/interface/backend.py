"""interface: a NIC on an existing interface: a container's veth, a VLAN, a physical port. The registry makes it.

A packet socket is beside the host on the interface: the guest hears and speaks to whatever is at its other end. The
interface may be in another network namespace.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from vnic.backend.base import Backend, BackendContext, log
from vnic.backend.interface import packet
from vnic.backend.interface.link import InterfaceLink
from vnic.backend.interface.namespace import Ending, Namespace, open_in
from vnic.backend.interface.queue import PacketLender, PacketQueue
from vnic.backend.interface.record import InterfaceRecord
from vnic.backend.interface_watch import InterfaceWatch
from vnic.backend.options import InterfaceOptions
from vnic.backend.rtnetlink import ARPHRD_ETHER, LinkState, is_interface_name
from vnic.net.errors import NetError
from vnic.net.lending import LentEnd
from vnic.net.queue import Frame
from vnic.record import require
from vnic.sockets.take_up import TakeUp, fileno

ARPHRD_LOOPBACK: Final = 772
"""Its frames have Ethernet headers, too."""
ANSWER_LIMIT_S: Final = 5.0
"""The time in which the kernel has to describe the interface. Only the client that adds the netdev waits."""


class InterfaceHandles(NamedTuple):
    """What belongs to the record."""

    packet: socket.socket | None
    """None: the namespace is gone."""
    route: socket.socket | None
    """The netlink socket of another namespace."""
    ending: int
    """A descriptor that tells of its end, or -1."""


class InterfaceFds(NamedTuple):
    """The descriptors of InterfaceHandles."""

    packet: int | None
    route: int | None
    ending: int | None


class InterfaceBackend(Backend):
    """One interface netdev."""

    kept_type = InterfaceRecord, InterfaceFds

    def __init__(self, context: BackendContext, options: InterfaceOptions) -> None:
        super().__init__(context)
        self.ifname = options.ifname
        if not is_interface_name(options.ifname):
            raise NetError(f"Parameter 'ifname' expects the name of an interface: '{options.ifname[:80]}'")
        self._propagate = options.propagate
        self._namespace = None if options.netns is None else Namespace.parse(options.netns)
        self._place = "" if options.netns is None else f" of network namespace {options.netns}"
        self._info = f"ifname={options.ifname}" + ("" if options.netns is None else f",netns={options.netns}")
        self.wants_offload = False
        self._watch: InterfaceWatch | None = None
        self._unfollow: Callable[[], None] | None = None
        self._first: asyncio.Future[None] | None = None
        """Done with the kernel's first report, for which `preparation` waits."""
        self._latest: LinkState | None = None
        self._ending: Ending | None = None
        self._queue: PacketQueue | None = None
        """None: it is not open, or the namespace is gone."""
        self._lender: PacketLender | None = None
        self._link: InterfaceLink | None = None
        self._bound = 0
        """The index of the interface that the socket is bound to; 0: none."""

    # -- opening ------------------------------------------------------------------------------------------------

    def preparation(self) -> Coroutine[Any, Any, None]:
        """Open the sockets, in a child process if the interface is in another namespace, and ask for the interface."""
        return self._open()

    async def _open(self) -> None:
        try:
            sock = await self._open_sockets()
            self._add_queue(sock)
            self._bind(await self._ask_kernel())
            if self._propagate:
                await self._check_right()
            self._make_link(self._existing(), set_down=False)
        except BaseException as error:
            self._close_sockets()
            if isinstance(error, OSError):
                raise NetError(f"interface {self.ifname}{self._place}: {error.strerror}") from None
            raise

    async def _open_sockets(self) -> socket.socket:
        if self._namespace is not None:
            opened = await open_in(self.loop, self._namespace)
            self._watch = InterfaceWatch(self.loop, opened.route)
            self._follow_namespace(opened.ending)
            return opened.packet
        self._watch = self.context.interfaces
        try:
            return packet.open_packet_socket()
        except PermissionError as error:
            raise NetError(
                f"interface {self.ifname}: CAP_NET_RAW is needed for a packet socket ({error.strerror})"
            ) from None

    def _follow_namespace(self, ending: int) -> None:
        assert self._namespace is not None
        self._ending = Ending(self.loop, self._namespace, ending, self._namespace_gone)

    def _add_queue(self, sock: socket.socket, vnet_hdr: bool | None = None) -> PacketQueue:
        try:
            header = packet.set_up(sock) if vnet_hdr is None else vnet_hdr
        except OSError:
            sock.close()
            raise
        self.wants_offload = header
        self._queue = PacketQueue(self.loop, sock, header)
        self._lender = PacketLender(self._queue)
        return self._queue

    async def _ask_kernel(self) -> LinkState:
        assert self._watch is not None
        first = self._first = self.loop.create_future()
        self._unfollow = self._watch.follow(self.ifname, self._told)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await first
        except TimeoutError:
            raise NetError(
                f"interface {self.ifname}{self._place}: the kernel gave no answer within {ANSWER_LIMIT_S:g} s"
            ) from None
        finally:
            self._first = None
        return self._existing()

    def _existing(self) -> LinkState:
        if self._latest is None:
            raise NetError(f"interface {self.ifname}{self._place}: no such interface")
        return self._latest

    async def _check_right(self) -> None:
        """The right to set the interface up and down is needed later, when nobody can be told of an error."""
        assert self._watch is not None
        error = await self._watch.was_set_up(self._bound, None)
        if error in (errno.EPERM, errno.EACCES):
            raise NetError(
                f"interface {self.ifname}{self._place}: CAP_NET_ADMIN is needed for propagate=on"
                f" ({os.strerror(error)})"
            )

    def _bind(self, state: LinkState) -> None:
        """Have the socket receive from the interface. NetError or OSError if it cannot."""
        if state.hardware not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            raise NetError(
                f"interface {self.ifname}{self._place}: it carries no Ethernet frames (hardware type {state.hardware})"
            )
        assert self._queue is not None
        packet.bind(self._queue.sock, state.name, state.index)
        self._bound = state.index
        self.moved()

    def _make_link(self, state: LinkState | None, *, set_down: bool) -> InterfaceLink:
        assert self._watch is not None
        self._link = InterfaceLink(
            self._watch,
            state,
            propagate=self._propagate,
            set_down=set_down,
            index=self._bound,
            place=self._place,
            remedy=(lambda words: f"ip {words}") if self._namespace is None else self._namespace.command,
            changed=self.moved,
            soon=self.loop.call_soon if self.context.keep.active else lambda call: call(),
        )
        return self._link

    def start(self) -> None:
        assert self._queue is not None
        assert self._link is not None
        self._queue.client = self._link.client = self.client
        self._queue.start()
        self._show_link()
        self._link.update()

    def _show_link(self) -> None:
        assert self._queue is not None
        if self._propagate and (self._namespace is None or packet.is_of_this_namespace(self._queue.sock)):
            self.client.network.links.shown_on(self.client, self.ifname)

    # -- state apart from the sockets ---------------------------------------------------------------------------

    def save(self) -> InterfaceRecord:
        queue = self._queue
        return InterfaceRecord(
            vnet_hdr=self.wants_offload,
            index=self._bound,
            set_down=self._link is not None and self._link.owes,
            namespace_gone=queue is None,
            paused_for=None if queue is None else queue.paused_for,
            sender_waits=queue is not None and queue.sender_waits,
        )

    @property
    def handles(self) -> InterfaceHandles:
        """The sockets, which belong to the record."""
        queue, watch = self._queue, self._watch if self._namespace is not None else None
        if queue is None:
            return InterfaceHandles(None, None, -1)
        ending = -1 if self._ending is None else self._ending.fd
        return InterfaceHandles(queue.sock, None if watch is None else watch.sock, ending)

    def save_kept(self) -> tuple[InterfaceRecord, InterfaceFds]:
        packet, route, ending = self.handles
        fds = InterfaceFds(fileno(packet), fileno(route), None if ending < 0 else ending)
        return self.save(), fds

    def take_up(self, record: InterfaceRecord, handles: InterfaceFds) -> None:
        with TakeUp(handles) as taking:
            packet, route = taking.socket(handles.packet), taking.socket(handles.route)
            ending = -1 if handles.ending is None else handles.ending
            self.restore(record, InterfaceHandles(packet, route, ending))

    def restore(self, record: InterfaceRecord, handles: InterfaceHandles) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`, and needs no `preparation`. The
        kernel is asked for the interface's state. Raises RecordError, and leaves the handles to the caller then."""
        require(
            record.namespace_gone is (handles.packet is None),
            "namespace_gone",
            "does not go with the sockets",
        )
        if handles.packet is None:
            require(self._namespace, "namespace_gone", "in vnic's own namespace")
            return
        require((handles.route is None) is (self._namespace is None), "", "the netlink socket is missing")
        self._queue = queue = PacketQueue(self.loop, handles.packet, record.vnet_hdr)
        self._lender = PacketLender(queue)
        self.wants_offload = record.vnet_hdr
        if handles.route is None:
            self._watch = self.context.interfaces
        else:
            self._watch = InterfaceWatch(self.loop, handles.route)
            self._follow_namespace(handles.ending)
        self._bound = record.index
        link = self._make_link(None, set_down=record.set_down)
        queue.client = link.client = self.client
        queue.restore(record.paused_for, record.sender_waits)
        self._show_link()
        self._unfollow = self._watch.follow(self.ifname, self._told)

    # -- the interface ------------------------------------------------------------------------------------------

    def _told(self, state: LinkState | None) -> None:
        """The kernel reported the interface; None: it is gone."""
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        self._latest = state
        link, queue = self._link, self._queue
        if link is None or queue is None:
            return
        if state is None:
            self._interface_gone(link, queue)
        elif state.index == self._bound or self._bind_again(link, queue, state):
            link.told(state)

    def _interface_gone(self, link: InterfaceLink, queue: PacketQueue) -> None:
        if self._bound:
            log.warning("netdev %s: interface %s%s is gone", self.name, self.ifname, self._place)
            self._bound = 0
            self.moved()
            queue.pause()
        link.gone(f"interface {self.ifname}{self._place} is gone; waiting for one of that name")

    def _bind_again(self, link: InterfaceLink, queue: PacketQueue, state: LinkState) -> bool:
        try:
            self._bind(state)
        except (NetError, OSError) as error:
            desc = error.desc if isinstance(error, NetError) else error.strerror
            link.gone(f"interface {self.ifname}{self._place} is back: {desc}")
            return False
        queue.start()
        return True

    def _namespace_gone(self) -> None:
        """Close the sockets, which keep the namespace and its interfaces alive."""
        assert self._namespace is not None
        text = f"network namespace {self._namespace.given} is gone"
        log.warning("netdev %s: %s", self.name, text)
        link, self._link = self._link, None
        self._close_sockets()
        self._bound = 0
        self.moved()
        if link is not None:
            link.set_down = False  # there is nothing left to set up
            link.gone(f"{text}: delete the netdev and add it again")

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def link_status_changed(self) -> None:
        if self._link is not None:
            self._link.update()

    def peer_changed(self) -> None:
        self.link_status_changed()

    def guest_changed(self) -> None:
        self.link_status_changed()

    def shows_down(self) -> bool:
        return self._link is not None and self._link.owes

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self._queue is None or self._queue.write(frame, offload)

    def sent(self, queue: int) -> None:
        if self._queue is not None:
            self._queue.resume(queue)

    def wire_end(self) -> LentEnd | str:
        if self._lender is None or not self._bound:
            return f"interface {self.ifname}{self._place} is gone"
        return self._lender

    def info_text(self, queue: int) -> str:
        return self._info

    # -- the end ------------------------------------------------------------------------------------------------

    def _close_sockets(self) -> None:
        self._close_data()
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        if self._namespace is not None and self._watch is not None:
            self._watch.close()

    def _close_data(self) -> None:
        if self._ending is not None:
            self._ending.close()
        if self._queue is not None:
            self._queue.close()
            self._queue = self._lender = None

    def cleanup(self) -> None:
        link, self._link = self._link, None
        if link is None or not link.owes:
            self._close_sockets()
        else:
            self._close_data()
            self.context.leave(self.name, self._leave(link.restore_interface()))

    async def _leave(self, restored: Coroutine[Any, Any, None]) -> None:
        """Set the interface as it was found, before the netlink socket is closed."""
        try:
            await restored
        finally:
            self._close_sockets()
