"""What monitors see of the keeper, the process that starts this one again: in query-vnic, and by vnic-upgrade.

`cli.kept.Service` is one; the machine has NO_KEEPER where nothing keeps it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec

from vnic.net.errors import NetError


class KeeperKind(StrEnum):
    """What starts this process again when it dies."""

    SUPERVISOR = "supervisor"
    """The small process that `vnic run --keep` puts in front."""
    SYSTEMD = "systemd"


class KeeperInfo(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """query-vnic: the keeper."""

    kind: KeeperKind
    active: bool
    """Whether it holds what the next process needs, so that guests notice nothing."""
    pid: int | None = None
    """The supervisor's."""
    upgrade: str | None = None
    """What became of the newest vnic-upgrade: `done PROGRAM`, or `failed PROGRAM: WHY`."""


class MachineKeeper(Protocol):
    """The keeper of the process that a machine is in."""

    def info(self) -> KeeperInfo | None:
        """None: there is none."""

    def upgrade(self, program: str | None, by: str) -> None:
        """Leave for another version in a later turn of the loop; `by` names the client. Raises NetError."""


class _NoKeeper:
    def info(self) -> KeeperInfo | None:
        return None

    def upgrade(self, program: str | None, by: str) -> None:
        raise NetError("nothing keeps this vnic: it was not started with --keep, nor as a systemd service")


NO_KEEPER: Final[MachineKeeper] = _NoKeeper()
