"""The NICs of a QEMU guest, as QEMU's own options: vnic's over vfio-user or vhost-user, or QEMU's own models.

Values are those of QEMU's JSON syntax for -device and -netdev.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vnic.lab.guest.errors import GuestError

_SOCKET_PATH_LIMIT = 107  # sun_path without its NUL
_PATIENCE_MS = 60_000
"""How long QEMU waits for an answer of the device, in place of 5 s, before it gives the card up: a vnic that is killed
and started again on a busy machine may take longer."""


@dataclass(frozen=True, slots=True)
class QemuNic:
    """A -device and, where it needs them, the -netdev and the -chardev behind it."""

    device: Mapping[str, object]
    netdev: Mapping[str, object] | None = None
    chardev: Mapping[str, str] | None = None

    def named(self, name: str) -> QemuNic:
        """The same with ids made of `name`, where it has none."""
        device = {"id": name, **self.device}
        if self.netdev is None:
            return replace(self, device=device)
        netdev = {"id": f"{name}-netdev", **self.netdev}
        chardev = self.chardev
        if chardev is not None:
            chardev = {"id": f"{name}-chardev", **chardev}
            netdev = {**netdev, "chardev": chardev["id"]}
        return QemuNic({**device, "netdev": netdev["id"]}, netdev, chardev)

    @property
    def name(self) -> str:
        return str(self.device["id"])

    def options(self) -> list[str]:
        """QEMU's command line for it; it is to be `named`."""
        options = []
        if self.chardev is not None:
            words = (f"{key}={value.replace(',', ',,')}" for key, value in self.chardev.items())
            options += ["-chardev", "socket," + ",".join(words)]
        if self.netdev is not None:
            options += ["-netdev", json.dumps(self.netdev)]
        return [*options, "-device", json.dumps(self.device)]


def vfio_user(socket: str | Path, **properties: object) -> QemuNic:
    """A PCI NIC of vnic, with its `attach.type=vfio-user` socket."""
    device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": _checked(socket)}}
    return QemuNic({**device, "x-msg-timeout": _PATIENCE_MS, **_words(properties)})


def vhost_user(socket: str | Path, *, queues: int = 1, **properties: object) -> QemuNic:
    """QEMU's virtio-net-pci on an `attach.type=vhost-user` socket of vnic."""
    device: dict[str, object] = {"driver": "virtio-net-pci", **_words(properties)}
    if queues > 1:
        device = {**device, "mq": True, "vectors": 2 * queues + 2}
    netdev: dict[str, object] = {"type": "vhost-user", "queues": queues}
    return QemuNic(device, netdev, {"path": _checked(socket)})


def emulated(driver: str, netdev: Mapping[str, object], **properties: object) -> QemuNic:
    """One of QEMU's own NICs on one of its own netdevs, to compare with."""
    return QemuNic({"driver": driver, **_words(properties)}, netdev)


def _words(properties: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in properties.items()}


def _checked(path: str | Path) -> str:
    text = os.path.abspath(path)
    if len(os.fsencode(text)) > _SOCKET_PATH_LIMIT:
        raise GuestError(f"the socket path {text!r} is longer than {_SOCKET_PATH_LIMIT} bytes")
    return text
