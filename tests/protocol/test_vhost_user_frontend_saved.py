"""A vhost-user front-end that is saved and restored between any two pieces that it reads, beside one that lives on."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.fakes.front_end import FrontEnd, ring

from vnic.protocol.vhost_user.frontend import FrontendEngine
from vnic.protocol.vhost_user.frontend_record import WANTED_PROTOCOL_FEATURES, Phase
from vnic.protocol.vhost_user.messages import P_MQ, P_REPLY_ACK

PAIRS = 2


class AnyTime(RuleBasedStateMachine):
    """The same happens to both; what they send and tell their owners is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lives, self.moves = self.both = FrontEnd(PAIRS), FrontEnd(PAIRS)
        self.rest = b""
        for each in self.both:
            each.engine.begin()

    @property
    def phase(self) -> Phase:
        return self.lives.engine.phase

    @rule()
    def save_and_restore(self) -> None:
        self.moves.move()

    @precondition(lambda self: self.lives.due or self.rest)
    @rule(
        size=st.integers(1, 30),
        features=st.sampled_from([WANTED_PROTOCOL_FEATURES, P_MQ | P_REPLY_ACK, P_MQ]),
    )
    def answer(self, size: int, features: int) -> None:
        """A piece of the answer comes, or all of it."""
        if not self.rest:
            self.rest = self.lives.answer(features=features)
            self.moves.due.pop(0)
        piece, self.rest = self.rest[:size], self.rest[size:]
        for each in self.both:
            each.engine.feed(piece)

    @precondition(lambda self: self.phase is Phase.READY)
    @rule()
    def start(self) -> None:
        for each in self.both:
            each.start()

    @precondition(lambda self: self.phase is Phase.RUNNING)
    @rule(index=st.integers(0, 2 * PAIRS - 1), kick=st.sampled_from([None, 50, 51]), enabled=st.booleans())
    def set_ring(self, index: int, kick: int | None, enabled: bool) -> None:
        for each in self.both:
            each.engine.set_ring(ring(index, kick, enabled=enabled))

    @precondition(lambda self: self.phase is Phase.RUNNING)
    @rule(index=st.integers(0, 2 * PAIRS - 1), enabled=st.booleans())
    def enable_ring(self, index: int, enabled: bool) -> None:
        for each in self.both:
            each.engine.enable_ring(index, enabled)

    @precondition(lambda self: self.phase is Phase.RUNNING)
    @rule()
    def stop(self) -> None:
        for each in self.both:
            each.engine.stop()

    @precondition(lambda self: self.phase is not Phase.HANDSHAKE)
    @rule()
    def announce(self) -> None:
        done = [each.engine.send_rarp(b"\2" * 6) for each in self.both]
        assert done[0] == done[1]

    @invariant()
    def are_the_same(self) -> None:
        lives, moves = (self.seen(each) for each in self.both)
        assert moves == lives

    def seen(self, each: FrontEnd) -> object:
        engine: FrontendEngine = each.engine
        return (
            each.sent,
            each.told,
            engine.phase,
            engine.awaited,
            engine.wanted,
            engine.rings,
            engine.features,
        )


AnyTime.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestFrontEndSavedAtAnyTime = AnyTime.TestCase
