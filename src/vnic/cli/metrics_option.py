"""`-metrics` of `vnic run`: its text in, a MetricsChoice or a NetError out. `options` calls it."""

from __future__ import annotations

from vnic.cli.plain_words import host_and_port, plain_words
from vnic.machine.metrics import DEFAULT_DEVICES, MetricsChoice
from vnic.net.errors import NetError

MAX_DEVICES = 100_000
_UNIX = "unix:"


def parse_metrics(text: str) -> MetricsChoice:
    """`HOST:PORT` or `unix:PATH`, and `devices=N`."""
    tree = plain_words(text, "address", ("address", "devices"))
    address = str(tree.get("address", ""))
    devices = _devices(str(tree["devices"])) if "devices" in tree else DEFAULT_DEVICES
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        if not path:
            raise NetError(f"a path is missing behind '{_UNIX}'")
        return MetricsChoice(path=path, devices=devices)
    match host_and_port(address):
        case (str(host), port):
            return MetricsChoice(host=host, port=port, devices=devices)
    raise NetError(f"'{address}' is neither HOST:PORT nor unix:PATH")


def _devices(text: str) -> int:
    valid = text.isascii() and text.isdigit() and len(text) < 10
    if not valid or not 1 <= int(text) <= MAX_DEVICES:
        raise NetError(f"Parameter 'devices' expects a number from 1 to {MAX_DEVICES}, not '{text}'")
    return int(text)
