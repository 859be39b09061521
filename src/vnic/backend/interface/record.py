"""The saved state of an interface netdev apart from its sockets. `interface.backend` saves and restores it."""

from __future__ import annotations

from vnic.record import U16, U32, Record, require


class InterfaceRecord(Record, frozen=True):
    """The state of an InterfaceBackend."""

    vnet_hdr: bool
    index: U32
    """That of the interface that the socket is bound to; 0: none."""
    set_down: bool
    """vnic has set the interface down, and it is to be up again."""
    namespace_gone: bool
    paused_for: U16 | None
    """The queue of the peer that has no room."""
    sender_waits: bool

    def check_fields(self) -> None:
        require(not (self.namespace_gone and self.set_down), "set_down", "in a namespace that is gone")
        require(not (self.namespace_gone and self.sender_waits), "sender_waits", "without a socket")
