"""link-fault and query-faults: what is wrong with a link. The machine calls it.

A fault of frames (`one-way`, `dead`, `black-hole`) is an object netem, `NAME-fault`; one of the link's state is in
`vnic.net.faults`. All go on without their client, and end with the NIC or netdev whose name they were given.
"""

from __future__ import annotations

from typing import Any, Final

from vnic.backend.base import BackendContext
from vnic.filter.impair import netdev_of, netems
from vnic.filter.netem import Netem
from vnic.filter.options import NetemOptions
from vnic.filter.registry import keep_item, object_del
from vnic.net.client import NetClient
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.fault_info import (
    MS_MAX,
    PENALTY_MAX,
    DampenedSettings,
    FaultInfo,
    FaultShape,
    FaultWords,
    SlowUpSettings,
)
from vnic.net.filter_set import add_filter, find_filter
from vnic.net.filters import Direction
from vnic.net.netem.units import refusal
from vnic.net.network import Network
from vnic.net.objects import check_new_id

MIN_HOLE: Final = 14
"""An Ethernet header."""
MAX_HOLE: Final = 0xFFFF_FFFF
_WORDS: Final = {
    FaultShape.ONE_WAY: ("direction",),
    FaultShape.DEAD: (),
    FaultShape.BLACK_HOLE: ("bytes",),
    FaultShape.SLOW_UP: ("delay-ms",),
    FaultShape.DAMPENED: ("half-life-ms", "suppress", "reuse", "max-ms"),
}
"""What each shape takes."""
_NEEDED: Final = frozenset(("direction", "bytes", "delay-ms"))
_BOUNDS: Final = {
    "bytes": (MIN_HOLE, MAX_HOLE),
    "delay-ms": (1, MS_MAX),
    "half-life-ms": (1, MS_MAX),
    "max-ms": (1, MS_MAX),
    "suppress": (1, PENALTY_MAX),
    "reuse": (1, PENALTY_MAX),
}


def start(context: BackendContext, name: str, shape: FaultShape, words: FaultWords, by: str) -> None:
    """Begin a fault. Raises NetError, and then nothing has changed."""
    given = _checked(shape, words)
    network = context.network
    if shape is FaultShape.SLOW_UP:
        network.faults.start(name, SlowUpSettings(given["delay_ms"]), by)
    elif shape is FaultShape.DAMPENED:
        network.faults.start(name, DampenedSettings(**given), by)
    else:
        _impair(context, name, shape, given, by)


def _checked(shape: FaultShape, words: FaultWords) -> dict[str, Any]:
    """The words that were given, by attribute. Raises NetError."""
    given = {}
    for names in _WORDS.values():
        for word in names:
            attribute = word.replace("-", "_")
            value = getattr(words, attribute)
            if value is None:
                if word in _NEEDED and word in _WORDS[shape]:
                    raise NetError(f"Parameter '{word}' is missing")
                continue
            if word not in _WORDS[shape]:
                raise NetError(f"Parameter '{word}' is unexpected: a fault '{shape}' does not have it")
            if word in _BOUNDS:
                least, most = _BOUNDS[word]
                if not least <= value <= most:
                    raise refusal(word, f"a number from {least} to {most}", value)
            given[attribute] = value
    return given


def _impair(context: BackendContext, name: str, shape: FaultShape, given: dict[str, Any], by: str) -> None:
    network = context.network
    netdev = netdev_of(network, name)
    before = netems(netdev, faults=True)
    taken = find_filter(network, f"{name}-fault") or network.objects.find(f"{name}-fault")
    check_new_id(f"{name}-fault", taken is not None and taken not in before)
    for each in before:
        object_del(context, each.id, by)
    what: dict[str, Any] = {"loss": "100%"}
    if shape is FaultShape.BLACK_HOLE:
        what = {"max_frame": given["bytes"]}
    queue = Direction(given.get("direction", "all"))
    options = NetemOptions(id=f"{name}-fault", netdev=netdev.name, queue=queue, **what)
    unit = Netem(context, options, fault=shape)
    add_filter(network, unit, unit.setup_kept)
    keep_item(context, unit, by, fault=shape)
    unit.added(by)


def clear(context: BackendContext, name: str, shape: FaultShape | None, by: str) -> None:
    """End a link's faults, or the one of that shape. NetError if there is none."""
    network = context.network
    if not network.exists(name):
        raise DeviceNotFound(name)
    ended = network.faults.clear(name, by, shape)
    for each in _of_frames(network, name):
        if shape in (None, each.fault):
            object_del(context, each.id, by)
            ended = True
    if not ended:
        raise NetError(f"'{name}' has no fault" + ("" if shape is None else f" '{shape}'"))


def nic_deleted(context: BackendContext, nic: str, netdev: NetClient | None) -> None:
    """End the faults of frames that were given its name; those of its link's state have ended with it."""
    for each in netems(netdev, faults=True) if netdev is not None else ():
        if each.id == f"{nic}-fault":
            object_del(context, each.id)


def _of_frames(network: Network, name: str | None) -> list[Netem]:
    """Those of a link, also where the NIC has no netdev now; of all for None."""
    clients = network.clients if name is None else network.find_all(name)
    netdevs = {
        end for client in clients for end in (client, client.peer) if end is not None and not end.is_nic
    }
    return [each for netdev in network.clients if netdev in netdevs for each in netems(netdev, faults=True)]


def query(network: Network, name: str | None = None) -> list[FaultInfo]:
    """query-faults: all of the network, or of a link. Raises DeviceNotFound."""
    if name is not None and not network.exists(name):
        raise DeviceNotFound(name)
    return [*map(_info, _of_frames(network, name)), *network.faults.query(name)]


def _info(unit: Netem) -> FaultInfo:
    shape = FaultShape(unit.fault)
    queue = unit.options.queue
    direction: Any = str(queue) if shape is FaultShape.ONE_WAY else None
    hole = unit.parameters.max_frame if shape is FaultShape.BLACK_HOLE else None
    text = {
        FaultShape.ONE_WAY: f"frames in the direction {queue} are lost",
        FaultShape.DEAD: "all frames are lost",
    }.get(shape, f"frames of more than {hole} bytes are lost")
    return FaultInfo(
        id=unit.id,
        name=unit.id.removesuffix("-fault"),
        shape=shape,
        text=text,
        direction=direction,
        bytes=hole,
    )
