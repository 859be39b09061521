"""Control's side of its keeper: what it tells, and what it expects of the store."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator, Sequence

import pytest
from tests.fakes.keeper import FakeKeeper
from tests.fakes.loops import fresh_loop, until
from tests.needs import need

from vnic.cli import run
from vnic.cli.kept import LEAVES, Service
from vnic.cli.run_options import OptionError
from vnic.keep import NO_KEEP
from vnic.machine import Machine
from vnic.machine.metrics import MetricsChoice
from vnic.monitor.policy import Policy
from vnic.monitor.server import Monitors
from vnic.state.notify import Notifier
from vnic.web.choice import WebChoice
from vnic.web.server import Web


@pytest.fixture
def keeper() -> Iterator[FakeKeeper]:
    keeper = FakeKeeper()
    yield keeper
    keeper.close()


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    """The end of a service ignores those that end it."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, LEAVES)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def service_of(monkeypatch: pytest.MonkeyPatch, keeper: FakeKeeper, **variables: str) -> Service:
    for name, value in {"NOTIFY_SOCKET": keeper.address, **variables}.items():
        monkeypatch.setenv(name, value)
    return Service()


def test_keeper_that_read_nothing_for_a_while_hears_of_the_service_again(
    monkeypatch: pytest.MonkeyPatch, keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    service = service_of(monkeypatch, keeper, WATCHDOG_USEC="20000")
    with fresh_loop() as loop:
        service.ready(loop)
        until(loop, lambda: "the keeper is not told WATCHDOG=1: it has read nothing" in caplog.text)
        keeper.read()
        keeper.messages.clear()

        def heard() -> bool:
            keeper.read()
            return ["WATCHDOG=1"] in keeper.messages

        until(loop, heard)
        service.end(loop)
        assert len(caplog.records) == 1


def test_the_watchdog_is_told_without_waiting(monkeypatch: pytest.MonkeyPatch, keeper: FakeKeeper) -> None:
    waits: list[float | None] = []
    send = Notifier.send

    def seen(
        notifier: Notifier, *words: str, fds: Sequence[int] = (), patience_s: float | None = None
    ) -> None:
        waits.append(patience_s)
        send(notifier, *words, fds=fds, patience_s=patience_s)

    monkeypatch.setattr(Notifier, "send", seen)
    notifier = Notifier(keeper.address)
    notifier.alive()
    notifier.close()
    assert waits == [0]


@pytest.mark.parametrize(("told", "room"), [("5", 4), ("", None)])
def test_no_more_is_stored_than_systemd_takes(
    monkeypatch: pytest.MonkeyPatch, keeper: FakeKeeper, told: str, room: int | None
) -> None:
    service = service_of(monkeypatch, keeper, FDSTORE=told)
    most = service._most_files()
    assert most == room if room is not None else most > 1000


@pytest.mark.parametrize("goes_on", [False, True])
def test_metrics_that_cannot_be_served_cost_no_guests_after_a_restart(
    goes_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    choice = MetricsChoice(path="/no/such/folder/m")
    with fresh_loop() as loop:
        machine = Machine(loop)
        opening = run._open_metrics(choice, machine, goes_on=goes_on)
        if goes_on:
            assert loop.run_until_complete(opening) is None
            assert [record.levelno for record in caplog.records] == [logging.ERROR]
        else:
            with pytest.raises(OptionError, match="-metrics unix:/no/such"):
                loop.run_until_complete(opening)
        loop.run_until_complete(machine.close())


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_page_that_cannot_be_served_costs_no_guests_after_a_restart(
    goes_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    need("web")
    with fresh_loop() as loop, socket.create_server(("127.0.0.1", 0)) as taken:
        machine = Machine(loop)
        monitors = Monitors(machine, loop)
        choice = WebChoice(port=taken.getsockname()[1])
        web = Web(loop, choice, monitors, Policy.FULL, NO_KEEP)
        opening = run._open_web(web, goes_on=goes_on)
        if goes_on:
            loop.run_until_complete(opening)
            assert [record.levelno for record in caplog.records] == [logging.ERROR]
        else:
            with pytest.raises(OptionError, match=r"-web 127\.0\.0\.1:\d+: Failed to find an available port"):
                loop.run_until_complete(opening)
        loop.run_until_complete(web.close())
        monitors.close()
        loop.run_until_complete(machine.close())
        loop.run_until_complete(loop.shutdown_default_executor())
