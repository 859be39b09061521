"""The turns of a VM's connection: another program, which the test plays, reads it as well, but never at one time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.attach.test_vfio_user import Bench, run

from vnic.attach.attachment import AttachmentState
from vnic.attach.vfio_user import turns
from vnic.attach.vfio_user.session import VfioUserSession
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.pci.irq import WANTED
from vnic.protocol.vfio_user import messages as m


class Other:
    """The other program: its descriptors are duplicates, as of one that was sent them."""

    def __init__(self, session: VfioUserSession) -> None:
        messages = session._port._irqs.messages()
        assert messages is not None
        self.messages = messages
        lent = messages.lend()
        assert lent is not None
        assert messages.lend() is None, "it is lent twice"
        self.sock = socket.socket(fileno=os.dup(lent.socket))
        self.ours, self.theirs = os.dup(lent.ours), os.dup(lent.theirs)

    async def turn(self) -> None:
        """Until it has been given to us."""
        ready, _, _ = await asyncio.to_thread(select.select, [self.theirs], [], [], 60)
        assert ready, "the turn is not given"
        os.eventfd_read(self.theirs)

    @property
    def has_turn(self) -> bool:
        return bool(select.select([self.theirs], [], [], 0)[0])

    def give(self) -> None:
        os.eventfd_write(self.ours, 1)

    def close(self) -> None:
        self.sock.close()
        os.close(self.ours)
        os.close(self.theirs)


Test = Callable[[Bench, Other, VfioUserClient], Awaitable[None]]


def with_other(path: Path, test: Test) -> None:
    """A VM is attached, and its connection is lent."""

    async def body(bench: Bench) -> None:
        with FakeGuestMemory(1 << 20) as ram, contextlib.ExitStack() as stack:
            client = stack.enter_context(await asyncio.to_thread(bench.client))
            await asyncio.to_thread(client.attach, ram)
            session = bench.attachment.session
            assert session is not None
            other = Other(session)
            stack.callback(other.close)
            stack.callback(other.messages.take_back)
            await test(bench, other, client)
        await bench.state(AttachmentState.WAITING)

    run(path, body)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "UNREST_S", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nic0.sock"


def vendor(client: VfioUserClient) -> bytes:
    return client.config_read(0, 2)


async def answered(other: Other, client: VfioUserClient) -> None:
    """A read that comes in the other's turn waits for ours."""
    ident = client.send(m.REGION_READ, m.REGION_ACCESS.pack(0, m.REGION_CONFIG, 2))
    await asyncio.to_thread(select.select, [other.sock], [], [])
    assert len(other.sock.recv(64, socket.MSG_PEEK)) == 32, "both read"
    other.give()
    reply = await asyncio.to_thread(client.reply, ident, m.REGION_READ)
    assert reply.payload[16:] == b"\xf4\x1a"


def test_turn_goes_back_and_forth(path: Path) -> None:
    async def test(_: Bench, other: Other, client: VfioUserClient) -> None:
        for _turn in range(3):
            await other.turn()
            await answered(other, client)

    with_other(path, test)


def test_turn_is_kept_within_a_message(path: Path) -> None:
    async def test(bench: Bench, other: Other, client: VfioUserClient) -> None:
        message = m.encode(9, m.REGION_READ, m.REGION_ACCESS.pack(0, m.REGION_CONFIG, 2))
        session = bench.attachment.session
        assert session is not None
        asked, thrice = 0, asyncio.Event()
        at_rest = session._at_rest

        def counted() -> bool:
            nonlocal asked
            rests = at_rest()
            asked += not rests
            if asked == 3:
                thrice.set()
            return rests

        session._turns._at_rest = counted
        await other.turn()
        client.sock.send(message[:20])
        other.give()
        await thrice.wait()
        assert not other.has_turn
        client.sock.send(message[20:])
        await asyncio.to_thread(client.reply, 9, m.REGION_READ)
        await other.turn()

    with_other(path, test)


def test_connection_is_read_again_when_it_is_back(path: Path) -> None:
    async def test(_: Bench, other: Other, client: VfioUserClient) -> None:
        await other.turn()
        other.messages.take_back()
        other.messages.take_back()
        assert await asyncio.to_thread(vendor, client) == b"\xf4\x1a"
        other.give()  # late, and into nothing
        assert await asyncio.to_thread(vendor, client) == b"\xf4\x1a"

    with_other(path, test)


def test_connection_that_comes_back_in_our_turn_is_read_on(path: Path) -> None:
    async def test(_: Bench, other: Other, client: VfioUserClient) -> None:
        await other.turn()
        await answered(other, client)
        other.messages.take_back()
        assert await asyncio.to_thread(vendor, client) == b"\xf4\x1a"
        assert other.messages.lend() is not None

    with_other(path, test)


def test_turn_that_was_not_ours_to_take_changes_nothing(path: Path) -> None:
    async def test(_: Bench, other: Other, client: VfioUserClient) -> None:
        other.give()
        other.give()
        await other.turn()
        assert not other.has_turn
        await answered(other, client)

    with_other(path, test)


def test_turn_is_asked_for_before_the_driver_looks(path: Path) -> None:
    async def test(bench: Bench, other: Other, client: VfioUserClient) -> None:
        bench.pci.config_interrupt()  # in our turn
        await other.turn()
        bench.pci.config_interrupt()
        assert os.eventfd_read(other.theirs) == WANTED
        await answered(other, client)

    with_other(path, test)


def test_vm_that_leaves_in_the_others_turn(path: Path) -> None:
    async def test(bench: Bench, other: Other, client: VfioUserClient) -> None:
        await other.turn()
        client.close()
        other.give()
        await bench.state(AttachmentState.WAITING)

    with_other(path, test)


def test_vm_that_is_cut_off_learns_it_while_the_other_has_the_connection(path: Path) -> None:
    async def test(bench: Bench, other: Other, client: VfioUserClient) -> None:
        await other.turn()
        session = bench.attachment.session
        assert session is not None
        session.cut_off("for a test")
        assert await asyncio.to_thread(client.at_end)
        await bench.state(AttachmentState.WAITING)

    with_other(path, test)
