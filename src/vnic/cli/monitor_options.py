"""The options of `vnic run` about monitors: `-mon`, `-qmp`, `-qmp-pretty`, `-monitor`, `-monitor-policy`. `options` has
their table."""

from __future__ import annotations

from vnic.cli.run_options import MonitorSetting, OptionError, RunOptions, Setting, deprecated, only
from vnic.monitor.policy import Policy
from vnic.protocol import keyval

_KNOWN_CHARDEVS = ("websocket", "udp", "pty", "vc", "file", "pipe", "con", "mon", "fdset")


def mon(options: RunOptions, where: str, text: str) -> None:
    tree, _ = keyval.parse(text, "chardev", short_booleans=True)
    only(where, tree, ("chardev", "mode", "pretty", "policy", "id"))
    if "chardev" not in tree:
        raise OptionError(where, "Parameter 'chardev' is missing")
    mode = str(tree.get("mode", "readline"))
    if mode not in ("readline", "control"):
        raise OptionError(where, f"Parameter 'mode' does not accept value '{mode}'")
    pretty = str(tree.get("pretty", "off"))
    if pretty not in ("on", "off"):
        raise OptionError(where, "Parameter 'pretty' expects 'on' or 'off'")
    if pretty == "on" and mode != "control":
        raise OptionError(where, "'pretty' is not compatible with HMP monitors")
    policy = _policy(where, tree.get("policy"))
    _add_monitor(options, MonitorSetting(where, str(tree["chardev"]), mode, pretty == "on", policy))


def _policy(where: str, text: object) -> Policy | None:
    if text is None:
        return None
    if text not in list(Policy):
        raise OptionError(where, f"Parameter 'policy' expects {', '.join(Policy)}, not '{text}'")
    return Policy(str(text))


def monitor_policy(options: RunOptions, where: str, text: str) -> None:
    if text not in list(Policy):
        raise OptionError(where, f"expected one of {', '.join(Policy)}")
    options.monitor_policy = Policy(text)


def qmp(options: RunOptions, where: str, text: str) -> None:
    if text == "none":
        options.default_qmp = False
    else:
        _monitor_on(options, where, text, "control")


def qmp_pretty(options: RunOptions, where: str, text: str) -> None:
    if text == "none":
        options.default_qmp = False
    else:
        _monitor_on(options, where, text, "control", pretty=True)


def monitor(options: RunOptions, where: str, text: str) -> None:
    if text != "none":
        _monitor_on(options, where, text, "readline")


def _monitor_on(options: RunOptions, where: str, text: str, mode: str, *, pretty: bool = False) -> None:
    """QEMU's short form of a character device: `unix:PATH,server=on` (chardev/char.c: qemu_chr_parse_compat)."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "chardev":
        _add_monitor(options, MonitorSetting(where, rest, mode, pretty))
        return
    if text in ("stdio", "null"):
        tree: dict[str, object] = {"backend": text}
    elif colon and scheme in ("unix", "tcp", "telnet"):
        tree = _socket(options, where, scheme, rest)
    elif scheme in _KNOWN_CHARDEVS:
        raise OptionError(
            where, f"vnic's monitors speak over unix:, tcp:, telnet: and stdio, not over '{scheme}'"
        )
    else:
        raise OptionError(where, f"'{text}' is not a valid char driver")
    policy = _policy(where, tree.pop("policy", None))
    chardev = (
        f"compat_monitor{sum(setting.where.startswith(('-qmp', '-monitor')) for setting in options.chardevs)}"
    )
    options.chardevs.append(Setting(where, {**tree, "id": chardev}))
    _add_monitor(options, MonitorSetting(where, chardev, mode, pretty, policy))


def _socket(options: RunOptions, where: str, scheme: str, rest: str) -> dict[str, object]:
    """`PATH,server=on,…` or `HOST:PORT,server=on,…` as the keys of -chardev socket."""
    tree, _ = keyval.parse(rest, "address", short_booleans=True, deprecated=deprecated(options, where))
    address = tree.pop("address", "")
    if not isinstance(address, str) or not address:
        raise OptionError(where, f"an address is missing behind '{scheme}:'")
    if scheme == "unix":
        return {"backend": "socket", "path": address, **tree}
    host, colon, port = address.rpartition(":")
    if not colon or not port:
        raise OptionError(where, f"'{address}' is not HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if scheme == "telnet":
        tree["telnet"] = "on"
    return {"backend": "socket", "host": host, "port": port, **tree}


def _add_monitor(options: RunOptions, monitor: MonitorSetting) -> None:
    options.monitors.append(monitor)
    if monitor.mode == "control":
        options.default_qmp = False
