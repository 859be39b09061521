"""When a client is notified that the config space changed: never twice before it has read.

`BackendEngine` owns one of these per connection.
"""

from __future__ import annotations

import enum
from typing import Final

from vnic.lifecycle import Lifecycle, Moves
from vnic.record import Record


class ConfigState(enum.Enum):
    """The guest's knowledge of the config space."""

    READ = "read"
    CHANGED = "changed"
    NOTIFIED = "notified"


MOVES: Final[Moves[ConfigState]] = {
    ConfigState.READ: frozenset({ConfigState.CHANGED}),
    ConfigState.CHANGED: frozenset({ConfigState.NOTIFIED, ConfigState.READ}),
    ConfigState.NOTIFIED: frozenset({ConfigState.READ, ConfigState.CHANGED}),
}
"""From NOTIFIED back to CHANGED: the driver that was notified is gone."""


class ConfigNoticesRecord(Record, frozen=True):
    """The state of ConfigNotices."""

    config: ConfigState


class ConfigNotices:
    """Coalesces changes: a CONFIG_CHANGE goes out only on the way from CHANGED to NOTIFIED.

    Once notified, a client is not notified again before it has read: it will find the newest state anyway, the guest is
    not interrupted for a state that it knows, and a channel that the client does not read (QEMU's holds about 278
    messages) never fills up.
    """

    state = Lifecycle(ConfigState.READ, MOVES)

    def save(self) -> ConfigNoticesRecord:
        return ConfigNoticesRecord(config=self.state)

    def restore(self, record: ConfigNoticesRecord) -> None:
        ConfigNotices.state.restore(self, record.config)

    def changed(self) -> None:
        """The config space changed."""
        if self.state is ConfigState.READ:
            self.state = ConfigState.CHANGED

    def read(self) -> None:
        """The guest read what may have changed."""
        self.state = ConfigState.READ

    def take(self) -> bool:
        """Whether to notify the client now; it counts as notified afterwards."""
        if self.state is not ConfigState.CHANGED:
            return False
        self.state = ConfigState.NOTIFIED
        return True

    def driver_gone(self) -> None:
        """No ring runs any more: a driver that was notified and never read is gone; the next one is notified again."""
        if self.state is ConfigState.NOTIFIED:
            self.state = ConfigState.CHANGED

    @property
    def notified(self) -> bool:
        """Whether a notice is out that the guest has not followed yet."""
        return self.state is ConfigState.NOTIFIED
