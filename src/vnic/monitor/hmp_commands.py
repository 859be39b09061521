"""The commands of the human monitor, with QEMU's texts (hmp-commands.hx, net/net-hmp-cmds.c).

`hmp.run_line` calls them. To add one, write its function here; the decorator takes its name, arguments, synopsis and
help.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import msgspec

from vnic.monitor import hmp_usernet
from vnic.monitor.hmp import (
    Arguments,
    UsageError,
    help_text,
    hmp,
    run_line,
)
from vnic.monitor.interfaces import Later, RunState, ShutdownCause
from vnic.monitor.schema import (
    convert_to_shape,
    device_options,
    netdev_options,
    object_options,
)
from vnic.monitor.schema.shapes import (
    Builtin,
    Enumeration,
    Integer,
    Member,
    Shape,
    Union,
)
from vnic.monitor.version import version
from vnic.net import qom
from vnic.net.announce import AnnounceParameters
from vnic.net.errors import NetError
from vnic.net.names import is_identifier
from vnic.net.records import Hold, LinkInfo
from vnic.protocol import keyval
from vnic.protocol.qmp import ParseError, decode, encode

if TYPE_CHECKING:
    from vnic.monitor.commands.table import Caller

__all__ = ["hmp_usernet", "run_line"]
"""Importing these modules fills the table of run_line."""

log = logging.getLogger(__name__)


@hmp("help|?", "name:S?", "[cmd]", "show the help")
def help_(caller: Caller, args: Arguments) -> str:
    return help_text(args.get("name", "").split(), caller.policy)


@hmp("info", "item:s?", "[subcommand]", "show various information about the system state")
def info(caller: Caller, args: Arguments) -> str:
    return help_text(["info"], caller.policy)


# -- links ------------------------------------------------------------------------------------------------------


@hmp("set_link", "name:s,up:b", "name on|off", "change the link status of a network adapter")
def set_link(caller: Caller, args: Arguments) -> None:
    caller.machine.network.set_link(args["name"], args["up"] == "on", caller.who)


@hmp("announce_self", "interfaces:s?,id:s?", "[interfaces] [id]", "Trigger GARP/RARP announcements")
def announce_self(caller: Caller, args: Arguments) -> None:
    interfaces = tuple(args["interfaces"].split(",")) if "interfaces" in args else None
    caller.machine.network.announce_self(AnnounceParameters(interfaces=interfaces, id=args.get("id", "")))


@hmp("info network", "", "", "show the network state")
def info_network(caller: Caller, args: Arguments) -> Iterator[str]:
    return caller.machine.topology().info_network()


@hmp("info links", "name:s?", "[name]", "show the links: their state, why they are down, what the guest saw")
def info_links(caller: Caller, args: Arguments) -> Iterator[str]:
    return map(_link_lines, caller.machine.network.query_links(args.get("name")))


def _link_lines(link: LinkInfo) -> str:
    text = f"{link.name}: type={link.type},model={link.model},link={link.link},operstate={link.operstate}"
    if link.peer is not None:
        text += f",peer={link.peer}"
    if link.type == "nic":
        text += f",seen={link.guest.seen}"
    return text + "\n" + "".join(map(_hold_line, link.holds))


def _hold_line(hold: Hold) -> str:
    return f"  - {hold.client}: {hold.kind} by {hold.by}: {hold.text}\n"


# -- things that come and go ------------------------------------------------------------------------------------


def _options(tree: keyval.Tree, wants_help: bool, shape: Shape) -> msgspec.Struct:
    """Convert an option string's tree, as on the command line, to the Struct of the object."""
    options = cast(msgspec.Struct, convert_to_shape(shape, tree, strings=True))
    if wants_help:
        raise NetError("Invalid parameter 'help'")
    return options


def _asks_for_list(text: str, implied: str) -> bool:
    """Whether the type is `help`."""
    return text.partition(",")[0].removeprefix(f"{implied}=") in ("help", "?")


def _refused(command: str, text: str) -> UsageError:
    """An error that QEMU finds while it parses the options: it prints the text on its stderr only."""
    log.warning("%s: %s", command, text)
    return UsageError()


@hmp(
    "netdev_add",
    "netdev:O",
    "[type=]type,id=str[,prop=value][,...]",
    "add host network device",
)
def netdev_add(caller: Caller, args: Arguments) -> str | Later:
    types = caller.machine.netdev_types
    text = args["netdev"]
    if _asks_for_list(text, "type"):
        return "Available netdev backend types:\n" + "".join(f"{name}\n" for name in types)
    tree, wants_help = keyval.parse(text, "type", short_booleans=True)
    netdev_id = tree.get("id")
    if isinstance(netdev_id, str):
        try:
            caller.machine.network.check_netdev_id(netdev_id)
        except NetError as error:
            raise _refused("netdev_add", error.desc) from None
    shape = dataclasses.replace(
        netdev_options(types), unexpected=lambda _type, key: NetError(f"Invalid parameter '{key}'")
    )
    _check_flat(tree)
    keyval.spell_out_netdev(tree)
    options = _options(tree, wants_help, shape)
    caller.machine.paths.check("netdev", options)
    return caller.machine.netdev_add(options, caller.who)


def _check_flat(tree: keyval.Tree) -> None:
    """HMP's option strings know no dotted keys, so that `stream` and `dgram` cannot be added by it
    (qapi/opts-visitor.c): the members of `addr` are looked for beside `type`, which is the netdev's own."""
    if tree.get("type") == "stream" and "id" in tree:
        raise NetError("Parameter 'type' is missing")
    for key, value in tree.items():
        if isinstance(value, dict):
            raise NetError(f"Invalid parameter '{key}.{next(reversed(value))}'")
        if isinstance(value, list):
            raise NetError(f"Invalid parameter '{key}.0'")


@hmp("netdev_del", "id:s", "id", "remove host network device")
def netdev_del(caller: Caller, args: Arguments) -> Later:
    return caller.machine.netdev_del(args["id"], caller.who)


@hmp(
    "device_add",
    "device:O",
    "driver[,prop=value][,...]",
    "add device, like -device on the command line",
)
def device_add(caller: Caller, args: Arguments) -> str | None:
    types = caller.machine.device_types
    text = args["device"]
    if _asks_for_list(text, "driver"):
        return "Network devices:\n" + "".join(f'name "{name}"\n' for name in types)
    tree, wants_help = keyval.parse(text, "driver", short_booleans=True)
    shape = device_options(types, caller.machine.devices_not_built)
    if wants_help and "driver" in tree:
        driver = str(tree["driver"])
        return _properties(shape, driver) if driver in types else f"Device '{driver}' not found\n"
    device_id = tree.get("id")
    if isinstance(device_id, str) and not is_identifier(device_id):
        raise _refused("device_add", "Parameter 'id' expects an identifier")
    options = _options(tree, wants_help, shape)
    caller.machine.paths.check("device", options)
    caller.machine.device_add(options, caller.who)
    return None


@hmp("device_del", "id:s", "device", "remove device")
def device_del(caller: Caller, args: Arguments) -> None:
    caller.machine.device_del(args["id"], caller.who)


@hmp("object_add", "object:S", "[qom-type=]type,id=str[,prop=value][,...]", "create QOM object")
def object_add(caller: Caller, args: Arguments) -> str | None:
    """An option string without short-form booleans, or JSON (qom/object_interfaces.c: user_creatable_parse_str)."""
    types = caller.machine.object_types
    shape = object_options(types)
    text = args["object"]
    if text.startswith("{"):
        try:
            tree = decode(text)
        except ParseError as error:
            raise NetError(error.desc) from None
        _add_object(caller, cast(msgspec.Struct, convert_to_shape(shape, tree)))
        return None
    if _asks_for_list(text, "qom-type"):
        return "List of user creatable objects:\n" + "".join(f"  {name}\n" for name in sorted(types))
    options, wants_help = keyval.parse(text, "qom-type")
    if wants_help:
        name = str(options.get("qom-type", ""))
        if name not in types:
            raise NetError(f"Parameter 'qom-type' does not accept value '{name}'")
        return _properties(shape, name)
    _add_object(caller, cast(msgspec.Struct, convert_to_shape(shape, options, strings=True)))
    return None


def _add_object(caller: Caller, options: msgspec.Struct) -> None:
    caller.machine.paths.check("object", options)
    caller.machine.object_add(options, caller.who)


def _properties(union: Union, name: str) -> str:
    """type_print_class_properties, with the values of an enumeration where QEMU has its name."""
    lines = [f"  {line}\n" for line in sorted(_property_lines(union.branches[name].members, ""))]
    return "".join([f"{name} options:\n", *lines])


def _property_lines(members: Iterable[Member], prefix: str) -> Iterator[str]:
    for member in members:
        name = prefix + member.name
        match member.shape:
            case Union() as inner:
                yield f"{name}.{inner.tag}=<{'|'.join(inner.branches)}>"
                branches = inner.branches.values()
                yield from {
                    line: None for each in branches for line in _property_lines(each.members, f"{name}.")
                }
            case Enumeration(values):
                yield f"{name}=<{'|'.join(values)}>"
            case Integer():
                yield f"{name}=<{(member.shape.name or 'int').removesuffix('_t')}>"
            case _ if name != "id":
                yield f"{name}=<{'bool' if member.shape == Builtin('bool') else 'string'}>"


@hmp("object_del", "id:s", "id", "destroy QOM object")
def object_del(caller: Caller, args: Arguments) -> None:
    caller.machine.object_del(args["id"], caller.who)


@hmp("qom-get", "path:s,property:s", "path property", "print QOM property")
def qom_get(caller: Caller, args: Arguments) -> str:
    value = qom.get(caller.machine.network, args["path"], args["property"])
    return f"{encode(value).decode().strip()}\n"


@hmp("qom-set", "path:s,property:s,value:S", "path property value", "set QOM property")
def qom_set(caller: Caller, args: Arguments) -> None:
    qom.set_(caller.machine.network, args["path"], args["property"], args["value"], caller.who)


@hmp("qom-list", "path:s?", "path", "list QOM properties")
def qom_list(caller: Caller, args: Arguments) -> str:
    if "path" not in args:
        return "/\n"
    return "".join(f"{name} ({type_})\n" for name, type_ in qom.list_(caller.machine.network, args["path"]))


@hmp("chardev-add", "args:s", "args", "add chardev")
def chardev_add(caller: Caller, args: Arguments) -> str | None:
    text = args["args"]
    if _asks_for_list(text, "backend"):
        types = caller.machine.chardev_types
        return "Available chardev backend types: \n" + "".join(f"  {name}\n" for name in types)
    tree, wants_help = keyval.parse(text, "backend", short_booleans=True)
    if wants_help:
        raise NetError("Parsing chardev args failed")
    if not tree.get("id"):
        raise NetError("chardev: no id specified")
    caller.machine.paths.check("chardev", tree)
    caller.machine.chardev_add_flat(dict(tree))
    return None


@hmp("chardev-remove", "id:s", "id", "remove chardev")
def chardev_remove(caller: Caller, args: Arguments) -> None:
    caller.machine.chardev_remove(args["id"])


# -- descriptors ------------------------------------------------------------------------------------------------


@hmp("getfd", "fdname:s", "getfd name", "receive a file descriptor via SCM rights and assign it a name")
def getfd(caller: Caller, args: Arguments) -> None:
    caller.passed.name(args["fdname"])


@hmp("closefd", "fdname:s", "closefd name", "close a file descriptor previously passed via SCM rights")
def closefd(caller: Caller, args: Arguments) -> None:
    caller.passed.named.close_one(args["fdname"])


@hmp("info chardev", "", "", "show the character devices")
def info_chardev(caller: Caller, args: Arguments) -> str:
    return "".join(f"{each.label}: filename={each.filename}\n" for each in caller.machine.chardevs())


# -- the machine ------------------------------------------------------------------------------------------------


@hmp("info version", "", "", "show the version of vnic")
def info_version(caller: Caller, args: Arguments) -> str:
    told = version()
    return f"{told.qemu.major}.{told.qemu.minor}.{told.qemu.micro}{told.package}\n"


@hmp("info name", "", "", "show the current VM name")
def info_name(caller: Caller, args: Arguments) -> str:
    return f"{caller.machine.name}\n" if caller.machine.name else ""


@hmp("info status", "", "", "show the current VM status (running|paused)")
def info_status(caller: Caller, args: Arguments) -> str:
    state = caller.machine.runstate
    text = "running" if state is RunState.RUNNING else "paused"
    if state not in (RunState.RUNNING, RunState.PAUSED):
        text += f" ({state})"
    return f"VM status: {text}\n"


@hmp("stop|s", "", "", "stop emulation")
def stop(caller: Caller, args: Arguments) -> None:
    caller.machine.stop()


@hmp("cont|c", "", "", "resume emulation")
def cont(caller: Caller, args: Arguments) -> None:
    caller.machine.cont()


@hmp("system_reset", "", "", "reset the system")
def system_reset(caller: Caller, args: Arguments) -> None:
    caller.machine.network.emit("RESET", {"guest": False, "reason": "host-qmp-system-reset"})


@hmp("quit|q", "", "", "quit the emulator")
def quit_(caller: Caller, args: Arguments) -> None:
    caller.machine.quit(ShutdownCause.HOST_QMP_QUIT)
