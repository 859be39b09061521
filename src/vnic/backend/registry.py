"""NETDEVS: each type of netdev, its options and its constructor. `netdev_add`, argument checking and help use it.

NOT_BUILT has the types that QEMU has and vnic lacks; they are refused by name, with QEMU's text.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

from vnic.backend import options as o
from vnic.backend.base import Backend, BackendContext, NetdevType
from vnic.net.errors import NetError

NOT_BUILT = frozenset(
    {
        *("none", "nic", "l2tpv3", "vde", "netmap"),
        *("vhost-vdpa", "af-xdp", "vmnet-host", "vmnet-shared", "vmnet-bridged"),
    }
)
"""The types of NetClientDriver (qapi/net.json) that are not built."""


def _row(name: str, options: type[o.NetdevOptions], desc: str, made_by: str) -> tuple[str, NetdevType]:
    module, _, attribute = made_by.partition(":")

    def create(context: BackendContext, given: Any) -> Backend:
        maker = getattr(importlib.import_module(f"vnic.backend.{module}"), attribute)
        return cast(Backend, maker(context, given))

    return name, NetdevType(name, options, desc, create)


NETDEVS: dict[str, NetdevType] = dict(
    (
        _row("hubport", o.HubPortOptions, "a port of a hub: all others get what one gets", "hubport:HubPort"),
        _row("cable", o.CableOptions, "one end of a cable, with its link state", "cable:CableEnd"),
        _row("stream", o.StreamOptions, "one peer over a unix or TCP socket", "stream:StreamBackend"),
        _row(
            "dgram", o.DgramOptions, "one frame a datagram, over UDP or a unix socket", "dgram:DgramBackend"
        ),
        _row(
            "socket", o.SocketOptions, "QEMU's older form of stream and dgram", "socket_netdev:SocketBackend"
        ),
        _row("user", o.UserOptions, "QEMU's user-mode network, by passt", "user.backend:user_netdev"),
        _row("passt", o.PasstOptions, "the user-mode network of passt", "passt.stream:passt_netdev"),
        _row("tap", o.TapOptions, "a network interface of this host", "tap.vhost_tap:make_tap"),
        _row(
            "bridge", o.BridgeOptions, "a network interface in a bridge of this host", "bridge:BridgeBackend"
        ),
        _row(
            "interface",
            o.InterfaceOptions,
            "an existing interface of this host or of a container",
            "interface.backend:InterfaceBackend",
        ),
        _row(
            "tunnel",
            o.TunnelOptions,
            "a cable to another vnic over UDP, by VXLAN",
            "tunnel.backend:TunnelBackend",
        ),
        _row(
            "vhost-user",
            o.VhostUserOptions,
            "a vhost-user process that runs the guest's rings itself",
            "vhost_user:VhostUserBackend",
        ),
        _row(
            "echo", o.EchoOptions, "a host of vnic's own that answers ARP, NDP and ping", "echo:EchoBackend"
        ),
    )
)
"""By the value of `type`."""


def netdev_type(name: str) -> NetdevType:
    """The row of a type; NetError with QEMU's texts if it is unknown or not built."""
    if name in NETDEVS:
        return NETDEVS[name]
    if name in NOT_BUILT:
        raise NetError(f"network backend '{name}' is not compiled into this binary")
    raise NetError(f"Parameter 'type' does not accept value '{name}'")
