"""The filters of a network: look-up by id, and insertion into a netdev's list (QEMU's netfilter_complete).

The machine adds and removes filters here.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.net.client import NetClient
from vnic.net.errors import NetError
from vnic.net.filters import Filter, FilterOptions, Insert
from vnic.net.network import Network
from vnic.net.objects import check_new_id


def find_filter(network: Network, filter_id: str) -> Filter | None:
    return next((each for client in network.clients for each in client.filters if each.id == filter_id), None)


def add_filter(network: Network, net_filter: Filter, setup: Callable[[], None] | None = None) -> None:
    """Insert a filter into its netdev's list, with the rules and texts of netfilter_complete. `setup` is called in
    place of the filter's own: for one that is restored.

    A NetError leaves no trace of it.
    """
    options = net_filter.options
    taken = find_filter(network, options.id) or network.objects.find(options.id)
    check_new_id(options.id, taken is not None)
    netdev = network.find_netdev(options.netdev)
    if netdev is None:
        raise NetError("Parameter 'netdev' expects a network backend id")
    if netdev.queues > 1:
        raise NetError("multiqueue is not supported")
    if not netdev.endpoint.passes_frames:
        raise NetError("Vhost is not supported")
    at = _place(network, netdev, options)
    net_filter.netdev = netdev
    try:
        (setup or net_filter.setup)()
    except BaseException:
        net_filter.cleanup()
        net_filter.kept.end()
        raise
    netdev.filters.insert(at, net_filter)
    netdev.item.changed()
    netdev.path_changed()


def _place(network: Network, netdev: NetClient, options: FilterOptions) -> int:
    """The index in the netdev's list that `position` and `insert` ask for."""
    if options.position == "head":
        return 0
    if options.position == "tail":
        return len(netdev.filters)
    if not options.position.startswith("id="):
        raise NetError("Parameter 'position' expects 'head', 'tail' or 'id=<id>'")
    name = options.position.removeprefix("id=")
    beside = find_filter(network, name)
    if beside is None:
        raise NetError(f"filter '{name}' not found")
    if beside.netdev is not netdev:
        raise NetError(f"filter '{name}' belongs to a different netdev")
    return netdev.filters.index(beside) + (options.insert is Insert.BEHIND)
