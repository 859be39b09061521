"""The options of `vnic run`, which are QEMU's: argv in, a RunOptions or one clear error out. No I/O.

`run` builds the machine from the result; what a netdev or a device may be told is checked there, by its own Struct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from vnic.cli import monitor_options, vm_options
from vnic.cli.journal_option import parse_journal
from vnic.cli.run_options import HelpTopic, OptionError, RunOptions, Setting, UsageError, deprecated, only
from vnic.cli.sandbox_option import parse_run_with, parse_sandbox
from vnic.cli.spelling import closest, meant
from vnic.dataplane.wire.messages import MAX_SPIN_US, MAX_WORKERS
from vnic.machine.datapath import Choice
from vnic.machine.nics import DEVICES
from vnic.monitor.schema.unions import MODERN_NETDEVS
from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.protocol.qmp import ParseError, decode

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
        elif takes_argument(option):
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
            raise UsageError(f"-{option}", f"invalid option{_meant(option)}")
        if options.help is not None or options.version:
            break
    return options


def takes_argument(option: str) -> bool:
    """Whether the option, without its minus, has the next word as its argument."""
    return option in _WITH_ARGUMENT or option in vm_options.WITH_ARGUMENT


def _meant(option: str) -> str:
    near = closest(option, [*_WITH_ARGUMENT, *_FLAGS, "keep"])
    return meant(near and f"-{near}")


# -- one function an option -----------------------------------------------------------------------------------------


def _name(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text, "guest", short_booleans=True)
    # libvirt always gives debug-threads; vnic has no threads to name.
    only(where, tree, ("guest", "debug-threads"))
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
    tree, wants_help = parse_option_string(text, implied, deprecated(options, where))
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


def _json(where: str, text: str) -> dict[str, object]:
    try:
        tree = decode(text)
    except ParseError as error:
        raise OptionError(where, error.desc) from None
    assert isinstance(tree, dict), "a text that begins with a brace"
    return tree


def _pidfile(options: RunOptions, where: str, text: str) -> None:
    options.pidfile = text


def _guest_memory(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text)
    options.guest_memory = Setting(where, dict(tree))


def _datapath(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text, "mode")
    only(where, tree, ("mode", "workers", "spin"))
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


def _web(options: RunOptions, where: str, text: str) -> None:
    from vnic.cli.web_option import parse_web

    options.webs.append(parse_web(text))


def _sandbox(options: RunOptions, where: str, text: str) -> None:
    options.sandbox = parse_sandbox(text)


def _run_with(options: RunOptions, where: str, text: str) -> None:
    options.run_with = parse_run_with(text) or options.run_with


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
    "qmp": monitor_options.qmp,
    "qmp-pretty": monitor_options.qmp_pretty,
    "monitor": monitor_options.monitor,
    "mon": monitor_options.mon,
    "monitor-policy": monitor_options.monitor_policy,
    "pidfile": _pidfile,
    "guest-memory": _guest_memory,
    "D": _log_file,
    "datapath": _datapath,
    "journal": _journal,
    "metrics": _metrics,
    "web": _web,
    "sandbox": _sandbox,
    "run-with": _run_with,
    "nic": _no_nic,
    "net": _no_nic,
    "global": _global,
}
