"""The monitor's arguments and lines against anything: every request ends in a result or a clear refusal."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.commands.table import COMMANDS
from vnic.monitor.hmp import COMMANDS as HMP_COMMANDS
from vnic.monitor.hmp_session import HmpSession
from vnic.monitor.qmp import Dispatcher, QmpSession
from vnic.monitor.schema import convert_to_shape, device_options, netdev_options
from vnic.net.errors import NetError

KEYS = st.sampled_from(
    [
        *("id", "type", "addr", "path", "name", "up", "hubid", "queues", "hostfwd", "str", "driver", "mac"),
        *("backend", "data", "qom-type", "netdev", "limit", "after-id", "enable", "command-line", "sndbuf"),
    ]
)
WORDS = st.sampled_from(
    ["stream", "hubport", "unix", "inet", "virtio-net", "null", "filter-dump", "net0", "on", "7"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
ARGUMENTS = st.dictionaries(KEYS | st.text(max_size=3), TREES, max_size=5)


@given(st.sampled_from(sorted(COMMANDS)), ARGUMENTS)
def test_any_command_arguments_give_result_or_error(command: str, arguments: dict[str, Any]) -> None:
    session = QmpSession(Dispatcher(FakeMachine()), "fuzz")
    session.negotiated = True
    reply = json.loads(session.reply({"execute": command, "arguments": arguments}))
    assert not reply.get("error", {}).get("desc", "").startswith("Internal error"), reply


@given(ARGUMENTS, st.booleans())
def test_any_options_are_accepted_or_refused(tree: dict[str, Any], strings: bool) -> None:
    machine = FakeMachine()
    for shape in (netdev_options(machine.netdev_types), device_options(machine.device_types)):
        with contextlib.suppress(NetError):
            convert_to_shape(shape, tree, strings=strings)


LINES = st.lists(
    st.sampled_from([command.names[0] for command in HMP_COMMANDS])
    | st.sampled_from(
        ["nic0", "on", '"', "\\", "stream,id=a", "hubport,id=a,hubid=1", "=", ",", "/", "\t", "help"]
    )
    | st.text(max_size=5),
    max_size=6,
).map(" ".join)


@given(LINES)
def test_any_line_gets_an_answer(line: str) -> None:
    session = HmpSession(FakeMachine(), "fuzz")
    for text in session.feed(line.encode(errors="replace") + b"\n"):
        assert b"internal error" not in text
