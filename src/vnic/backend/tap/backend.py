"""tap: a network interface of this host (QEMU's net/tap.c). The NIC receives the frames that the host sends through it.

The registry makes it. There is one descriptor for each queue. Frames carry a virtio_net_hdr if the kernel supports it,
so that checksums and segmentation need not be done between guest and kernel.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vnic.backend.base import Backend, BackendContext, log
from vnic.backend.interface_watch import interface_exists
from vnic.backend.options import TapOptions
from vnic.backend.tap.device import open_tap, probe_tap, set_up_queue
from vnic.backend.tap.link import TapLink
from vnic.backend.tap.queue import TapLender, TapQueue
from vnic.backend.tap.record import TapRecord
from vnic.backend.tap.script import run_down_script, script_failure, start_script
from vnic.children import Adopted, Child
from vnic.descriptors import close_fds
from vnic.net.errors import NetError
from vnic.net.lending import LentEnd
from vnic.net.queue import Frame
from vnic.record import require
from vnic.sockets.take_up import TakeUp

MAX_TAP_QUEUES = 1024


class TapFds(NamedTuple):
    """The descriptors of a TapBackend."""

    queues: list[int]
    script: int | None
    """The pidfd of the network script, while it runs."""


class TapBackend(Backend):
    """One tap netdev."""

    kept_type = TapRecord, TapFds

    def __init__(self, context: BackendContext, options: TapOptions) -> None:
        super().__init__(context)
        self._options = options
        if options.fd is not None:
            _only_with(options, _OWN_DEVICE | {"helper", "queues", "fds", "vhostfds"}, _WITH_FD)
        elif options.fds is not None:
            _only_with(options, _OWN_DEVICE | {"helper", "queues", "vhostfd"}, _WITH_FDS)
            self.queues = len(_split_fds(options.fds))
            if not self.queues:
                raise NetError("no fds passed")
        elif options.helper is not None or options.br is not None:
            raise NetError("Parameters 'br' and 'helper' of tap are not built in: use -netdev bridge")
        else:
            self.queues = 1 if options.queues is None else options.queues
            if not 1 <= self.queues <= MAX_TAP_QUEUES:  # QEMU fails an assertion at 0
                raise NetError(f"Parameter 'queues' expects a number from 1 to {MAX_TAP_QUEUES}")
        self.wants_offload = False
        self.ifname = ""
        self._queues: list[TapQueue] = []
        self._lender: TapLender | None = None
        self._info = ""
        self._script: Child | Adopted | None = None
        self._down_script: str | None = None
        self._comes_back = False
        """Whether an interface with the same name is used again after this one was deleted."""
        self._unwatch: Callable[[], None] | None = None
        """Ends the wait for a deleted interface."""
        self._link: TapLink | None = None
        self._refusal = ""
        """Why the interface could not be opened again."""

    # -- opening ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        options = self._options
        names = [options.fd] if options.fd is not None else _split_fds(options.fds or "")
        of_vhost = [options.vhostfd] if options.vhostfd is not None else _split_fds(options.vhostfds or "")
        passed = self._passed_fds([*names, *of_vhost])
        try:
            self._begin(passed[: len(names)])
        except BaseException:
            close_fds(passed[len(names) :])
            raise
        self.open_vhost(passed[len(names) :])

    def open_vhost(self, passed: list[int]) -> None:
        """The tap is open: `passed` are descriptors of vhost-net, which become its own. Raises NetError."""

    def _begin(self, fds: list[int]) -> None:
        options = self._options
        if fds:
            self._adopt(fds)
        else:
            self._open(options.ifname, options.vnet_hdr)
            self._comes_back = True
            script, down_script = options.script or "no", options.downscript or "no"
            self._info = f"ifname={self.ifname},script={script},downscript={down_script}"
            self._down_script = None if down_script == "no" else down_script
            self._run_script()

    def _passed_fds(self, names: list[str]) -> list[int]:
        taken: list[int] = []
        try:
            taken.extend(map(self.context.fds.take, names))
        except NetError as error:
            close_fds(taken)
            prefix = f"{self.name}: " if error.desc.startswith("Can't") else ""
            raise NetError(f"{prefix}{error.desc}") from None
        return taken

    def _open(self, ifname: str | None, vnet_hdr: bool | None) -> None:
        """Create the interface, or open it if it exists."""
        for _ in range(self.queues):
            fd, self.ifname, has_header = open_tap(
                self.ifname or ifname, vnet_hdr=vnet_hdr, multi_queue=self.queues > 1
            )
            self._add_queue(fd, has_header)
        self._follow_link()

    def _adopt(self, fds: list[int]) -> None:
        """Take over descriptors that another program has opened."""
        pending = list(fds)
        try:
            for fd in fds:
                self.ifname, has_header = probe_tap(fd)
                if self._queues and has_header != self.wants_offload:
                    raise NetError("vnet_hdr not consistent across given tap fds")
                pending.remove(fd)
                self._add_queue(fd, has_header)
        except BaseException:
            close_fds(pending)
            raise
        self._follow_link()

    def _follow_link(self) -> None:
        self._lender = TapLender(tuple(self._queues), self.wants_offload, self.lender_returned)
        self._link = TapLink(self.client, self.context.interfaces, self.ifname, self._queues[0].fd)
        self.client.network.links.shown_on(self.client, self.ifname)
        self._link.show()

    def _add_queue(self, fd: int, vnet_hdr: bool) -> None:
        queue = TapQueue(self, len(self._queues), fd, vnet_hdr)
        self._queues.append(queue)  # from here on cleanup closes it
        set_up_queue(fd, vnet_hdr=vnet_hdr, sndbuf=self._options.sndbuf)
        self.wants_offload = vnet_hdr
        queue.start()

    # -- state apart from the descriptors -----------------------------------------------------------------------

    def save(self) -> TapRecord:
        return TapRecord(
            ifname=self.ifname,
            vnet_hdr=self.wants_offload,
            info=self._info,
            comes_back=self._comes_back,
            script_running=self._script is not None,
            carrier=None if self._link is None else self._link.carrier,
            queues=[queue.save() for queue in self._queues],
        )

    @property
    def handles(self) -> list[int]:
        """The descriptors of the queues, which belong to the record."""
        return [queue.fd for queue in self._queues]

    def save_kept(self) -> tuple[TapRecord, TapFds]:
        return self.save(), TapFds(self.handles, None if self._script is None else self._script.pidfd)

    def take_up(self, record: TapRecord, handles: TapFds) -> None:
        with TakeUp(handles):
            if handles.script is not None:
                require(record.script_running, "script_running", "is false, and a pidfd was passed")
            self.restore(record, handles.queues, handles.script)

    def restore(self, record: TapRecord, fds: Sequence[int], script: int | None = None) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`, and needs no `preparation`.
        `script` is the pidfd of a script that was running: its exit status cannot be seen any more, and without a pidfd
        its end cannot be either, so that the wire waits for it no longer. Raises RecordError, and leaves the
        descriptors to the caller then."""
        record.check(self.queues, len(fds))
        self.ifname, self.wants_offload, self._info = record.ifname, record.vnet_hdr, record.info
        self._comes_back = record.comes_back
        self._down_script = self._options.downscript if self._options.downscript != "no" else None
        for fd, each in zip(fds, record.queues, strict=True):
            queue = TapQueue(self, len(self._queues), fd, record.vnet_hdr)
            self._queues.append(queue)
            queue.restore(each)
        if fds:
            self._lender = TapLender(tuple(self._queues), record.vnet_hdr, self.lender_returned)
            self._link = TapLink(self.client, self.context.interfaces, self.ifname, fds[0], record.carrier)
            self.client.network.links.shown_on(self.client, self.ifname)
            self.loop.call_soon(self._show_again, self._link)
        elif self._comes_back:
            self._watch_for_return()
        if script is not None:
            self._wait_for_script(Adopted(self.loop, script), self._options.script or "no")
        elif record.script_running:
            text = "the network script was started before the restart"
            self.loop.call_soon(self.release_disconnected, text)

    def _show_again(self, link: TapLink) -> None:
        if self._link is link:
            link.show_again()

    # -- scripts ------------------------------------------------------------------------------------------------

    def _run_script(self) -> bool:
        """Run the script beside the loop; the wire waits for it. False: there is no script."""
        path = self._options.script or "no"
        if path == "no":
            return False
        self.hold_disconnected(f"network script {path} {self.ifname} is running")
        self._wait_for_script(
            start_script(self.loop, path, self.ifname, outlives=self.context.keep.active), path
        )
        return True

    def _wait_for_script(self, script: Child | Adopted, path: str) -> None:
        self._script = script
        script.ended.add_done_callback(functools.partial(self._script_ended, script, path))
        self.moved()

    def _script_ended(self, script: Child | Adopted, path: str, ended: asyncio.Future[int | None]) -> None:
        if self._script is not script:
            return  # the netdev was deleted meanwhile, or its interface
        self._script = None
        self.moved()
        failure = script_failure(path, ended.result() or 0)
        if failure is None:
            self.release_disconnected("the network script is through")
        else:
            self.hold_disconnected(failure)
            log.warning("netdev %s: %s", self.name, failure)

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def link_status_changed(self) -> None:
        if self._link is not None:
            self._link.show()
            self.kept.changed()

    def peer_changed(self) -> None:
        self.link_status_changed()

    def guest_changed(self) -> None:
        self.link_status_changed()

    def shows_down(self) -> bool:
        return self._link is not None and self._link.shows_down

    def peer_queue(self, index: int) -> int:
        """The queue of the peer that serves frames from our queue `index`.

        The kernel spreads flows over all queues, including those that the guest does not use (or the NIC does not
        have).
        """
        peer = self.client.peer
        if index == 0 or peer is None:
            return 0
        active: int = getattr(peer.endpoint, "active_pairs", peer.queues)
        return index % max(1, min(active, peer.queues))

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return queue >= len(self._queues) or self._queues[queue].write(frame, offload)

    def sent(self, queue: int) -> None:
        for each in self._queues:
            each.resume(queue)

    def wire_end(self) -> LentEnd | str:
        return self._lender or f"interface {self.ifname} is gone"

    def lender_returned(self) -> None:
        """vnic-wire has given the interface back."""

    def info_text(self, queue: int) -> str:
        if self._info or queue >= len(self._queues):
            return self._info
        return f"fd={self._queues[queue].fd}"

    def died(self, error: OSError) -> None:
        """The interface was deleted on the host."""
        if not self._queues:
            return
        self._close_queues()
        if self._script is not None:
            self._script.end()
            self._script = None
        text = f"interface {self.ifname} is gone ({error.strerror})"
        log.warning("netdev %s: %s", self.name, text)
        if self._comes_back:
            text += self._watch_for_return()
        self.hold_disconnected(text)

    def _watch_for_return(self) -> str:
        """Wait for an interface of that name; returns the text for the hold."""
        try:
            self._unwatch = self.context.interfaces.subscribe(self.ifname, self._look_for_interface)
        except OSError as problem:
            return f"; its return cannot be seen: {problem.strerror}"
        return "; waiting for one of that name"

    def _look_for_interface(self) -> None:
        """An interface of this host changed: check whether ours exists again."""
        if not interface_exists(self.ifname):
            self._refusal = ""
            return
        try:
            self._open(self.ifname, self._options.vnet_hdr)
            scripted = self._run_script()
        except NetError as error:
            self._close_queues()
            if error.desc != self._refusal:  # an interface in use changes often
                self._refusal = error.desc
                log.warning("netdev %s: interface %s is back: %s", self.name, self.ifname, error.desc)
                self.hold_disconnected(f"interface {self.ifname} is back: {error.desc}")
            return
        self._stop_watching()
        self.moved()
        if not scripted:
            self.release_disconnected(f"interface {self.ifname} is back")

    def _stop_watching(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _close_queues(self) -> None:
        if not self._info and self._queues:
            self._info = f"fd={self._queues[0].fd}"
        self._forget_link()
        for queue in self._queues:
            queue.stop()
        self._queues.clear()
        self._lender = None
        self.moved()

    def _forget_link(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            link.close()

    def cleanup(self) -> None:
        self._stop_watching()
        script, self._script = self._script, None
        if script is not None:
            script.end()
        if script is None and self._down_script is None:
            self._close_queues()
            return
        self._forget_link()
        fds = [fd for fd in (queue.detach() for queue in self._queues) if fd >= 0]
        self._queues.clear()
        self.context.leave(self.name, self._leave(script, fds))

    async def _leave(self, script: Child | Adopted | None, fds: list[int]) -> None:
        """Run the `downscript` after the script has ended, and while the interface still exists."""
        try:
            if script is not None:
                await script.wait()
            if self._down_script is not None and fds:
                outlives = self.context.keep.active
                failure = await run_down_script(self.loop, self._down_script, self.ifname, outlives=outlives)
                if failure is not None:
                    log.warning("netdev %s: %s", self.name, failure)
        finally:
            for fd in fds:
                os.close(fd)


_OWN_DEVICE = {"ifname", "script", "downscript", "vnet_hdr"}
_WITH_FD = (
    "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd="
)
_WITH_FDS = "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds="


def _only_with(options: TapOptions, excluded: set[str], text: str) -> None:
    if any(getattr(options, name) is not None for name in excluded):
        raise NetError(text)


def _split_fds(text: str) -> list[str]:
    """Split `3:4:5` (get_fds). QEMU stops at its maximum; an empty list has no member."""
    return text.split(":", MAX_TAP_QUEUES)[:MAX_TAP_QUEUES] if text else []
