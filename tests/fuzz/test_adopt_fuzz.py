"""Whatever listens at the sockets of an adopted VM harms only itself: a log line is the worst that may come of it.

The peers run in threads, and send as fast as they can. Beside each there is an honest VM, which has to be served on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from tests.fakes.hostile_peer import GREETING, NIC, HostilePeer, Play, Talk
from tests.unit.adopt.lab import AdoptLab, PlayedNic, until

from vnic.adopt.hypervisor import NICS_MAX
from vnic.adopt.vm import LOOKING
from vnic.lab.played.qemu import PlayedQemu

FLOOD = 1 << 26
"""Bytes of a message that does not end."""
MEMORY_MAX = 1 << 24
"""So much more this process may have meanwhile."""
NOISE = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\0",
    b"id",
    b"1",
    b"null",
    b"return",
)


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def noise(seed: int, size: int = 4096) -> bytes:
    chance = random.Random(seed)
    return b"".join(
        chance.choice(NOISE) if chance.random() < 0.7 else chance.randbytes(3) for _ in range(size)
    )


def tree(chance: random.Random, depth: int = 0) -> object:
    """Any JSON."""
    match chance.randrange(5 if depth > 3 else 8):
        case 0:
            return None
        case 1:
            return chance.choice([True, False, 0, -1, 1 << 70, 1.5])
        case 2 | 3 | 4:
            return chance.choice(
                ["", "running", NIC, "MQo=", "eth0", "52:54:00:12:34:56", "\0\x1b[2J", "x" * 999]
            )
        case 5:
            return [tree(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = ["status", "label", "filename", "name", "hardware-address", "count", "buf-b64", "return", "id"]
    return {chance.choice(names): tree(chance, depth + 1) for _ in range(chance.randrange(5))}


def event(name: str, **data: object) -> bytes:
    return (
        json.dumps({"event": name, "data": {key.replace("_", "-"): data[key] for key in data}}).encode()
        + b"\n"
    )


# -- monitors -----------------------------------------------------------------------------------------------------


def sends(*parts: bytes) -> Play:
    """Each, and then nothing any more."""

    def play(talk: Talk) -> None:
        for part in parts:
            talk.send(part)
        talk.wait_for_end()

    return play


def endless(first: bytes, part: bytes) -> Play:
    def play(talk: Talk) -> None:
        talk.send(first)
        for _ in range(FLOOD // len(part)):
            talk.send(part)
        talk.wait_for_end()

    return play


def talks_noise(talk: Talk) -> None:
    data = noise(talk.number)
    if talk.number % 2:
        talk.send(GREETING)
    if talk.number % 3 == 0:
        data = GREETING + data
    talk.send(data)


def drips(talk: Talk) -> None:
    for byte in GREETING[:-2]:
        talk.send(bytes((byte,)))
    talk.wait_for_end()


def answers_ids(*ids: object) -> Play:
    def play(talk: Talk) -> None:
        talk.send(GREETING)
        for request in talk.requests():
            id_ = ids[talk.number % len(ids)]
            talk.send(json.dumps({"return": {}, **({} if id_ == "none" else {"id": id_})}).encode() + b"\n")
            assert request

    return play


def answers_trees(talk: Talk) -> None:
    chance = random.Random(talk.number)
    talk.send(GREETING)
    for request in talk.requests():
        true = chance.random() < 0.5 and request["execute"] == "qmp_capabilities"
        talk.answer(request, {} if true else tree(chance))


def leaves_early(talk: Talk) -> None:
    """At another step each time."""
    data = GREETING[: talk.number * 7]
    talk.send(data)
    if len(data) == len(GREETING):
        talk.behave(1 + talk.number % 5)


def floods(*events: bytes) -> Play:
    """As a VM with many NICs on one netdev, with all these events, without end."""
    lines = [
        f"{'net0' if number == 0 else f'n{number}'}: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:{number:02x}"
        "\r\n \\ st0: index=0,type=stream,unix:a\r\n"
        for number in range(NICS_MAX)
    ]

    def play(talk: Talk) -> None:
        talk.send(GREETING)
        talk.behave(3, {"human-monitor-command": "".join(lines)})
        while True:
            talk.send(b"".join(events) * 1000)

    return play


def changes_its_nics(talk: Talk) -> None:
    """More than are adopted, others each time, and asks to be asked."""
    talk.send(GREETING)
    for number, request in enumerate(talk.requests()):
        lines = [
            f"n{number}-{each}: index=0,type=nic,model=e1000,macaddr=52:54:00:00:{each >> 8:02x}:{each & 255:02x}"
            for each in range(300)
        ]
        truth = "\r\n".join(lines) if request["execute"] == "human-monitor-command" else {"status": "running"}
        talk.answer(request, truth)
        talk.send(event("DEVICE_DELETED", device="x") * 50)


def never_answers(talk: Talk) -> None:
    talk.send(GREETING)
    talk.wait_for_end()


DEEP = b'{"return": ' + b"[" * 500_000 + b"]" * 500_000 + b', "id": 1}\n'

MONITORS: dict[str, Play] = {
    "noise": talks_noise,
    "greeting in drops": drips,
    "greeting without end": endless(b'{"QMP": {"version": "', b"x" * 65536),
    "line without end": endless(GREETING, b"x" * 65536),
    "message of many lines without end": endless(GREETING, b'{"a":\n' * 10_000),
    "nothing but line ends": endless(GREETING, b"\n" * 65536),
    "deep nesting": sends(GREETING, DEEP),
    "deep nesting without end": endless(GREETING, b'{"a":[' * 10_000),
    "two greetings": sends(GREETING + GREETING),
    "answers before the greeting": sends(b'{"return": {}, "id": 1}\n'),
    "no objects": sends(GREETING, b"[1]\n7\nnull\n"),
    "wrong ids": answers_ids(0, 2, -1, True, 1.0, "1", None, "none", 1 << 70, [1], {"1": 1}),
    "answers of another kind": answers_trees,
    "ends early": leaves_early,
    "other NICs each time": changes_its_nics,
    "no answer": never_answers,
    "resets": floods(event("RESET", guest=True)),
    "run states": floods(event("STOP"), event("RESUME"), event("GUEST_PANICKED", info="\x1b[2J" * 99)),
    "netdevs": floods(
        event("NETDEV_STREAM_DISCONNECTED", netdev_id="st0"),
        event("NETDEV_VHOST_USER_CONNECTED", netdev_id="st0"),
        event("NETDEV_STREAM_CONNECTED", netdev_id=["st0"]),
    ),
    "events of nothing": floods(event(""), event("X" * 999, x=1), b'{"event": "STOP", "data": 7}\n'),
}
QUIET = {
    *("greeting in drops", "answers of another kind", "nothing but line ends", "no objects", "no answer"),
    *("resets", "run states", "netdevs", "events of nothing", "other NICs each time"),
}
"""What breaks no rule."""

# -- agents -------------------------------------------------------------------------------------------------------


def agent_noise(talk: Talk) -> None:
    talk.send(noise(talk.number))
    talk.sync()
    talk.send(noise(talk.number + 1))
    talk.wait_for_end()


def agent_answers_trees(talk: Talk) -> None:
    chance = random.Random(talk.number)
    talk.sync()
    for request in talk.requests():
        if request["execute"] == "guest-sync-delimited":
            talk.send(b"\xff")
            talk.answer(request, request["arguments"]["id"])
        else:
            talk.answer(request, tree(chance))


def agent_answers_twice(talk: Talk) -> None:
    talk.sync()
    for request in talk.requests():
        talk.send(b"\xff" if request["execute"] == "guest-sync-delimited" else b"")
        for _ in range(2):
            talk.answer(request, request.get("arguments", {}).get("id"))


def agent_floods(*parts: bytes) -> Play:
    """Without end, once it has begun as an agent does."""

    def play(talk: Talk) -> None:
        talk.sync()
        data = b"".join(parts)
        while True:
            talk.send(data * max(1, 65536 // len(data)))

    return play


def agent_that_never_syncs(talk: Talk) -> None:
    while True:
        talk.send(b"\xff" + noise(talk.number, 100) + b'\n{"return": 1}\n')


AGENTS: dict[str, Play] = {
    "noise": agent_noise,
    "answers of another kind": agent_answers_trees,
    "answers twice": agent_answers_twice,
    "no sync": agent_that_never_syncs,
    "sentinels": agent_floods(b"\xff"),
    "answers without end": agent_floods(b'{"return": {}}\n'),
    "events": agent_floods(event("X")),
    "line ends": agent_floods(b"\n"),
    "line without end": agent_floods(b"x"),
    "deep nesting": agent_floods(DEEP),
    "errors": agent_floods(b'{"error": {"desc": ["\\u001b[2J"]}}\n'),
    "reads nothing": lambda talk: talk.wait_for_end(),
    "ends at once": lambda talk: None,
}
SYNCED = AGENTS.keys() - {
    "noise",
    "sentinels",
    "no sync",
    "reads nothing",
    "ends at once",
    "line ends",
    "line without end",
}
"""Those that answer, break a rule, and answer again."""


class Beside:
    """A lab with a hostile peer, and an honest VM that has to be served on."""

    def __init__(self, lab: AdoptLab, peer: HostilePeer, honest: PlayedQemu) -> None:
        self.lab = lab
        self.peer = peer
        self._nic = honest.nics["net0"]

    async def serve(self) -> None:
        """The honest VM's link is set some times."""
        for _ in range(10):
            up = not self._nic.link
            self.lab.set("honest/net0", up)
            await until(lambda up=up: self._nic.link is up)  # type: ignore[misc]


def beside(path: Path, play: Play, test: Callable[[Beside], Coroutine[object, object, None]]) -> int:
    """Run `test` with a hostile peer at `path`, whose connections are counted. The process does not grow meanwhile, and
    nothing is raised through the loop."""

    async def main() -> int:
        escaped: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
        with HostilePeer(str(path), play) as peer:
            async with AdoptLab(path.parent) as lab:
                made = Beside(lab, peer, await lab.adopted("honest", PlayedNic("net0")))
                before = memory()
                await made.serve()
                await test(made)
                await made.serve()
                assert memory() - before < MEMORY_MAX
            assert not escaped, escaped
            return peer.connections + 1

    return asyncio.run(asyncio.wait_for(main(), 120))


def check_log(caplog: pytest.LogCaptureFixture, most: int) -> None:
    """At most so many lines, and none of an internal error."""
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [record for record in lines if record.exc_info or record.levelno > logging.WARNING]
    texts = [record.getMessage() for record in lines]
    assert len(texts) <= most, texts
    assert all(text.isprintable() for text in texts)


@pytest.mark.parametrize("name", MONITORS)
def test_hostile_monitor_harms_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("vnic.adopt.qmp.FREE_STRIKES", 40)
    monkeypatch.setattr("vnic.adopt.qemu.LIST_S", 0.02)
    monkeypatch.setattr("vnic.adopt.qemu.AGAIN_S", 0.001)

    async def test(beside: Beside) -> None:
        vm = beside.lab.adopt("hostile")
        if name == "answers of another kind":
            await until(lambda: sum(talk.asked for talk in beside.peer.talks) > 100)
        elif name not in QUIET:
            enough = 1 if "end" in name else 8
            await until(lambda: beside.peer.connections >= enough)
        await until(lambda: vm.text != LOOKING)
        await beside.serve()
        assert len(list(beside.lab.network.nics)) <= 1 + NICS_MAX
        assert len(beside.lab.network.journal.select("hostile/net0")) < 100

    connections = beside(tmp_path / "hostile.qmp", MONITORS[name], test)
    check_log(caplog, 1 if name in QUIET else connections)


@pytest.mark.parametrize("name", AGENTS)
def test_hostile_agent_harms_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for place in ("qga.RECONNECT_S", "agent.SEARCH_S", "qga.ANSWER_S"):
        monkeypatch.setattr(f"vnic.adopt.{place}", 0.01)
    monkeypatch.setattr("vnic.adopt.qga.SYNC_S", (5.0, 0.01))
    monkeypatch.setattr("vnic.adopt.agent.PAUSES_S", (0.001,))
    told: list[str] = []
    """What the agent's state was said to be."""

    async def test(beside: Beside) -> None:
        qemu = await beside.lab.qemu("hostile", PlayedNic("net0"))
        vm = beside.lab.adopt("hostile", agent=True)
        changed = vm.agent_changed

        def note(there: bool, text: str) -> None:
            told.append(text)
            changed(there, text)

        monkeypatch.setattr(vm, "agent_changed", note)
        if name == "answers of another kind":
            await until(lambda: sum(talk.asked for talk in beside.peer.talks) > 100)
        else:
            await until(lambda: len(told) >= (3 if name in SYNCED else 1))
        for up in (False, True):
            beside.lab.set("hostile/net0", up)
            await until(lambda up=up: qemu.nics["net0"].link is up)  # type: ignore[misc]
            await beside.serve()
            entry = beside.lab.entry("hostile/net0")
            assert (entry.guest.seen, entry.last_change.seen_us) == ("unknown", None)

    beside(tmp_path / "hostile.qga", AGENTS[name], test)
    check_log(caplog, 1)
