"""Reads the guest's /sys/class/net through its agent: `agent` asks for the interface of a NIC, and for its carrier.

What the agent answers is the guest's, and checked here. An agent that refuses raises AgentRefused, one that does not
answer HypervisorError, and an answer that makes no sense NotProven.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, TypeAlias

from vnic.adopt.evidence import NotProven, Reading
from vnic.adopt.hypervisor import AgentRefused

Ask: TypeAlias = Callable[[str, Mapping[str, object]], Awaitable[object]]

INTERFACES_MAX: Final = 64
FILE_MAX: Final = 256
_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[!-.0-~]{1,15}")
"""An interface's name, as a component of a path."""
IFF_UP: Final = 1


async def find_interface(ask: Ask, mac: bytes) -> str:
    """The name of the guest's interface on the NIC with this MAC address. Bonds, bridges and VLANs have the address of
    an interface that they stand on, and give it to others; these keep their own beside it."""
    found = []
    for name, address in _interfaces(await ask("guest-network-get-interfaces", {})):
        own = await _file_of(ask, name, "bonding_slave/perm_hwaddr")
        if (address if own is None else _mac(own)) == mac and await _file_of(
            ask, name, "device/uevent"
        ) is not None:
            found.append(name)
    if not found:
        raise NotProven(f"no interface of the guest has the address {mac.hex(':')}")
    if len(found) > 1:
        raise NotProven(f"{' and '.join(found)} of the guest have the address {mac.hex(':')}")
    return found[0]


def _interfaces(answer: object) -> Iterator[tuple[str, bytes | None]]:
    if not isinstance(answer, list):
        raise NotProven("its list of interfaces is none")
    for each in answer[:INTERFACES_MAX]:
        match each:
            case {"name": str(name), "hardware-address": str(address)} if _NAME.fullmatch(name):
                yield name, _mac(address)


def _mac(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text.strip().replace(":", ""))
    except ValueError:
        return None


async def read_carrier(ask: Ask, interface: str) -> bool | None:
    """What the guest shows; None: it has the interface down, and then shows nothing."""
    handle = await _open(ask, f"/sys/class/net/{interface}/carrier")
    try:
        text = await _read(ask, handle)
    except AgentRefused:
        return None
    finally:
        await _close(ask, handle)
    if text not in ("0\n", "1\n"):
        raise NotProven("its carrier is neither 0 nor 1")
    return text == "1\n"


async def is_admin_down(ask: Ask, interface: str) -> bool:
    text = await _file_of(ask, interface, "flags")
    return text is not None and not _number(text, 16) & IFF_UP


async def read_link(ask: Ask, interface: str, mac: bytes) -> Reading:
    """The carrier of the NIC's interface with all that makes it evidence."""
    boot = await _file(ask, "/proc/sys/kernel/random/boot_id")
    own = await _file_of(ask, interface, "bonding_slave/perm_hwaddr")
    address = own if own is not None else await _file_of(ask, interface, "address")
    if address is None or _mac(address) != mac:
        raise NotProven(f"{interface} of the guest has another address now")
    before = _number(await _file(ask, f"/sys/class/net/{interface}/carrier_changes"))
    carrier = await read_carrier(ask, interface)
    after = _number(await _file(ask, f"/sys/class/net/{interface}/carrier_changes"))
    if carrier is None or before != after:
        raise NotProven(f"{interface} of the guest changed meanwhile")
    return Reading(carrier, after, boot)


def _number(text: str, base: int = 10) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise NotProven("a number that it read is none") from None


async def _file_of(ask: Ask, interface: str, name: str) -> str | None:
    """None: there is none."""
    try:
        return await _file(ask, f"/sys/class/net/{interface}/{name}")
    except AgentRefused:
        return None


async def _file(ask: Ask, path: str) -> str:
    handle = await _open(ask, path)
    try:
        return await _read(ask, handle)
    finally:
        await _close(ask, handle)


async def _open(ask: Ask, path: str) -> int:
    handle = await ask("guest-file-open", {"path": path, "mode": "r"})
    if not isinstance(handle, int) or isinstance(handle, bool):
        raise NotProven("it opened a file without a handle")
    return handle


async def _read(ask: Ask, handle: int) -> str:
    match await ask("guest-file-read", {"handle": handle, "count": FILE_MAX}):
        case {"count": int(count), "buf-b64": str(encoded)} if len(encoded) <= 2 * FILE_MAX:
            try:
                data = base64.b64decode(encoded, validate=True)
                if len(data) == count and count:
                    return data.decode("ascii")
            except (binascii.Error, ValueError):
                pass
    raise NotProven("what it read is no text")


async def _close(ask: Ask, handle: int) -> None:
    try:
        await ask("guest-file-close", {"handle": handle})
    except AgentRefused:
        pass
