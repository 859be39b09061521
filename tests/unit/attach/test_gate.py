"""Tests of the gate: the delay before the next client grows with the strikes, and a silent client does not keep the
NIC."""

from __future__ import annotations

import pytest
from tests.fakes.scheduler import FakeScheduler

from vnic.attach.gate import (
    CONTESTED_S,
    FORGIVEN_AFTER_S,
    FREE_STRIKES,
    HANDSHAKE_S,
    LONGEST_PAUSE_S,
    Gate,
)
from vnic.sockets.closers import closers


class Nic:
    """A gate with its clients."""

    def __init__(self, name: str = "nic0") -> None:
        self.loop = FakeScheduler()
        self.gate = Gate(name, self.loop)
        self.given_up: list[str] = []

    def serve(self, seconds: float = 0.0, *, negotiates: bool = True, violates: bool = False) -> None:
        """One client from its start to its end."""
        self.gate.began(self.given_up.append)
        if negotiates:
            self.gate.negotiated()
        self.loop.advance(seconds)
        self.gate.ended(violated=violates)

    def storm(self, seconds: float) -> int:
        """Clients that misbehave as fast as they are accepted, for `seconds`; returns their number."""
        end, clients = self.loop.now + seconds, 0
        while self.loop.now < end:
            self.loop.advance(self.gate.delay())
            self.serve(0.001, violates=True)
            clients += 1
        return clients


def test_first_strikes_cause_no_delay() -> None:
    nic = Nic()
    for _ in range(FREE_STRIKES):
        nic.serve(violates=True)
        assert nic.gate.delay() == 0
    nic.serve(violates=True)
    assert nic.gate.delay() > 0


def test_honest_clients_never_wait_for_gate() -> None:
    nic = Nic()
    for _ in range(100):
        nic.serve()
        assert nic.gate.delay() == 0


def test_clients_that_never_negotiate_count() -> None:
    nic = Nic()
    for _ in range(FREE_STRIKES + 1):
        nic.serve(negotiates=False)
    assert nic.gate.delay() > 0


def test_storm_of_bad_clients_is_slowed_down() -> None:
    nic = Nic()
    assert nic.storm(6) <= FREE_STRIKES + 8
    assert 0 < nic.gate.delay() <= LONGEST_PAUSE_S
    assert nic.storm(600) <= 600 / 2


def test_strikes_expire() -> None:
    nic = Nic()
    nic.storm(6)
    nic.loop.advance(20 * FORGIVEN_AFTER_S)
    assert nic.gate.delay() == 0
    nic.serve(violates=True)
    assert nic.gate.delay() == 0


def test_rare_strikes_do_not_add_up() -> None:
    nic = Nic()
    for _ in range(100):
        nic.serve(FORGIVEN_AFTER_S, violates=True)
        assert nic.gate.delay() == 0


def test_negotiated_client_may_stay() -> None:
    nic = Nic()
    nic.gate.began(nic.given_up.append)
    nic.gate.negotiated()
    assert nic.gate.delay() == 0  # accepted, to be refused
    nic.loop.advance(10 * HANDSHAKE_S)
    assert nic.given_up == []


def test_silent_client_is_disconnected_after_timeout() -> None:
    nic = Nic()
    nic.gate.began(nic.given_up.append)
    nic.loop.advance(HANDSHAKE_S - 1)
    assert nic.given_up == []
    nic.loop.advance(1)
    assert nic.given_up == [f"it did not negotiate within {HANDSHAKE_S:g} s"]


def test_silent_client_is_disconnected_for_waiting_one() -> None:
    nic = Nic()
    nic.gate.began(nic.given_up.append)
    while not nic.given_up and nic.loop.now < HANDSHAKE_S:
        delay = nic.gate.delay()  # the new client polls
        assert delay > 0
        nic.loop.advance(delay)
    assert nic.loop.now == pytest.approx(CONTESTED_S, abs=0.1)
    assert nic.given_up == ["it did not negotiate, and another client waits"]


def test_long_silent_client_is_disconnected_at_once() -> None:
    nic = Nic()
    nic.gate.began(nic.given_up.append)
    nic.loop.advance(2 * CONTESTED_S)
    nic.gate.delay()
    nic.loop.advance()
    assert len(nic.given_up) == 1


def test_no_client_is_accepted_while_closes_block(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    busy = {"nic0"}
    monkeypatch.setattr(closers, "busy", busy.__contains__)
    nic, other = Nic(), Nic("nic1")
    assert nic.gate.delay() > 0
    assert nic.gate.delay() > 0
    assert other.gate.delay() == 0
    assert caplog.text.count("no client is taken") == 1
    busy.clear()
    assert nic.gate.delay() == 0
