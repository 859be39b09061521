"""`-web` of `vnic run`: its text in, a WebChoice or a NetError out. `options` calls it."""

from __future__ import annotations

from vnic.cli.plain_words import host_and_port, plain_words
from vnic.monitor.policy import Policy
from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.web.choice import LOOPBACK, WebChoice

_KEYS = ("address", "token-file", "policy", "name")


def parse_web(text: str) -> WebChoice:
    """`[HOST:]PORT`, `token-file=PATH`, `policy=POLICY` and any number of `name=NAME`."""
    tree = plain_words(text, "address", _KEYS)
    policy = tree.get("policy")
    if policy is not None and policy not in list(Policy):
        raise NetError(f"Parameter 'policy' expects {', '.join(Policy)}, not '{policy}'")
    host, port = _address(str(tree.get("address", "")))
    token_file, name = tree.get("token-file"), tree.get("name")
    return WebChoice(
        port=port,
        host=host,
        token_file=None if token_file is None else str(token_file),
        policy=None if policy is None else Policy(str(policy)),
        names=name.all if isinstance(name, keyval.Repeated) else () if name is None else (str(name),),
    )


def _address(text: str) -> tuple[str, int]:
    found = host_and_port(text)
    if found is None:
        raise NetError(f"'{text}' is neither PORT nor HOST:PORT")
    host, port = found
    if host == "":
        raise NetError(f"'{text}' has no host: 0.0.0.0 is all IPv4 addresses, PORT alone is {LOOPBACK}")
    return host or LOOPBACK, port
