"""Filters and other objects for qom-get, qom-set and qom-list (QEMU's qom/qom-qmp-cmds.c), which the monitor calls.

An object's path is `/objects/ID` or a suffix of that path; a filter's properties are those that `info network` prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.filters import Filter
from vnic.net.network import Network
from vnic.net.objects import NetObject

CONTAINER = "objects"


def get(network: Network, path: str, name: str) -> object:
    """The value of a property."""
    found = _find(network, path)
    return _properties(found)[_known(found, name)]


def set_(network: Network, path: str, name: str, value: object, by: str) -> None:
    """Set a property: the `status` of a filter, or what its type lets change. `by` is for the journal."""
    found = _find(network, path)
    _known(found, name)
    if not isinstance(found, Filter):
        raise NetError(f"Property '{found.type}.{name}' is not writable")
    if name != "status":
        found.set_property(name, value, by)
        return
    if not isinstance(value, str):
        raise NetError("Invalid parameter type for 'status', expected: string")
    found.set_status(value)


def list_(network: Network, path: str) -> list[tuple[str, str]]:
    """The names and types of an object's properties; for `/objects`, those of the objects."""
    if _parts(path) == [CONTAINER]:
        return [("type", "string"), *((each.id, f"child<{each.type}>") for each in _objects(network))]
    found = _find(network, path)
    return [(name, _type(name, value)) for name, value in _properties(found).items()]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _objects(network: Network) -> Iterator[Filter | NetObject]:
    yield from (each for client in network.clients for each in client.filters)
    yield from network.objects


def _find(network: Network, path: str) -> Filter | NetObject:
    parts = _parts(path)
    ends = [[CONTAINER, parts[-1]]] if parts else []
    if parts and not path.startswith("/"):
        ends.append([parts[-1]])  # a partial path (object_resolve_path)
    if parts in ends:
        for each in _objects(network):
            if each.id == parts[-1]:
                return each
    raise DeviceNotFound(path)


def _properties(of: Filter | NetObject) -> dict[str, object]:
    return {"type": of.type, **dict(reversed(of.all_properties().items()))}


def _known(of: Filter | NetObject, name: str) -> str:
    if name not in _properties(of):
        raise NetError(f"Property '{of.type}.{name}' not found")
    return name


def _type(name: str, value: object) -> str:
    if name == "queue":
        return "NetFilterDirection"
    if name == "seed":
        return "uint64"
    return "bool" if isinstance(value, bool) else "uint32" if isinstance(value, int) else "string"
