"""A vhost-user connection that is saved and restored between any two pieces of it, beside one that lives on."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.fakes.ring_backend import FakeRingBackend
from tests.fakes.vhost_user_rig import EngineRig

from vnic.lab.played.vhost_user_client import ALL_PROTOCOL_FEATURES
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.virtio.device_record import DataPath

RINGS = 2


@dataclass
class Side:
    """One connection, and what its client has not written yet."""

    rig: EngineRig = field(default_factory=lambda: EngineRig(1, FakeRingBackend()))
    unsent: list[tuple[bytes, Sequence[int]]] = field(default_factory=list)
    failure: str = ""
    channel: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    @property
    def back_end(self) -> FakeRingBackend:
        assert isinstance(self.rig.far, FakeRingBackend)
        return self.rig.far

    def message(self, number: int, index: int, value: int) -> tuple[bytes, Sequence[int]]:
        client = self.rig.client
        ring = self.rig.driver.rings[index]
        payload, fds = b"", []
        if number == vu.SET_MEM_TABLE:
            payload, fds = vu.MEM_TABLE.pack(1, 0) + client.region(), [self.rig.memory.fd]
        elif number in (vu.SET_VRING_NUM, vu.SET_VRING_BASE, vu.GET_VRING_BASE, vu.SET_VRING_ENABLE):
            payload = vu.VRING_STATE.pack(index, ring.size if number == vu.SET_VRING_NUM else value & 1)
        elif number == vu.SET_VRING_ADDR:
            payload = client.addresses(ring)
        elif number in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
            fds = [ring.call_fd if number == vu.SET_VRING_CALL else ring.kick_fd]
            payload = vu.U64.pack(index)
        elif number == vu.SET_FEATURES:
            payload = vu.U64.pack(self.rig.device.host_features | vu.F_PROTOCOL_FEATURES)
        elif number == vu.SET_PROTOCOL_FEATURES:
            payload = vu.U64.pack(ALL_PROTOCOL_FEATURES | (vu.P_STATUS if value & 1 else 0))
        elif number == vu.SET_STATUS:
            payload = vu.U64.pack((0, 1, 3, 11, 15)[value % 5])
        elif number == vu.SET_BACKEND_REQ_FD:
            fds = [self.channel.fileno()]
        elif number == vu.GET_CONFIG:
            payload = vu.CONFIG.pack(0, 12, 0)
        flags = vu.FLAG_NEED_REPLY if value & 2 else 0
        return struct.pack("<III", number, 1 | flags, len(payload)) + payload, fds

    def feed(self) -> None:
        """Write the next piece, unless the engine waits for the back-end."""
        engine = self.rig.engine
        if not self.unsent or engine.busy or self.failure:
            return
        data, fds = self.unsent.pop(0)
        size = engine.wanted
        if data[size:]:
            self.unsent.insert(0, (data[size:], []))
        try:
            self.rig.wire.answered += engine.feed(data[:size], [os.dup(fd) for fd in fds])
        except ProtocolError as error:
            self.failure = str(error)

    def settle(self) -> None:
        self.rig.scheduler.run_soon()
        if self.rig.failures and not self.failure:
            self.failure = str(self.rig.failures[0])

    @property
    def answers(self) -> bytes:
        return self.rig.wire.answered + b"".join(self.rig.resumed)

    def seen(self) -> object:
        rig = self.rig
        engine, device = rig.engine, rig.device
        return (
            (self.failure, self.answers, engine.busy, engine.wanted, engine.pending, engine.running),
            ([each.state for each in engine.rings], sorted(rig.kicks), rig.handed_over, engine.descriptors),
            (device.status, device.driver_features, device.datapath, engine.notices.state),
            engine.request_fd is None,
            ([queue.state for queue in device.queues], [queue.last_avail for queue in device.queues]),
            (rig.nic.guest.driver_ok, rig.nic.link_up, rig.nic.guest.seen, bool(self.back_end.waiting)),
            [(region.guest_addr, region.size) for region in rig.served.regions],
        )


NUMBERS = (
    *(vu.GET_FEATURES, vu.SET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.SET_PROTOCOL_FEATURES, vu.SET_OWNER),
    *(vu.SET_MEM_TABLE, vu.SET_VRING_NUM, vu.SET_VRING_ADDR, vu.SET_VRING_BASE, vu.GET_VRING_BASE),
    *(vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR, vu.SET_VRING_ENABLE, vu.GET_CONFIG),
    *(vu.RESET_DEVICE, vu.SET_STATUS, vu.GET_STATUS, vu.GET_QUEUE_NUM, vu.SET_BACKEND_REQ_FD),
)
SET_UP = (vu.SET_VRING_NUM, vu.SET_VRING_ADDR, vu.SET_VRING_CALL, vu.SET_VRING_KICK)


class AnyTime(RuleBasedStateMachine):
    """The same comes to both connections; what their clients and a monitor see is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lives, self.moves = self.both = Side(), Side()

    def teardown(self) -> None:
        for side in self.both:
            side.rig.close()
            side.channel.close()

    @precondition(lambda self: not self.lives.failure)
    @rule()
    def save_and_restore(self) -> None:
        """A restored device looks at its rings in the next turn: both have it."""
        self.moves.rig.move()
        self.lives.rig.device.look_at_rings()
        self.compare()

    @rule()
    def compare(self) -> None:
        for side in self.both:
            side.settle()
        assert self.moves.seen() == self.lives.seen()

    @rule(pieces=st.integers(1, 6))
    def client_writes(self, pieces: int) -> None:
        for side in self.both:
            for _ in range(pieces):
                side.feed()

    @rule(number=st.sampled_from(NUMBERS), index=st.integers(0, RINGS - 1), value=st.integers(0, 15))
    def message(self, number: int, index: int, value: int) -> None:
        for side in self.both:
            side.unsent.append(side.message(number, index, value))

    @rule(index=st.integers(0, RINGS - 1))
    def set_up(self, index: int) -> None:
        """What a client sends to start a ring."""
        for side in self.both:
            side.unsent += [side.message(number, index, 0) for number in SET_UP]
            side.unsent.append(side.message(vu.SET_VRING_ENABLE, index, 1))

    @rule()
    def start(self) -> None:
        """All that a client sends to start a driver, behind what it has sent; it waits for nothing."""
        numbers = (vu.GET_FEATURES, vu.SET_PROTOCOL_FEATURES, vu.SET_FEATURES, vu.SET_BACKEND_REQ_FD)
        for side in self.both:
            side.unsent += [side.message(number, 0, 0) for number in (*numbers, vu.SET_MEM_TABLE)]
        for index in range(RINGS):
            self.set_up(index)
        self.client_writes(100)
        self.compare()

    @rule(prompt=st.booleans())
    def back_end_gives_back(self, prompt: bool) -> None:
        """It answers what it was asked, and from now on at once, or not."""
        for side in self.both:
            side.back_end.prompt = prompt
            while side.back_end.waiting:
                side.back_end.answer()

    @rule(up=st.booleans())
    def set_link(self, up: bool) -> None:
        for side in self.both:
            side.rig.set_link(up)


AnyTime.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConnectionSavedAtAnyTime = AnyTime.TestCase


def test_message_that_waits_for_back_end_is_answered_after_a_restore() -> None:
    side = Side()
    side.back_end.prompt = False
    side.rig.client.start()  # whose first ring it takes
    side.rig.scheduler.run_soon()
    assert side.rig.handed_over == {0}
    side.rig.wire.answered = b""
    side.unsent = [side.message(vu.GET_VRING_BASE, 0, 0), side.message(vu.GET_STATUS, 0, 0)]
    side.feed()
    side.feed()
    assert (side.rig.engine.busy, side.answers) == (True, b"")

    side.rig.move()
    side.rig.move()
    assert (side.rig.engine.busy, side.answers) == (True, b"")
    assert side.rig.handed_over == {0}
    side.back_end.bases = [7, 9]
    side.back_end.answer()
    assert side.answers == vu.encode(vu.GET_VRING_BASE, vu.VRING_STATE.pack(0, 7), vu.FLAG_REPLY)
    while side.unsent:
        side.feed()
    assert side.rig.wire.answered == vu.encode(vu.GET_STATUS, vu.U64.pack(15), vu.FLAG_REPLY)
    side.rig.close()
    side.channel.close()


def test_rings_on_their_way_back_are_asked_for_again() -> None:
    """The link went down and came back while the back-end was stopping: it has to start again after that."""
    side = Side()
    side.back_end.prompt = False
    side.rig.client.start()
    side.rig.scheduler.run_soon()
    side.rig.set_link(False)
    side.rig.set_link(True)
    assert (side.back_end.times, len(side.back_end.waiting)) == (1, 1)
    side.rig.move()
    side.back_end.answer()
    assert (side.back_end.times, side.rig.device.datapath) == (2, DataPath.TAKEN)
    side.back_end.prompt = True
    side.rig.close()
    side.channel.close()
