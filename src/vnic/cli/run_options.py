"""What the command line of `vnic run` says, as data, and its errors. `options` fills it in, and `run` acts on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vnic.cli import vm_options
from vnic.cli.sandbox_option import SandboxChoice
from vnic.machine.datapath import Choice
from vnic.machine.journal import JournalChoice
from vnic.monitor.policy import Policy
from vnic.protocol import keyval

if TYPE_CHECKING:
    from vnic.machine.metrics import MetricsChoice
    from vnic.sandbox.identity import Identity
    from vnic.web.choice import WebChoice

DEFAULT_NAME = "vnic"


class OptionError(Exception):
    """An option that was refused; `str()` is QEMU's line: `-netdev stream,id=a: Parameter 'addr' is missing`."""

    def __init__(self, where: str, desc: str) -> None:
        super().__init__(f"{where}: {desc}" if where else desc)
        self.where = where
        self.desc = desc


class UsageError(OptionError):
    """The command line itself is wrong: no such option, or its argument is missing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One option's argument as a tree. `typed`: it came as JSON, so values have types; else all are strings."""

    where: str
    """The option as given, to stand before an error text."""
    tree: dict[str, object]
    typed: bool = False


@dataclass(frozen=True, slots=True)
class MonitorSetting:
    """A monitor on the chardev `chardev`: `mode` is "control" (QMP) or "readline" (HMP)."""

    where: str
    chardev: str
    mode: str
    pretty: bool = False
    policy: Policy | None = None
    """Its own, which goes before that of -monitor-policy."""


@dataclass(frozen=True, slots=True)
class HelpTopic:
    """What the user asked help for: an option (`netdev`; "" for all of `vnic run`), and a type of it or None."""

    option: str
    type: str | None = None


@dataclass(slots=True)
class RunOptions:
    """The options of `vnic run`, in the order of the command line within each list."""

    name: str | None = None
    chardevs: list[Setting] = field(default_factory=list)
    objects: list[Setting] = field(default_factory=list)
    netdevs: list[Setting] = field(default_factory=list)
    devices: list[Setting] = field(default_factory=list)
    monitors: list[MonitorSetting] = field(default_factory=list)
    default_qmp: bool = True
    """No option is about QMP: listen where the verbs look for it."""
    monitor_policy: Policy = Policy.FULL
    """Of all monitors without one of their own."""
    pidfile: str | None = None
    guest_memory: Setting | None = None
    log_file: str | None = None
    datapath: Choice = field(default_factory=Choice)
    journal: JournalChoice = field(default_factory=JournalChoice)
    metrics: MetricsChoice | None = None
    webs: list[WebChoice] = field(default_factory=list)
    sandbox: SandboxChoice = field(default_factory=SandboxChoice)
    run_with: Identity | None = None
    """The user to become; None: it stays."""
    paused: bool = False
    daemonize: bool = False
    help: HelpTopic | None = None
    version: bool = False
    warnings: list[str] = field(default_factory=list)
    """Deprecated spellings that were taken, in QEMU's words."""
    vm_options: list[str] = field(default_factory=list)
    """What describes the VM and has no effect here, as `-m` or `-device virtio-blk-pci`."""

    def notes(self) -> list[str]:
        """What to tell the user before the start: the warnings, and one line for all `vm_options`."""
        return [*self.warnings, *([vm_options.note(self.vm_options)] if self.vm_options else [])]

    @property
    def instance(self) -> str:
        """The name by which the verbs find this vnic."""
        return self.name or DEFAULT_NAME


def only(where: str, tree: keyval.Tree, keys: Sequence[str]) -> None:
    """Refuse all keys but these."""
    for key in tree:
        if key not in keys:
            raise OptionError(where, f"Invalid parameter '{key}'")


def deprecated(options: RunOptions, where: str) -> Callable[[str, str], None]:
    """What keyval tells of a short boolean."""

    def warn(given: str, use: str) -> None:
        options.warnings.append(
            f"{where}: warning: short-form boolean option '{given}' deprecated; use {use} instead"
        )

    return warn
