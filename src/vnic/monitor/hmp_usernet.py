"""HMP's commands for user networks: hostfwd_add, hostfwd_remove, info usernet (QEMU's net/slirp.c). `hmp` runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vnic.monitor.hmp import Arguments, hmp
from vnic.monitor.interfaces import UserNetwork
from vnic.net.errors import NetError

if TYPE_CHECKING:
    from vnic.monitor.commands.table import Caller


class _Unusable(Exception):
    """The user network does not exist; `str()` is QEMU's line."""


def _lookup(caller: Caller, args: Arguments) -> tuple[UserNetwork, str]:
    """The network and the rule that the two arguments name: `[netdev_id] rule` (slirp_lookup)."""
    networks = caller.machine.user_networks()
    if "arg2" not in args:
        if not networks:
            raise _Unusable("user mode network stack not in use\n")
        return next(iter(networks.values())), args["arg1"]
    name = args["arg1"]
    if caller.machine.network.find_netdev(name) is None:
        raise _Unusable(f"unrecognized netdev id '{name}'\n")
    if name not in networks:
        raise _Unusable("invalid device specified\n")
    return networks[name], args["arg2"]


@hmp(
    "hostfwd_add",
    "arg1:s,arg2:s?",
    "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
    "redirect TCP or UDP connections from host to guest (requires -net user)",
)
def hostfwd_add(caller: Caller, args: Arguments) -> str | None:
    try:
        network, rule = _lookup(caller, args)
        network.add_forward(rule)
    except _Unusable as error:
        return str(error)
    except NetError as error:
        return f"{error.desc}\n"
    return None


@hmp(
    "hostfwd_remove",
    "arg1:s,arg2:s?",
    "[netdev_id] [tcp|udp]:[hostaddr]:hostport",
    "remove host-to-guest TCP or UDP redirection",
)
def hostfwd_remove(caller: Caller, args: Arguments) -> str:
    try:
        network, source = _lookup(caller, args)
    except _Unusable as error:
        return str(error)
    removed = network.remove_forward(source)
    if removed is None:
        return "invalid format\n"
    return f"host forwarding rule for {source} {'removed' if removed else 'not found'}\n"


@hmp("info usernet", "", "", "show user network stack connection states")
def info_usernet(caller: Caller, args: Arguments) -> str:
    # The line starts with a hub's number, or -1: `info network` shows a netdev on a hub.
    networks = caller.machine.user_networks().items()
    return "".join(f"Hub -1 ({name}):\n{network.info_usernet()}" for name, network in networks)
