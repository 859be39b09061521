"""`-metrics` of `vnic run`: its text in, a MetricsChoice or a NetError out. `options` calls it."""

from __future__ import annotations

from vnic.machine.metrics import DEFAULT_DEVICES, MetricsChoice
from vnic.net.errors import NetError
from vnic.protocol import keyval

MAX_DEVICES = 100_000
_UNIX = "unix:"


def parse_metrics(text: str) -> MetricsChoice:
    """`HOST:PORT` or `unix:PATH`, and `devices=N`."""
    tree, _ = keyval.parse(text, "address")
    for key, value in tree.items():
        if key not in ("address", "devices"):
            raise NetError(f"Invalid parameter '{key}'")
        if not isinstance(value, str) or not value or "\0" in value:
            raise NetError(f"Parameter '{key}' expects a value")
    address = str(tree.get("address", ""))
    devices = _devices(str(tree["devices"])) if "devices" in tree else DEFAULT_DEVICES
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        if not path:
            raise NetError(f"a path is missing behind '{_UNIX}'")
        return MetricsChoice(path=path, devices=devices)
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 1 << 16):
        raise NetError(f"'{address}' is neither HOST:PORT nor unix:PATH")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return MetricsChoice(host=host, port=int(port), devices=devices)


def _devices(text: str) -> int:
    valid = text.isascii() and text.isdigit() and len(text) < 10
    if not valid or not 1 <= int(text) <= MAX_DEVICES:
        raise NetError(f"Parameter 'devices' expects a number from 1 to {MAX_DEVICES}, not '{text}'")
    return int(text)
