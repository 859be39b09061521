"""`vnic run`: the end of its timers and of its loop."""

from __future__ import annotations

from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable

import pytest

from vnic.cli import run
from vnic.cli.kept import Service
from vnic.cli.run_options import RunOptions
from vnic.observe import logs
from vnic.sockets import unblock


def test_guard_timer_ends_before_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal after the loop has closed its descriptors would print a traceback."""
    guarded = []
    close = BaseSelectorEventLoop.close

    async def live(
        options: RunOptions, service: Service, ready: Callable[[], None], confinement: None
    ) -> None:
        guarded.append(unblock._watch.installed)

    def closing(loop: BaseSelectorEventLoop) -> None:
        guarded.append(unblock._watch.installed)
        close(loop)

    monkeypatch.setattr(logs, "set_up", lambda _: None)
    monkeypatch.setattr(run, "_live", live)
    monkeypatch.setattr(BaseSelectorEventLoop, "close", closing)
    assert run._start(RunOptions()) == 0
    assert guarded == [True, False]
