"""The help texts: every option is explained, every type is listed, and all comes from the tables that serve them."""

from __future__ import annotations

import re

import pytest

from vnic.backend import NETDEVS
from vnic.cli import options
from vnic.cli.help import RUN_HELP, help_text
from vnic.cli.main import HELP, VERBS
from vnic.cli.main import help_text as main_help
from vnic.cli.run_options import HelpTopic
from vnic.filter import OBJECTS
from vnic.machine.nics import DEVICES
from vnic.net.errors import NetError


def test_every_option_is_explained() -> None:
    for option in (*options._FLAGS, *options._WITH_ARGUMENT):
        assert re.search(rf"(^|[ ,])-{option}\b", RUN_HELP, re.MULTILINE), option


def test_every_verb_is_listed() -> None:
    text = main_help()
    for verb, (_, words) in VERBS.items():
        assert f"  {verb:10} {words}\n" in text
    assert "{" not in text
    assert "{verbs}" in HELP


def test_help_lists_every_type() -> None:
    netdevs = help_text(HelpTopic("netdev"))
    assert netdevs.startswith("Available netdev backend types:\n")
    for name in NETDEVS:
        assert re.search(rf"^  {name}  ", netdevs, re.MULTILINE)
    devices = help_text(HelpTopic("device"))
    for name in DEVICES:
        assert f'name "{name}", desc "' in devices
    assert help_text(HelpTopic("chardev")) == "Available chardev backend types:\n  socket\n  stdio\n  null\n"
    objects = help_text(HelpTopic("object"))
    for name in OBJECTS:
        assert re.search(rf"^  {name}  ", objects, re.MULTILINE)


@pytest.mark.parametrize("driver", DEVICES)
def test_the_properties_of_each_device_have_words(driver: str) -> None:
    text = help_text(HelpTopic("device", driver))
    assert text.startswith(f"{driver} options:\n")
    assert "  attach.path=<str> " in text
    for line in text.splitlines()[1:]:
        assert re.fullmatch(r"  \S+=<\S+>\s+\S.*", line), line


@pytest.mark.parametrize("kind", NETDEVS)
def test_the_options_of_each_netdev(kind: str) -> None:
    text = help_text(HelpTopic("netdev", kind))
    assert re.search(r"^  id=<str>\s+its name \(required\)$", text, re.MULTILINE)
    assert re.search(r"^  link=<bool>\s+how the link is at the start \(default: on\)$", text, re.MULTILINE)


def test_words_of_a_tunnel_are_its_own() -> None:
    lines = help_text(HelpTopic("netdev", "tunnel")).splitlines()[1:]
    assert any(re.search(r"interval=<number> +milliseconds between CCMs", line) for line in lines)
    assert any(re.search(r"mtu=<uint16> +longer frames are dropped$", line) for line in lines)
    assert all(re.fullmatch(r"  \S+=<\S+> +\S.*", line) for line in lines), "each has words"


def test_a_member_of_only_some_kinds_says_so() -> None:
    text = help_text(HelpTopic("netdev", "stream"))
    assert re.search(r"^  addr\.path=<str>\s+\(required\) \(unix only\)$", text, re.MULTILINE)
    assert re.search(r"^  addr\.type=<inet\|unix\|vsock\|fd>", text, re.MULTILINE)


def test_help_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(NetError, match="Device 'bogus' not found"):
        help_text(HelpTopic("device", "bogus"))
    with pytest.raises(NetError, match="there is no netdev 'bogus'"):
        help_text(HelpTopic("netdev", "bogus"))
