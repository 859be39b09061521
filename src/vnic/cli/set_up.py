"""SetUp: what the options of `vnic run` ask of a machine and its monitors, carried out in QEMU's order.

At a first start that is all of it. A process that takes another's place has all of that one's already: it carries out
the difference between the two command lines, as a monitor's client would.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import msgspec

from vnic.backend.items import ITEM, Kind, key_of
from vnic.chardev.options import NullOptions, SocketOptions
from vnic.cli.run_options import MonitorSetting, OptionError, RunOptions, Setting
from vnic.cli.suggest import suggestion
from vnic.machine import Machine
from vnic.machine.nics import unknown_property
from vnic.monitor.interfaces import Later
from vnic.monitor.schema import compile_shape, device_options, netdev_options, object_options
from vnic.monitor.schema.convert import Visit
from vnic.monitor.schema.shapes import Union
from vnic.monitor.server import Mode, Monitors
from vnic.net.errors import NetError
from vnic.net.names import check_identifier
from vnic.net.records import VNIC
from vnic.sockets.address import InetAddress, UnixAddress
from vnic.sockets.resolve import resolve_all
from vnic.sockets.rundir import SOCKET_SUFFIX, Claim

log = logging.getLogger(__name__)

DEFAULT_MONITOR = "qmp"
"""The chardev id of the QMP socket that is made without `-qmp`."""

DELETED_TIMEOUT_S = 10.0
"""How long a NIC that is no longer on the command line may take to part from its VM."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the option before the text of its error."""
    try:
        yield
    except NetError as refused:
        hint = f". {refused.hint}" if refused.hint else ""
        raise OptionError(where, refused.desc + hint) from None


class SetUp:
    """One command line, and the machine that it is for."""

    def __init__(
        self, machine: Machine, monitors: Monitors, options: RunOptions, claim: Claim | None
    ) -> None:
        """`claim`: the name under which a QMP socket is to be found; None: no."""
        self._claim = claim
        self._machine = machine
        self._monitors = monitors
        self._options = options
        self._of_monitors = {monitor.chardev for monitor in options.monitors}
        self._visits: dict[tuple[str, bool], Visit] = {}
        """By kind of setting and whether leaves are strings: to make one takes longer than a NIC does."""

    async def create(self) -> None:
        """Create all that the options name, but the monitors. Raises OptionError."""
        for kind, settings in self._settings():
            for setting in settings:
                await self._create(kind, setting)

    async def open_monitors(self) -> None:
        """Open those that the options name. Raises OptionError."""
        for monitor in self._options.monitors:
            await self._open_monitor(monitor)
        self._open_default_monitor()

    def texts(self) -> list[str]:
        """All settings in the form in which they are recorded, and compared with those of another process."""
        found = [text_of(kind, each) for kind, settings in self._settings() for each in settings]
        return found + [_monitor_text(each) for each in self._options.monitors]

    def _settings(self) -> tuple[tuple[Kind, Sequence[Setting]], ...]:
        options = self._options
        return (
            (Kind.CHARDEV, options.chardevs),
            (Kind.NETDEV, options.netdevs),
            (Kind.OBJECT, options.objects),
            (Kind.DEVICE, options.devices),
        )

    # -- one setting ------------------------------------------------------------------------------------------------

    async def _create(self, kind: Kind, setting: Setting) -> None:
        self._machine.items.setting = text_of(kind, setting)
        try:
            with naming(setting.where):
                later = self._created(kind, setting)
                if later is not None:
                    await later
        finally:
            self._machine.items.setting = None

    def _created(self, kind: Kind, setting: Setting) -> Later:
        machine = self._machine
        if kind is Kind.CHARDEV:
            if self._options.daemonize and setting.tree.get("backend") == "stdio":
                raise NetError("cannot use stdio with -daemonize")
            listens = setting.tree.get("id") not in self._of_monitors
            machine.chardev_add_flat(setting.tree, listens=listens)
            return None
        if not setting.typed and isinstance(name := setting.tree.get("id"), str):
            check_identifier(name)  # before all else, as QEMU's option strings; JSON's is for `add` to check
        shape = self._shape(kind)
        visit = self._visits.get((kind, setting.typed))
        if visit is None:
            visit = self._visits[kind, setting.typed] = compile_shape(shape, not setting.typed)
        try:
            options = cast(msgspec.Struct, visit(setting.tree, ""))
        except NetError as refused:
            refused.desc += suggestion(refused.desc, shape, setting.tree)
            raise
        adds: dict[Kind, Callable[[msgspec.Struct], Later]] = {
            Kind.NETDEV: machine.netdev_add,
            Kind.OBJECT: machine.object_add,
            Kind.DEVICE: machine.device_add,
        }
        return adds[kind](options)

    def _shape(self, kind: Kind) -> Union:
        machine = self._machine
        if kind is Kind.NETDEV:
            return netdev_options(machine.netdev_types)
        if kind is Kind.OBJECT:
            return object_options(machine.object_types)
        return dataclasses.replace(
            device_options(machine.device_types, machine.devices_not_built),
            lenient=False,
            unexpected=unknown_property,
        )

    async def _open_monitor(self, monitor: MonitorSetting) -> None:
        with naming(monitor.where):
            wanted = self._machine.chardev_set.find(monitor.chardev).options
            targets = None
            if isinstance(wanted, SocketOptions) and isinstance(wanted.addr, InetAddress):
                loop = asyncio.get_running_loop()
                targets = await resolve_all(loop, wanted.addr, passive=wanted.server)
            chardev = self._machine.chardev_set.find(monitor.chardev)
            chardev.claim("a monitor")
            if isinstance(chardev.options, NullOptions):
                return  # its client never comes
            self._monitors.add(
                chardev.monitor_options,
                Mode(monitor.mode),
                monitor.pretty,
                chardev.set_connected,
                targets,
                monitor.policy or self._options.monitor_policy,
            )
            chardev.close_passed()

    def _open_default_monitor(self) -> None:
        """Open a QMP monitor where the verbs look for it."""
        claim = self._claim
        if claim is None:
            return
        path = UnixAddress(path=str(claim.socket_path))
        default = SocketOptions(id=DEFAULT_MONITOR, addr=path, server=True, wait=False)
        with naming(f"-name {claim.socket_path.name.removesuffix(SOCKET_SUFFIX)}"):
            chardev = self._machine.chardev_set.add(default)
            chardev.claim("a monitor")
            self._monitors.add(
                default, Mode.CONTROL, connected=chardev.set_connected, policy=self._options.monitor_policy
            )

    # -- after a restart --------------------------------------------------------------------------------------------

    def open_monitors_again(self, recorded: Sequence[str]) -> None:
        """Open the monitors whose listening sockets the process before left: they have clients in their backlog."""
        for monitor in self._options.monitors:
            if (
                _monitor_text(monitor) in recorded
                and self._monitors.is_inherited(monitor.chardev)
                and monitor.chardev in self._machine.chardev_set
            ):
                chardev = self._machine.chardev_set.find(monitor.chardev)
                chardev.claim("a monitor")
                self._monitors.add(
                    chardev.monitor_options,
                    Mode(monitor.mode),
                    monitor.pretty,
                    chardev.set_connected,
                    (),
                    monitor.policy or self._options.monitor_policy,
                )
        self._open_default_monitor()

    async def difference(self, recorded: Sequence[str]) -> list[str]:
        """Delete what the process before had from its command line and this one has not, and create what is new here.
        What a monitor deleted stays deleted; what has lost its record is new. What is refused is one line in the log.
        Returns the settings that are carried out now."""
        texts = self.texts()
        if lost := set(self._machine.keep.lost()):
            recorded = [each for each in recorded if _item_key(each) not in lost]
            if (closed := self._machine.keep.letting_go()) is not None:
                await closed  # what the lost ones had open: they open the same again
        gone, new = Counter(recorded) - Counter(texts), Counter(texts) - Counter(recorded)
        for kind in (_MONITOR, Kind.DEVICE, Kind.OBJECT, Kind.NETDEV, Kind.CHARDEV):
            for text in [each for each in reversed(recorded) if _kind_of(each) == kind]:
                if gone[text]:
                    gone[text] -= 1
                    await self._tried(text, self._delete(kind, text))
        done = list(texts)
        for kind, settings in self._settings():
            for setting in settings:
                text = text_of(kind, setting)
                if new[text]:
                    new[text] -= 1
                    if not await self._tried(setting.where, self._create(kind, setting)):
                        done.remove(text)
        for monitor in self._options.monitors:
            if not self._monitors.is_open(monitor.chardev):
                await self._tried(monitor.where, self._open_monitor(monitor))
        return done

    async def _tried(self, what: str, step: Coroutine[object, object, None]) -> bool:
        try:
            await step
        except NetError as refused:
            log.error("the command line differs from that of the process before: %s: %s", what, refused.desc)
            return False
        except OptionError as refused:
            log.error("the command line differs from that of the process before: %s", refused)
            return False
        return True

    async def _delete(self, kind: str, text: str) -> None:
        if kind == _MONITOR:
            chardev = json.loads(text)[1]["chardev"]
            self._monitors.remove(chardev)
            self._machine.chardev_set.find(chardev).release()
            return
        name = self._machine.items.made_by(text)
        if name is None:
            return  # a monitor has deleted it
        log.info("%s %s is no longer on the command line", kind, name)
        if kind == Kind.DEVICE:
            await self._delete_device(name)
        elif kind == Kind.OBJECT:
            self._machine.object_del(name, VNIC)
        elif kind == Kind.NETDEV:
            later = self._machine.netdev_del(name, VNIC)
            if later is not None:
                await later
        else:
            self._machine.chardev_remove(name)

    async def _delete_device(self, name: str) -> None:
        gone = asyncio.get_running_loop().create_future()

        def heard(event: str, data: object) -> None:
            if event == "DEVICE_DELETED" and isinstance(data, dict) and data["device"] == name:
                gone.set_result(None)

        unsubscribe = self._machine.network.subscribe(heard)
        try:
            self._machine.device_del(name, VNIC)
            async with asyncio.timeout(DELETED_TIMEOUT_S):
                await gone
        except TimeoutError:
            raise NetError(f"the VM of {name} does not leave") from None
        finally:
            unsubscribe()


_MONITOR = "monitor"


def text_of(kind: Kind, setting: Setting) -> str:
    """A setting in the form in which it is recorded."""
    return json.dumps([kind, setting.tree, setting.typed], sort_keys=True)


def _monitor_text(monitor: MonitorSetting) -> str:
    """The same of a monitor. Its policy is always that of the present command line."""
    return json.dumps(
        [_MONITOR, {"chardev": monitor.chardev, "mode": monitor.mode, "pretty": monitor.pretty}]
    )


def _item_key(text: str) -> str:
    """The key of the record of what a setting made; that of none for a monitor."""
    kind, tree, *_ = json.loads(text)
    return key_of(ITEM, kind, str(tree.get("id")))


def _kind_of(text: str) -> str:
    return str(json.loads(text)[0])
