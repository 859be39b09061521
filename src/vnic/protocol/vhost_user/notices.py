"""When a client is told that the config space changed: never twice before it has read.

`DeviceEngine` owns one of these per connection.
"""

from __future__ import annotations

import enum


class News(enum.Enum):
    """Where the guest stands with the config space."""

    READ = enum.auto()
    CHANGED = enum.auto()
    TOLD = enum.auto()


class ConfigNotices:
    """Coalesces changes: a CONFIG_CHANGE goes out only on the way from CHANGED to TOLD.

    Once told, a client is not told again before it has read: it will find the newest state anyway, the guest is
    not interrupted for a state that it knows, and a channel that nobody reads (QEMU's holds about 278 messages)
    never fills up.
    """

    def __init__(self) -> None:
        self.news = News.READ

    def changed(self) -> None:
        """The config space is another one."""
        if self.news is News.READ:
            self.news = News.CHANGED

    def read(self) -> None:
        """The guest read what may have changed."""
        self.news = News.READ

    def take(self) -> bool:
        """Whether to tell the client now; it counts as told from then on."""
        if self.news is not News.CHANGED:
            return False
        self.news = News.TOLD
        return True

    def driver_gone(self) -> None:
        """No ring runs any more: a driver that was told and never read is gone; the next one is told again."""
        if self.news is News.TOLD:
            self.news = News.CHANGED

    @property
    def told(self) -> bool:
        """Whether a notice is out that the guest has not followed yet."""
        return self.news is News.TOLD
