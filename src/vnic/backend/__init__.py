"""The back-ends of NICs: `NETDEVS` is the registry, and the machine calls `netdev_add` to make one.

A module is imported when its first netdev is made, so that `vnic run` starts fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from vnic.backend.base import (
    Backend,
    BackendContext,
    Chardev,
    ChardevTable,
    NetdevType,
)
from vnic.backend.items import Kind
from vnic.backend.kept_network import restore_network
from vnic.backend.options import NetdevOptions
from vnic.backend.registry import NETDEVS, NOT_BUILT, netdev_type
from vnic.net.errors import NetError
from vnic.net.records import VNIC

__all__ = [
    "NETDEVS",
    "NOT_BUILT",
    "Backend",
    "BackendContext",
    "Chardev",
    "ChardevTable",
    "NetdevOptions",
    "NetdevType",
    "netdev_add",
    "netdev_structs",
    "netdev_type",
    "restore_network",
]


def netdev_structs() -> Mapping[str, type[NetdevOptions]]:
    """The options Struct of each type, which the monitor checks arguments against."""
    return {name: row.options for name, row in NETDEVS.items()}


def netdev_add(context: BackendContext, options: NetdevOptions, by: str = VNIC) -> asyncio.Task[None] | None:
    """Create a netdev (qmp_netdev_add); `by` names the client that requested it. A NetError refuses it, and nothing
    remains.

    If it has to wait first, the result is the task that ends when the netdev exists, or with the NetError. Its id is
    reserved until then.
    """
    network = context.network
    network.check_netdev_id(options.id)
    if options.id in context.coming:
        raise NetError(f"Duplicate ID '{options.id}'")
    row = netdev_type(str(options.__struct_config__.tag))
    endpoint = row.create(context, options)

    def add() -> None:
        client = network.add_netdev(
            options.id,
            row.name,
            endpoint,
            queues=endpoint.queues,
            link=options.link,
            by=by,
            start=endpoint.start_kept,
        )
        context.items.added_client(Kind.NETDEV, client, options, by)

    preparation = endpoint.preparation()
    letting_go = context.keep.letting_go()
    """The keeper may still have what a deleted netdev had: a port, a path, an interface."""
    if preparation is None and letting_go is None:
        add()
        return None

    async def prepare_and_add() -> None:
        try:
            if letting_go is not None:
                await letting_go
            if preparation is not None:
                await preparation
        finally:
            del context.coming[options.id]
        add()

    task = context.coming[options.id] = context.loop.create_task(prepare_and_add())
    return task
