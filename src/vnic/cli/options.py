"""The options of `vnic run`, which are QEMU's: argv in, a RunOptions or one clear error out. No I/O.

`run` builds the machine from the result; what a netdev or a device may be told is checked there, by its own Struct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from vnic.cli import vm_options
from vnic.cli.journal_option import parse_journal
from vnic.dataplane.wire.messages import MAX_SPIN_US, MAX_WORKERS
from vnic.machine.datapath import Choice
from vnic.machine.journal import JournalChoice
from vnic.machine.nics import DEVICES
from vnic.monitor.policy import Policy
from vnic.monitor.schema.unions import MODERN_NETDEVS
from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.protocol.qmp import ParseError, decode

if TYPE_CHECKING:
    from vnic.machine.metrics import MetricsChoice

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


Handler: TypeAlias = Callable[[RunOptions, str, str], None]
"""Takes the option as given (`-netdev …`) and its argument."""


def parse_run(argv: Sequence[str]) -> RunOptions:
    """Parse the arguments behind `vnic run`, up to the first request for help.

    Raises UsageError, or OptionError for an argument that makes no sense by itself.
    """
    options = RunOptions()
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            raise UsageError(word, "unexpected argument")
        option = word.removeprefix("-").removeprefix("-")
        if option in _FLAGS:
            _FLAGS[option](options)
        elif option in _WITH_ARGUMENT or option in vm_options.WITH_ARGUMENT:
            text = next(words, None)
            if text is None:
                raise UsageError(f"-{option}", "requires an argument")
            where = f"-{option} {text}"
            try:
                _WITH_ARGUMENT.get(option, _vm_option)(options, where, text)
            except NetError as refused:
                raise OptionError(where, refused.desc) from None
        elif option in vm_options.FLAGS:
            options.vm_options.append(f"-{option}")
        elif option in vm_options.NOT_BUILT:
            raise OptionError(f"-{option}", vm_options.NOT_BUILT[option])
        else:
            raise UsageError(f"-{option}", "invalid option")
        if options.help is not None or options.version:
            break
    return options


_KNOWN_CHARDEVS = ("websocket", "udp", "pty", "vc", "file", "pipe", "con", "mon", "fdset")


# -- one function an option -----------------------------------------------------------------------------------------


def _name(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text, "guest", short_booleans=True)
    # libvirt always gives debug-threads; vnic has no threads to name.
    _only(where, tree, ("guest", "debug-threads"))
    if tree.get("debug-threads", "on") not in ("on", "off"):
        raise OptionError(where, "Parameter 'debug-threads' expects 'on' or 'off'")
    name = str(tree.get("guest", ""))
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise OptionError(
            where, "the name becomes a file name: it may not be empty, begin with '.' or hold '/'"
        )
    options.name = name


def _chardev(options: RunOptions, where: str, text: str) -> None:
    _collect(options, options.chardevs, where, text, "backend")
    _leave_to_the_vm(options, options.chardevs, "backend", vm_options.CHARDEVS.__contains__)


def _object(options: RunOptions, where: str, text: str) -> None:
    _collect(options, options.objects, where, text, "qom-type")
    _leave_to_the_vm(options, options.objects, "qom-type", vm_options.is_vm_object)


def _netdev(options: RunOptions, where: str, text: str) -> None:
    _collect(options, options.netdevs, where, text, "type")


def _device(options: RunOptions, where: str, text: str) -> None:
    _collect(options, options.devices, where, text, "driver")
    _leave_to_the_vm(options, options.devices, "driver", vm_options.is_vm_device)


def _leave_to_the_vm(
    options: RunOptions, settings: list[Setting], key: str, is_vms: Callable[[str], bool]
) -> None:
    """Set the newest of `settings` aside where it is a part of the VM."""
    named = settings[-1].tree.get(key) if settings else None
    if isinstance(named, str) and is_vms(named):
        setting = settings.pop()
        options.vm_options.append(f"{setting.where.split(' ', 1)[0]} {named}")


def _vm_option(options: RunOptions, where: str, text: str) -> None:
    options.vm_options.append(where.split(" ", 1)[0])


def _global(options: RunOptions, where: str, text: str) -> None:
    """`DRIVER.PROPERTY=VALUE`, or the three as keys: without effect, unless it is a NIC's."""
    tree, _ = (
        keyval.parse(text) if text.startswith("driver=") else ({"driver": text.partition(".")[0]}, False)
    )
    driver = str(tree.get("driver", ""))
    if driver in DEVICES or driver in ("virtio-net-device", "virtio-pci", "virtio-device", "pci-device"):
        raise OptionError(where, f"vnic has no -global: give the property to each -device {driver}")
    options.vm_options.append(f"-global {driver}")


def _no_nic(options: RunOptions, where: str, text: str) -> None:
    """`-nic none` and `-net none` ask for no NIC other than those of -device, and vnic makes no others."""
    if text != "none":
        option = where.split(" ", 1)[0]
        raise OptionError(where, f"vnic has no {option} but {option} none: give a -netdev and a -device")


def _collect(options: RunOptions, into: list[Setting], where: str, text: str, implied: str) -> None:
    """Take an argument of the forms `TYPE,key=value,…` and `{JSON}`; `implied` is the key of TYPE."""
    if text.startswith("{"):
        into.append(Setting(where, _json(where, text), typed=True))
        return
    tree, wants_help = parse_option_string(text, implied, _deprecated(options, where))
    if wants_help:
        named = tree.get(implied)
        option = where.removeprefix("-").partition(" ")[0]
        options.help = HelpTopic(option, named if isinstance(named, str) else None)
    else:
        into.append(Setting(where, dict(tree)))


def parse_option_string(
    text: str, implied: str, deprecated: Callable[[str, str], None] | None = None
) -> tuple[keyval.Tree, bool]:
    """`TYPE,key=value,…` of an object, a netdev or a device (which, is told by `implied`), and whether it asks for
    help. Raises NetError."""
    strict = implied == "type" and text.partition(",")[0] in MODERN_NETDEVS
    tree, wants_help = keyval.parse(text, implied, short_booleans=not strict, deprecated=deprecated)
    if implied == "type":
        keyval.spell_out_netdev(tree)
    return tree, wants_help


def _deprecated(options: RunOptions, where: str) -> Callable[[str, str], None]:
    def warn(given: str, use: str) -> None:
        options.warnings.append(
            f"{where}: warning: short-form boolean option '{given}' deprecated; use {use} instead"
        )

    return warn


def _json(where: str, text: str) -> dict[str, object]:
    try:
        tree = decode(text)
    except ParseError as error:
        raise OptionError(where, error.desc) from None
    assert isinstance(tree, dict), "a text that begins with a brace"
    return tree


def _mon(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text, "chardev", short_booleans=True)
    _only(where, tree, ("chardev", "mode", "pretty", "policy", "id"))
    if "chardev" not in tree:
        raise OptionError(where, "Parameter 'chardev' is missing")
    mode = str(tree.get("mode", "readline"))
    if mode not in ("readline", "control"):
        raise OptionError(where, f"Parameter 'mode' does not accept value '{mode}'")
    pretty = str(tree.get("pretty", "off"))
    if pretty not in ("on", "off"):
        raise OptionError(where, "Parameter 'pretty' expects 'on' or 'off'")
    if pretty == "on" and mode != "control":
        raise OptionError(where, "'pretty' is not compatible with HMP monitors")
    policy = _policy(where, tree.get("policy"))
    _add_monitor(options, MonitorSetting(where, str(tree["chardev"]), mode, pretty == "on", policy))


def _policy(where: str, text: object) -> Policy | None:
    if text is None:
        return None
    if text not in list(Policy):
        raise OptionError(where, f"Parameter 'policy' expects {', '.join(Policy)}, not '{text}'")
    return Policy(str(text))


def _monitor_policy(options: RunOptions, where: str, text: str) -> None:
    if text not in list(Policy):
        raise OptionError(where, f"expected one of {', '.join(Policy)}")
    options.monitor_policy = Policy(text)


def _qmp(options: RunOptions, where: str, text: str) -> None:
    if text == "none":
        options.default_qmp = False
    else:
        _monitor_on(options, where, text, "control")


def _qmp_pretty(options: RunOptions, where: str, text: str) -> None:
    if text == "none":
        options.default_qmp = False
    else:
        _monitor_on(options, where, text, "control", pretty=True)


def _monitor(options: RunOptions, where: str, text: str) -> None:
    if text != "none":
        _monitor_on(options, where, text, "readline")


def _monitor_on(options: RunOptions, where: str, text: str, mode: str, *, pretty: bool = False) -> None:
    """QEMU's short form of a character device: `unix:PATH,server=on` (chardev/char.c: qemu_chr_parse_compat)."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "chardev":
        _add_monitor(options, MonitorSetting(where, rest, mode, pretty))
        return
    if text in ("stdio", "null"):
        tree: dict[str, object] = {"backend": text}
    elif colon and scheme in ("unix", "tcp", "telnet"):
        tree = _socket(options, where, scheme, rest)
    elif scheme in _KNOWN_CHARDEVS:
        raise OptionError(
            where, f"vnic's monitors speak over unix:, tcp:, telnet: and stdio, not over '{scheme}'"
        )
    else:
        raise OptionError(where, f"'{text}' is not a valid char driver")
    policy = _policy(where, tree.pop("policy", None))
    chardev = (
        f"compat_monitor{sum(setting.where.startswith(('-qmp', '-monitor')) for setting in options.chardevs)}"
    )
    options.chardevs.append(Setting(where, {**tree, "id": chardev}))
    _add_monitor(options, MonitorSetting(where, chardev, mode, pretty, policy))


def _socket(options: RunOptions, where: str, scheme: str, rest: str) -> dict[str, object]:
    """`PATH,server=on,…` or `HOST:PORT,server=on,…` as the keys of -chardev socket."""
    tree, _ = keyval.parse(rest, "address", short_booleans=True, deprecated=_deprecated(options, where))
    address = tree.pop("address", "")
    if not isinstance(address, str) or not address:
        raise OptionError(where, f"an address is missing behind '{scheme}:'")
    if scheme == "unix":
        return {"backend": "socket", "path": address, **tree}
    host, colon, port = address.rpartition(":")
    if not colon or not port:
        raise OptionError(where, f"'{address}' is not HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if scheme == "telnet":
        tree["telnet"] = "on"
    return {"backend": "socket", "host": host, "port": port, **tree}


def _add_monitor(options: RunOptions, monitor: MonitorSetting) -> None:
    options.monitors.append(monitor)
    if monitor.mode == "control":
        options.default_qmp = False


def _only(where: str, tree: keyval.Tree, keys: Sequence[str]) -> None:
    for key in tree:
        if key not in keys:
            raise OptionError(where, f"Invalid parameter '{key}'")


def _pidfile(options: RunOptions, where: str, text: str) -> None:
    options.pidfile = text


def _guest_memory(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text)
    options.guest_memory = Setting(where, dict(tree))


def _datapath(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text, "mode")
    _only(where, tree, ("mode", "workers", "spin"))
    mode = tree.get("mode")
    if mode == "python" and len(tree) == 1:
        options.datapath = Choice("python")
    elif mode == "auto":
        workers = _bounded(where, tree, "workers", 1, 1, MAX_WORKERS)
        options.datapath = Choice("auto", workers, _bounded(where, tree, "spin", 0, 0, MAX_SPIN_US))
    else:
        raise OptionError(where, "expected auto[,workers=N][,spin=US] or python")


def _journal(options: RunOptions, where: str, text: str) -> None:
    options.journal = parse_journal(text)


def _metrics(options: RunOptions, where: str, text: str) -> None:
    from vnic.cli.metrics_option import parse_metrics

    options.metrics = parse_metrics(text)


def _bounded(where: str, tree: keyval.Tree, key: str, default: int, least: int, most: int) -> int:
    """A decimal number of the option, within its bounds."""
    text = tree.get(key, str(default))
    valid = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20
    if not valid or not least <= int(str(text)) <= most:
        raise OptionError(where, f"Parameter '{key}' expects a number from {least} to {most}, not '{text}'")
    return int(str(text))


def _log_file(options: RunOptions, where: str, text: str) -> None:
    options.log_file = text


def _pause(options: RunOptions) -> None:
    options.paused = True


def _daemonize(options: RunOptions) -> None:
    options.daemonize = True


def _help(options: RunOptions) -> None:
    options.help = HelpTopic("")


def _version(options: RunOptions) -> None:
    options.version = True


_FLAGS: dict[str, Callable[[RunOptions], None]] = {
    "S": _pause,
    "daemonize": _daemonize,
    "h": _help,
    "help": _help,
    "version": _version,
}

_WITH_ARGUMENT: dict[str, Handler] = {
    "name": _name,
    "chardev": _chardev,
    "object": _object,
    "netdev": _netdev,
    "device": _device,
    "qmp": _qmp,
    "qmp-pretty": _qmp_pretty,
    "monitor": _monitor,
    "mon": _mon,
    "monitor-policy": _monitor_policy,
    "pidfile": _pidfile,
    "guest-memory": _guest_memory,
    "D": _log_file,
    "datapath": _datapath,
    "journal": _journal,
    "metrics": _metrics,
    "nic": _no_nic,
    "net": _no_nic,
    "global": _global,
}
