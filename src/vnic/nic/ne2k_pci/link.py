"""The chip shows its driver no link: the DP8390 is older than that.

A driver cannot know whether there is a signal, and does not ask. So a guest sees nothing of a link change: frames are
dropped while the link is down, and vnic says that this guest cannot see it (`ShownBy.NOTHING`).
"""

from __future__ import annotations

from typing import Final

SHOWS_LINK: Final = False
CONFIG2_10BASE_T: Final = 0x40
"""CONFIG2 of the RTL8029: the medium in use is 10BaseT. It says so without a cable, too."""
CONFIG3_FULL_DUPLEX: Final = 0x40
