"""`vnic mcp`, by the SDK's own client: what an agent is told of links, and that it changes none unless it may."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.integration.process import COMMAND, PlayedGuest, Running, guest_on, new_place, wait_for

pytest.importorskip("mcp")
from mcp import StdioServerParameters
from mcp.client.client import Client

from vnic.mcp.server import make_server

pytestmark = pytest.mark.needs("mcp")

OPTIONS = (
    *("-netdev", "echo,id=net0", "-netdev", "echo,id=lonely"),
    *("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"),
)
READERS = {"links", "why", "log", "flaps"}
WRITERS = {"set_link", "impair", "flap", "stop_flap"}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with new_place() as place, place.run(*OPTIONS) as made:
        yield made


@pytest.fixture
def played(running: Running) -> Iterator[PlayedGuest]:
    with guest_on(running.place.path("nic0.sock")) as made:
        wait_for(made.sees_up)
        yield made


Session = Callable[[Client], Awaitable[None]]


def serve(running: Running, session: Session, *, allow_write: bool = True) -> None:
    """Run a session of a client with a server in this process."""

    async def main() -> None:
        async with Client(make_server(None, running.qmp_path, allow_write=allow_write)) as client:
            await session(client)

    asyncio.run(main())


async def answer(client: Client, tool: str, **arguments: Any) -> Any:
    """The structured content of a tool's answer, which is also its text."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.content
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    [content] = result.content
    assert content.type == "text"
    return content.text


def test_an_agent_that_may_not_write_has_no_such_tools(running: Running) -> None:
    async def session(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == READERS
        for tool in tools.values():
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint
            assert tool.output_schema is not None
        said = await refusal(client, "set_link", name="nic0", state="down")
        assert said == "set_link: this server only answers questions; `vnic mcp --allow-write` changes links"
        [link] = (await answer(client, "links", name="nic0"))["links"]
        assert link["link"] == "up"

    serve(running, session, allow_write=False)


def test_set_link_tells_what_the_guest_saw_and_when(running: Running, played: PlayedGuest) -> None:
    async def session(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == READERS | WRITERS
        for state in ("down", "up"):
            done = await answer(client, "set_link", name="nic0", state=state, wait_seen=60)
            assert done["seen"] is done["is_in_state"] is done["change"]["seen"] is True
            assert played.sees_up() is (state == "up")
            assert done["change"]["link"] == done["link"]["guest"]["last_read"] == state
            assert done["change"]["cause"]["kind"] == "operator"
            assert done["change"]["seen_after_us"] > 0
            assert done["change"]["seen_at"] > done["change"]["at"]
        records = (await answer(client, "log", name="nic0", after_id=done["change"]["id"] - 1))["records"]
        assert records[0]["change"] == done["change"]

    serve(running, session)


def test_a_guest_that_does_not_read_has_not_seen(running: Running, played: PlayedGuest) -> None:
    async def session(client: Client) -> None:
        played.obeys.clear()
        done = await answer(client, "set_link", name="nic0", state="down", wait_seen=0.05)
        assert done["is_in_state"]
        assert done["seen"] is done["change"]["seen"] is False
        assert done["change"]["seen_at"] is None
        assert "the guest has last read 'up'" in done["text"]
        why = await answer(client, "why", name="nic0", changes=1)
        assert why["link"]["holds"][0]["kind"] == "operator"
        assert "it has not seen this" in why["link"]["guest"]["text"]
        assert "held by operator: set_link nic0 off" in why["text"]
        played.obeys.set()
        assert (await answer(client, "set_link", name="net0", state="up", wait_seen=60))["seen"]

    serve(running, session)


def test_no_guest_and_other_holds(running: Running) -> None:
    async def session(client: Client) -> None:
        done = await answer(client, "set_link", name="net0", state="down", wait_seen=0)
        assert not done["seen"]
        assert "no guest is attached" in done["text"]
        done = await answer(client, "set_link", name="nic0", state="up", wait_seen=0)
        assert not done["is_in_state"]
        assert "held by net0 operator" in done["text"]
        done = await answer(client, "set_link", name="lonely", state="down")
        assert done["text"] == "no NIC is plugged into it"
        for name in ("net0", "lonely"):
            await answer(client, "set_link", name=name, state="up", wait_seen=0)

    serve(running, session)


def test_impairments_and_flaps(running: Running) -> None:
    async def session(client: Client) -> None:
        done = await answer(client, "impair", name="nic0", delay="5ms", loss="1%")
        assert done["impairments"] == ["delay 5ms, loss 1%"]
        [note] = (await answer(client, "log", after_id=done["id"] - 1, limit=1))["records"]
        assert (note["id"], note["what"]) == (done["id"], "set")
        assert (await answer(client, "impair", name="nic0", clear=True))["impairments"] == []
        flapped = await answer(client, "flap", name="nic0", down_ms=60_000, up_ms=60_000, seed=3)
        assert flapped["change"]["cause"]["by"] == flapped["flap"]["id"]
        assert flapped["link"]["link"] == "down"
        assert (await answer(client, "flaps"))["flaps"] == [flapped["flap"]]
        stopped = await answer(client, "stop_flap", id=flapped["flap"]["id"])
        assert stopped["flap"] is None
        assert stopped["link"]["link"] == "up"

    serve(running, session)


def test_what_is_refused_is_an_answer(running: Running) -> None:
    async def session(client: Client) -> None:
        assert "nic9" in await refusal(client, "links", name="nic9")
        assert "nic9" in await refusal(client, "why", name="nic9")
        assert "nic9" in await refusal(client, "set_link", name="nic9", state="down")
        assert "no NIC has the MAC address" in await refusal(client, "why", name="02:00:00:00:00:00")
        assert "state" in await refusal(client, "set_link", name="nic0", state="off")
        assert "wait_seen" in await refusal(client, "set_link", name="nic0", state="up", wait_seen=1e9)
        assert "give an impairment, or clear" in await refusal(client, "impair", name="nic0")
        assert "delay" in await refusal(client, "impair", name="nic0", delay="soon")
        assert "flap-99" in await refusal(client, "stop_flap", id="flap-99")
        assert "Unknown tool" in await refusal(client, "format_disk")

    serve(running, session)


def test_over_stdio_it_finds_a_vnic_that_was_restarted() -> None:
    with new_place() as place:
        server = StdioServerParameters(
            command=sys.executable, args=[*COMMAND[1:], "mcp", "--allow-write"], env=place.environment
        )

        async def main() -> None:
            async with Client(server) as client:
                assert "no vnic is running" in await refusal(client, "links")
                for _ in range(2):
                    running = await asyncio.to_thread(place.run, *OPTIONS)
                    done = await answer(client, "set_link", name="nic0", state="down", wait_seen=0)
                    assert done["change"]["link"] == "down"
                    assert (await asyncio.to_thread(running.end))[0] == 0

        asyncio.run(main())


def test_it_ends_with_its_client(running: Running) -> None:
    done = subprocess.run(
        [*COMMAND, "mcp"],
        input="",
        env=running.place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr


def test_without_the_sdk_it_says_what_to_install(running: Running) -> None:
    code = "import sys; sys.modules['mcp'] = None; from vnic.cli.main import main; sys.exit(main(['mcp']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=running.place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "vnic: mcp needs the MCP SDK: pip install 'vnic[mcp]'\n")
