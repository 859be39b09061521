"""The plain face of `vnic.aio`: the same names and methods, each of which returns when it is done.

What a method does and raises is said there. The calls run in one background thread, and may come from any thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from vnic.api import guest as aio_guest
from vnic.api import instance as aio_instance
from vnic.api import lab as aio_lab
from vnic.api import nic as aio_nic
from vnic.api import put_back
from vnic.api import vm as aio_vm
from vnic.api.loop import run
from vnic.api.nic import SEEN_S, Direction, State, Time
from vnic.api.records import LinkChange, LinkInfo, Why
from vnic.api.words import Fault, Netem
from vnic.cli.why import DEFAULT_CHANGES
from vnic.lab.guest.console import DEFAULT_TIMEOUT, Completed
from vnic.lab.guest.linux import CARRIER_TIMEOUT
from vnic.monitor.commands.history import JournalEntry

T = TypeVar("T")


@contextlib.contextmanager
def _entered(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An async context manager as a plain one."""
    value = run(manager.__aenter__())
    try:
        yield value
    except BaseException as error:
        if not run(manager.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        run(manager.__aexit__(None, None, None))


class Flap:
    """A schedule by which a link goes down and up. vnic keeps it, also when this program has ended."""

    def __init__(self, flap: aio_nic.Flap) -> None:
        self._flap = flap
        self.id = flap.id
        self.seed = flap.seed

    def active(self) -> bool:
        """Whether it has not ended."""
        return run(self._flap.active())

    def stop(self) -> None:
        """End it; the link is up then, unless something else holds it."""
        run(self._flap.stop())


class Nic:
    """A NIC of a running vnic."""

    def __init__(self, nic: aio_nic.Nic) -> None:
        self._nic = nic
        self.name = nic.name

    def info(self) -> LinkInfo:
        """Its entry of query-links: link, holds, what the guest saw."""
        return run(self._nic.info())

    def down(self) -> LinkChange:
        """Pull the cable. Returns the change, or the last one if the link was down."""
        return run(self._nic.down())

    def up(self) -> LinkChange:
        """Plug the cable in. Returns the change; its `link` is how the link is, for other holds may keep it down."""
        return run(self._nic.up())

    def set(self, state: State) -> LinkChange:
        """`down` or `up`."""
        return run(self._nic.set(state))

    def wait_seen(self, state: State | None = None, timeout: float = SEEN_S) -> LinkChange:
        """Wait until the guest's driver has read `state`, by default the one that was asked for last, after the
        link's last change, which is returned. NotSeen after `timeout` seconds."""
        return run(self._nic.wait_seen(state, timeout))

    def why(self, changes: int = DEFAULT_CHANGES) -> Why:
        """Why the link is as it is, with its last `changes`; `str()` of it is the text of `vnic why`."""
        return run(self._nic.why(changes))

    def log(self, *, after_id: int = 0) -> list[LinkChange]:
        """Its changes after that id, the oldest first."""
        return run(self._nic.log(after_id=after_id))

    def settle(self, wait: float = SEEN_S) -> LinkChange:
        """Wait until the guest saw the link as it is, if its driver runs and reads the link from the device."""
        return run(self._nic.settle(wait))

    @contextlib.contextmanager
    def unplugged(self, *, wait: float | None = SEEN_S) -> Iterator[LinkChange]:
        """Pull the cable for a block, and plug it in again. Both times a guest whose driver reads its link is waited
        for, `wait` seconds at most (NotSeen)."""
        with _entered(self._nic.unplugged(wait=wait)) as change:
            yield change

    def flap(
        self,
        down: Time,
        up: Time | None = None,
        *,
        count: int | None = None,
        jitter: int | None = None,
        seed: int | None = None,
    ) -> Flap:
        """Have the link go down and up by a schedule; times are seconds, or texts with a unit."""
        return Flap(run(self._nic.flap(down, up, count=count, jitter=jitter, seed=seed)))

    def impair(self, *, direction: Direction = "all", clear: bool = False, **netem: Unpack[Netem]) -> None:
        """Change what is done to the frames of its wire: `delay="20ms", loss="1%"`."""
        run(self._nic.impair(direction=direction, clear=clear, **netem))

    @contextlib.contextmanager
    def impaired(self, *, direction: Direction = "all", **netem: Unpack[Netem]) -> Iterator[None]:
        """`impair` for a block, at whose end all impairments of these directions are cleared."""
        with _entered(self._nic.impaired(direction=direction, **netem)):
            yield

    def fault(self, shape: str, **words: Unpack[Fault]) -> None:
        """Have something be wrong with the link: `fault("one-way", direction="tx")`."""
        run(self._nic.fault(shape, **words))

    def clear_fault(self, shape: str | None = None) -> None:
        """End one fault, or all of this link's."""
        run(self._nic.clear_fault(shape))

    def __repr__(self) -> str:
        return f"<Nic {self.name}>"


class Guest:
    """A guest of a lab."""

    def __init__(self, guest: aio_guest.Guest) -> None:
        self._guest = guest
        self.name = guest.name

    def run(self, command: str | Sequence[str], timeout: float = DEFAULT_TIMEOUT) -> str:
        """Run a shell command in the guest and return what it printed. CommandFailed if its status is not 0."""
        return run(self._guest.run(command, timeout))

    def try_run(self, command: str | Sequence[str], timeout: float = DEFAULT_TIMEOUT) -> Completed:
        """The same, whatever the status: how it ended, and what it printed."""
        return run(self._guest.try_run(command, timeout))

    def running(self) -> bool:
        """Whether the guest has not ended."""
        return run(self._guest.running())

    def pid(self) -> int:
        """The process that is the guest."""
        return run(self._guest.pid())

    def carrier(self, interface: str) -> bool:
        """Its /sys/class/net/INTERFACE/carrier."""
        return run(self._guest.carrier(interface))

    def wait_carrier(self, up: bool, interface: str, *, timeout: int = CARRIER_TIMEOUT) -> bool:
        """Wait at most `timeout` seconds until the carrier is so; whether it became so."""
        return run(self._guest.wait_carrier(up, interface, timeout=timeout))

    def __repr__(self) -> str:
        return f"<Guest {self.name}>"


class Vm:
    """A VM of yours that a vnic has adopted; a context manager that lets it go, with its links up."""

    def __init__(self, vm: aio_vm.Vm) -> None:
        self._vm = vm
        self.id = vm.id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def nics(self) -> list[Nic]:
        """Its NICs, in QEMU's order."""
        return [Nic(nic) for nic in run(self._vm.nics())]

    def nic(self, name: str) -> Nic:
        """The NIC of that name in its VM (QEMU's `id` of the device), or with that MAC address."""
        return Nic(run(self._vm.nic(name)))

    def wait_there(self, wait: float) -> None:
        """Wait until the VM answers, as after a restart of it. Refused after `wait` seconds."""
        run(self._vm.wait_there(wait))

    def release(self, *, wait: float = 10.0) -> None:
        """Let it go. Links that the operator holds down come up before."""
        run(self._vm.release(wait=wait))

    def __repr__(self) -> str:
        return f"<Vm {self.id}>"


class Baseline:
    """The state of a vnic at one moment."""

    def __init__(self, baseline: put_back.Baseline) -> None:
        self._baseline = baseline

    def put_back(self, *, wait: float | None = None) -> list[str]:
        """Have all be as it was; returns what cannot be, in words: what was deleted or added. Guests that can tell what
        they see are waited for, `wait` seconds at most."""
        return run(self._baseline.put_back(wait=wait))


class Vnic:
    """A running vnic; a context manager that closes the connection."""

    def __init__(self, vnic: aio_instance.Vnic) -> None:
        self._vnic = vnic

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        run(self._vnic.close())

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run any QMP command and return its `return`. Refused with the error's text."""
        return run(self._vnic.execute(command, arguments))

    def links(self) -> list[LinkInfo]:
        """All NICs and netdevs."""
        return run(self._vnic.links())

    def nics(self) -> list[Nic]:
        """All NICs, in the order in which they were made."""
        return [Nic(nic) for nic in run(self._vnic.nics())]

    def nic(self, name: str) -> Nic:
        """A NIC by its name, its MAC address, or its end of a lab's link (`a:eth1`). Refused if there is none."""
        return Nic(run(self._vnic.nic(name)))

    def set_link(self, name: str, state: str) -> None:
        """QMP's set_link with `up` or `down`: the name of a netdev holds, or lets go, both ends of its wire."""
        run(self._vnic.set_link(name, state))

    def log(self, name: str | None = None, *, after_id: int = 0) -> list[LinkChange]:
        """The link changes, of one link or of all, after that id, the oldest first."""
        return run(self._vnic.log(name, after_id=after_id))

    def journal(self, *, since: float) -> list[JournalEntry]:
        """All records of the journal since that time, in seconds since 1970."""
        return run(self._vnic.journal(since=since))

    def adopt(
        self,
        *,
        qmp: str | os.PathLike[str] | None = None,
        qga: str | os.PathLike[str] | None = None,
        uri: str | None = None,
        domain: str | None = None,
        id: str | None = None,
        wait: float = 10.0,
    ) -> Vm:
        """Have a VM that runs be part of this vnic until it is released: QEMU's with the QMP socket `qmp`, and its
        guest agent's, `qga`; or libvirt's `domain` at `uri`. Refused if it does not answer in `wait` seconds."""
        return Vm(run(self._vnic.adopt(qmp=qmp, qga=qga, uri=uri, domain=domain, id=id, wait=wait)))

    @property
    def vms(self) -> list[Vm]:
        """Those that `adopt` made and that were not released."""
        return [Vm(vm) for vm in self._vnic.vms]

    def baseline(self) -> Baseline:
        """How all links are now: who holds them, flaps, impairments and faults; `put_back()` has them so again."""
        return Baseline(run(self._vnic.baseline()))


class Lab(Vnic):
    """A lab of its own, from a lab file or a mapping with its keys; the `with` around it starts and ends it."""

    def __init__(
        self, source: str | os.PathLike[str] | Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> None:
        """`name` is that of the lab and its vnic; by default the file's with the process id behind it."""
        self._lab = aio_lab.Lab(source, name=name)
        super().__init__(self._lab)
        self.name = self._lab.lab_name

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Start it; when it is up, boot again those guests that have ended."""
        run(self._lab.up())

    def down(self) -> None:
        """End its guests and its vnic."""
        run(self._lab.down())

    def guest(self, name: str | None = None) -> Guest:
        """The guest of a node; without a name, the first. Refused if there is none."""
        return Guest(self._lab.guest(name))

    def guests(self) -> list[Guest]:
        """All guests, in the order of the file."""
        return [self.guest(name) for name in self._lab.guest_names]

    def socket(self, nic: str) -> Path:
        """Where a VM of yours plugs into the NIC of a `socket` node (`a.eth1`)."""
        return self._lab.socket(nic)

    def __repr__(self) -> str:
        return f"<Lab {self.name}>"


def connect(name: str | None = None, *, qmp: str | None = None) -> Vnic:
    """A running vnic: the one of `-name NAME`, or with its QMP socket at the path `qmp`; with neither, the only one
    that runs. Refused where none answers."""
    return Vnic(run(aio_instance.connect(name, qmp=qmp)))
