"""What a VM answers, taken apart without I/O: it is understood or refused, and no other exception comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Mapping

from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz.test_qmp_fuzz import JSON_LIKE, VALUES

from vnic.adopt.domain.xml import DomainXmlError, parse
from vnic.adopt.evidence import Evidence, NotProven
from vnic.adopt.hypervisor import AgentRefused
from vnic.adopt.info_network import NAME_MAX, listed
from vnic.adopt.sysfs import find_interface, is_admin_down, read_carrier, read_link
from vnic.lab.played.qemu import text_answer
from vnic.protocol.qmp.client import Event, Greeting, Messages, QmpError, Reply

MAC = bytes.fromhex("525400123456")
KEYS = st.sampled_from(["QMP", "version", "qemu", "event", "data", "return", "error", "desc", "id", "major"])
MESSAGES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode() + b"\n")
STREAMS = st.lists(MESSAGES | st.binary(max_size=50), max_size=5).map(b"".join)


def messages(chunks: list[bytes], most: int) -> list[object]:
    """Those of a stream, and what it was refused for."""
    found: list[object] = []
    unit = Messages(most)
    try:
        for chunk in chunks:
            found.extend(unit.feed(chunk))
    except QmpError as error:
        found.append(str(error))
    return found


@given(STREAMS, st.lists(st.integers(0, 300), max_size=5))
@example(b'{"return": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", [])
def test_any_stream_gives_messages_or_an_error(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = messages([data[start:end] for start, end in itertools.pairwise(edges)], 1 << 16)
    assert repr(found) == repr(messages([data], 1 << 16))
    assert all(isinstance(each, Event | Greeting | Reply | str) for each in found)


@given(st.lists(st.binary(max_size=50) | JSON_LIKE, max_size=20))
def test_what_waits_for_its_end_is_bounded(chunks: list[bytes]) -> None:
    unit = Messages(64)
    with contextlib.suppress(QmpError):
        for chunk in chunks:
            for _ in unit.feed(chunk):
                pass
            assert len(unit._unread) + len(unit._lines) <= 64


LINES = st.lists(
    st.sampled_from(
        [
            "net0",
            ": ",
            " \\ ",
            "index=0",
            ",type=nic,",
            "model=e1000,macaddr=52:54:00:12:34:56",
            "type=stream",
            "\n",
        ]
    )
    | st.text(max_size=4),
    max_size=40,
).map("".join)


@given(LINES)
@example("a" * 100_000)
@example(": " * 50_000)
def test_any_list_of_nics_is_read(text: str) -> None:
    for nic in listed(text):
        assert len(nic.mac) == 6
        assert 0 < len(nic.name) <= NAME_MAX
        assert isinstance(nic.unconnected, bool)
        assert nic.chardev is None or nic.type == "vhost-user"


XML = st.lists(
    st.sampled_from(
        [
            *("<domain>", "</domain>", "<devices>", "</devices>", "<interface type='user'>", "</interface>"),
            *(
                "<alias name='net0'/>",
                "<mac address='52:54:00:12:34:56'/>",
                "<link state='down'/>",
                "&amp;",
                "<!--",
            ),
        ]
    )
    | st.text(max_size=4),
    max_size=20,
).map("".join)
DEEP = "<domain><devices><interface><alias name='a'/><mac address='525400123456'/>{}</interface></devices></domain>"


@given(XML)
@example(DEEP.format("<a>" * 20_000 + "</a>" * 20_000))
def test_any_xml_is_a_domain_or_an_error(text: str) -> None:
    with contextlib.suppress(DomainXmlError):
        for each in parse(text).interfaces:
            assert each.with_link(False)


ANSWERS = (
    VALUES
    | st.sampled_from(["0\n", "1\n", "7\n", "52:54:00:12:34:56\n", "0x1003\n", "boot\n"]).map(text_answer)
    | st.sampled_from([1000, {}, [{"name": "eth0", "hardware-address": "52:54:00:12:34:56"}]])
    | st.just(AgentRefused("no"))
)


@given(st.lists(ANSWERS, min_size=1, max_size=30))
def test_any_answers_of_an_agent_prove_something_or_nothing(answers: list[object]) -> None:
    """The last one is repeated."""
    left = iter(answers)

    async def ask(command: str, arguments: Mapping[str, object]) -> object:
        answer = next(left, answers[-1])
        if isinstance(answer, AgentRefused):
            raise answer
        return answer

    async def read() -> None:
        with contextlib.suppress(NotProven, AgentRefused):
            name = await find_interface(ask, MAC)
            assert "/" not in name
        for reading in (read_carrier(ask, "eth0"), is_admin_down(ask, "eth0"), read_link(ask, "eth0", MAC)):
            with contextlib.suppress(NotProven, AgentRefused):
                await reading
        with contextlib.suppress(NotProven, AgentRefused):
            Evidence().take(await read_link(ask, "eth0", MAC), True, 0)

    asyncio.run(read())
