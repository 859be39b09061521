"""`-web` of `vnic run`: its text in, a WebChoice or a NetError out. `options` calls it, and verbs that pass it on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vnic.cli.plain_words import host_and_port, plain_words
from vnic.monitor.policy import Policy
from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.web.choice import LOOPBACK, PAGE, WebChoice

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


def passed_on(texts: Sequence[str]) -> list[str]:
    """The options for a `vnic run` that another verb starts in a folder of its own. Refused for what is none."""
    from vnic.cli.client import Refused  # here: vnic run is no client

    words = []
    for text in texts:
        try:
            choice = parse_web(text)
        except NetError as error:
            raise Refused(f"-web {text}: {error}") from None
        words += ["-web", _text(choice)]
    return words


def _text(choice: WebChoice) -> str:
    parts = [str(choice), *(f"name={name}" for name in choice.names)]
    if choice.policy is not None:
        parts.append(f"policy={choice.policy}")
    if choice.token_file is not None:
        parts.append(f"token-file={os.path.abspath(choice.token_file)}")
    return ",".join(part.replace(",", ",,") for part in parts)


def pages(said: str) -> list[str]:
    """The lines in what a `vnic run` said on stderr that tell of its pages."""
    return [line.removeprefix("vnic: ") for line in said.splitlines() if line.startswith(PAGE)]


def _address(text: str) -> tuple[str, int]:
    found = host_and_port(text)
    if found is None:
        raise NetError(f"'{text}' is neither PORT nor HOST:PORT")
    host, port = found
    if host == "":
        raise NetError(f"'{text}' has no host: 0.0.0.0 is all IPv4 addresses, PORT alone is {LOOPBACK}")
    return host or LOOPBACK, port
