"""The cables of a machine and their ends, which `cable` adds and removes."""

from __future__ import annotations

from typing import Generic, TypeVar

from vnic.net.errors import NetError

End = TypeVar("End")


class Cables(Generic[End]):
    """By name, the one or two ends of each cable. A cable exists while it has an end."""

    def __init__(self) -> None:
        self._ends: dict[str, dict[str, End]] = {}
        self.of_nics: dict[str, str] = {}
        """By NIC of an adopted VM, which need not exist yet, the netdev that is its cable's end."""

    def join(self, cable: str, netdev_id: str, end: End) -> End | None:
        """Add an end; returns the other one, if it exists. NetError for a third."""
        ends = self._ends.setdefault(cable, {})
        if len(ends) == 2:
            first, second = ends
            raise NetError(f"cable '{cable}' is in use: its two ends are '{first}' and '{second}'")
        other = next(iter(ends.values()), None)
        ends[netdev_id] = end
        return other

    def leave(self, cable: str, netdev_id: str) -> None:
        ends = self._ends[cable]
        del ends[netdev_id]
        if not ends:
            del self._ends[cable]
