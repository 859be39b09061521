"""Reads HMP's `info network`: the only list of QEMU's that has all NICs, by the names that set_link takes.

`qemu` reads it. Its text may hold what a user chose, such as paths: what is no line of a NIC is passed over.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CLIENT = re.compile(
    r"(?P<behind> \\ )?(?:(?P<port>[\w.\-]+): )?(?P<name>[\w.\-]+): "
    r"index=(?P<index>\d{1,4}),type=(?P<type>[\w-]+),(?P<info>.*)",
    re.ASCII,
)
_NIC = re.compile(r"model=(?P<model>[\w.\-]{1,64}),macaddr=(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})", re.ASCII)
_CHARDEV = re.compile(r"vhost-user\d* to (?P<chardev>.+)", re.ASCII)
NAME_MAX = 128


class Listed(NamedTuple):
    """A NIC and what it is plugged into."""

    name: str
    model: str
    mac: bytes
    netdev: str = ""
    type: str = ""
    info: str = ""

    @property
    def text(self) -> str:
        """For people: `net0 (stream)`."""
        return f"{self.netdev} ({self.type})" if self.netdev else ""

    @property
    def chardev(self) -> str | None:
        """Of a vhost-user netdev."""
        found = _CHARDEV.fullmatch(self.info) if self.type == "vhost-user" else None
        return None if found is None else found["chardev"]

    @property
    def unconnected(self) -> bool:
        """Whether it is a stream without its peer, in the words of QEMU 7.2 to 11."""
        without = self.info in ("", "listening", "connecting") or self.info.startswith("error:")
        return self.type == "stream" and without


def listed(text: str) -> list[Listed]:
    """The NICs of `info network`, each once; those on a hub with the port that they are plugged into."""
    nics: list[Listed] = []
    last = False
    """Whether what follows may be the netdev of the last NIC."""
    for line in text.splitlines():
        found = _CLIENT.fullmatch(line)
        if found is None or len(found["name"]) > NAME_MAX:
            last = False
        elif found["index"] != "0":
            continue  # another queue of the same
        elif found["type"] == "nic":
            details = _NIC.match(found["info"])
            last = details is not None and found["port"] is None
            if details is not None:
                mac = bytes.fromhex(details["mac"].replace(":", ""))
                port = (found["port"] or "")[:NAME_MAX]
                nics.append(Listed(found["name"], details["model"], mac, port, "hubport" if port else ""))
        elif found["behind"] and last:
            nics[-1] = nics[-1]._replace(netdev=found["name"], type=found["type"], info=found["info"])
            last = False
    return nics
