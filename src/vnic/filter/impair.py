"""link-impair and query-impairments: the netem objects of a link, found by the name of its NIC or netdev.

The machine calls it. A link has one object for both directions, `NAME-netem`, or one for each, `NAME-netem-rx` and
`NAME-netem-tx`; objects of other ids are changed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from vnic.backend.base import BackendContext
from vnic.filter.netem import Netem
from vnic.filter.options import NetemOptions
from vnic.filter.registry import object_add, object_del
from vnic.net.client import NetClient, Nic
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.filters import Direction
from vnic.net.netem import parameters as netem
from vnic.net.netem.info import DirectionInfo, NetemInfo
from vnic.net.netem.parameters import Parameters
from vnic.net.netem.words import NetemWords
from vnic.net.network import Network

OTHER = {Direction.RX: Direction.TX, Direction.TX: Direction.RX}


def netdev_of(network: Network, name: str) -> NetClient:
    """The netdev of that name, or that of the NIC. Raises DeviceNotFound, or NetError for a NIC without netdev."""
    found = network.find_all(name)
    if not found:
        raise DeviceNotFound(name)
    nic = next((each for each in found if isinstance(each, Nic)), None)
    netdev = found[0] if nic is None else nic.peer
    for each in (found[0], netdev, None if netdev is None else netdev.peer):
        if each is not None and each.endpoint.elsewhere:
            raise NetError(
                f"'{each.name}' is a NIC of an adopted VM: its packets do not pass vnic, which cannot impair them"
            )
    if netdev is None:
        raise NetError(f"'{name}' is plugged into no netdev: there are no frames to impair")
    return netdev


def netems(netdev: NetClient, *, faults: bool = False) -> list[Netem]:
    """Those of a netdev which are, or are not, faults."""
    return [each for each in netdev.filters if isinstance(each, Netem) and bool(each.fault) is faults]


def impair(
    context: BackendContext, name: str, queue: Direction, words: NetemWords, by: str, *, clear: bool
) -> None:
    """link-impair: change what `words` has, in these directions. With `clear`, all else ends. After a NetError nothing
    has changed."""
    given = {key: getattr(words, key.replace("-", "_")) for key in (*netem.PROPERTIES, "seed")}
    given = {key: value for key, value in given.items() if value is not None}
    netdev = netdev_of(context.network, name)
    if not given:
        if not clear:
            raise NetError("nothing is to be changed: give an impairment, or clear")
        _clear(context, netdev, queue, by)
        return
    seed = given.pop("seed", None)
    if clear:
        given = netem.shown(netem.NOTHING) | given
    changing, missing, divided = _concerned(netdev, queue)
    for each in changing:
        netem.changed(each.parameters, given)
    if missing is not None:
        start = netem.NOTHING if divided is None else divided.parameters
        _add(context, name, netdev, missing, netem.changed(start, given), seed, by)
    if divided is not None:
        divided.narrow(OTHER[queue], by)
    for each in changing:
        each.change(given, by, seed=seed)


def _concerned(netdev: NetClient, queue: Direction) -> tuple[list[Netem], Direction | None, Netem | None]:
    """The objects that are changed; the directions of one that is to be made; and the one for both directions of which
    that takes over one."""
    present = netems(netdev)
    for_both = next((each for each in present if len(each.directions) == 2), None)
    single = {direction: each for each in present for direction in each.directions if each is not for_both}
    if queue is not Direction.ALL:
        return ([single[queue]], None, None) if queue in single else ([], queue, for_both)
    if for_both is not None:
        return [for_both], None, None
    missing = [each for each in OTHER if each not in single]
    return list(single.values()), (Direction.ALL if not single else missing[0] if missing else None), None


def _add(
    context: BackendContext,
    name: str,
    netdev: NetClient,
    direction: Direction,
    parameters: Parameters,
    seed: int | None,
    by: str,
) -> None:
    suffix = "" if direction is Direction.ALL else f"-{direction}"
    values = _by_attribute(parameters)
    options = NetemOptions(
        id=f"{name}-netem{suffix}", netdev=netdev.name, queue=direction, seed=seed, **values
    )
    object_add(context, options, by)


def _clear(context: BackendContext, netdev: NetClient, queue: Direction, by: str) -> None:
    for each in netems(netdev):
        if queue is Direction.ALL or each.directions == {queue}:
            object_del(context, each.id, by)
        elif queue in each.directions:
            each.narrow(OTHER[queue], by)


def query(network: Network, name: str | None = None) -> Iterable[NetemInfo]:
    """query-impairments: all of the network, or of a link. Raises NetError."""
    netdevs = network.clients if name is None else [netdev_of(network, name)]
    return [info(each, netdev) for netdev in netdevs for each in netdev.filters if isinstance(each, Netem)]


def info(unit: Netem, netdev: NetClient) -> NetemInfo:
    """The entry of one object."""
    peer = netdev.peer
    return NetemInfo(
        id=unit.id,
        netdev=netdev.name,
        queue=unit.options.queue.value,
        text=unit.parameters.text(),
        parameters=NetemWords(**_by_attribute(unit.parameters), seed=unit.seed),
        on=unit.on,
        directions=[
            DirectionInfo(
                "rx" if direction is Direction.RX else "tx",
                line.waiting,
                msgspec.structs.replace(line.counts),
            )
            for direction, line in unit.lines.items()
        ],
        nic=peer.name if isinstance(peer, Nic) else None,
        fault=unit.fault or None,
    )


def _by_attribute(parameters: Parameters) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in netem.shown(parameters).items()}


def _word(direction: Direction) -> Literal["rx", "tx"]:
    return "rx" if direction is Direction.RX else "tx"
