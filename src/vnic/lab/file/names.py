"""The names that a lab's parts have in its vnic: ids of NICs, of netdevs, of cables; `plan` and `check` use them."""

from __future__ import annotations

import re

from vnic.lab.file.types import End

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]")


def nic_id(end: End) -> str:
    """`a.eth1` of `a:eth1`. What an id of QEMU may not have becomes `_`; it begins with a letter."""
    made = _NOT_IN_IDS.sub("_", f"{end.node}.{end.interface}")
    return made if made[0].isalpha() else f"n{made}"


def netdev_id(end: End) -> str:
    """What the NIC of this end is plugged into."""
    return netdev_of(nic_id(end))


def netdev_of(nic: str) -> str:
    return f"{nic}-end"


def cable_name(a: End, b: End) -> str:
    return f"{nic_id(a)}--{nic_id(b)}"


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key to sort by: `eth10` after `eth2`."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part
    ]
