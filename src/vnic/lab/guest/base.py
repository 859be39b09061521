"""What the demo needs of a guest of any kind: UML, QEMU, or the built-in fake.

`demo.verb` boots one of them, and `demo.steps` drive it through this interface."""

from __future__ import annotations

from typing import Protocol


class Guest(Protocol):
    """A booted guest with one NIC, eth0."""

    @property
    def label(self) -> str:
        """What kind of guest it is, for a person."""

    def boot(self) -> None:
        """Start it, and wait until it has taken its NIC into use."""

    def carrier(self) -> bool:
        """Its /sys/class/net/eth0/carrier."""

    def wait_carrier(self, up: bool, *, timeout: int = 30) -> bool:
        """Wait at most `timeout` seconds for the carrier; whether it became so."""

    def set_address(self, address: str) -> None:
        """Give eth0 an IPv4 address, written as 10.0.2.15/24."""

    def ping(self, address: str) -> float | None:
        """The round trip to an IPv4 address in milliseconds; None if no answer came."""

    def close(self) -> None:
        """End it, whatever it does."""
