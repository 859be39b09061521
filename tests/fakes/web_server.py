"""`-web` of a FakeMachine, in a thread with a loop of its own: hostile browsers are tried on it one after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.fakes.browser import PATIENCE_S, Browser
from tests.fakes.monitored_machine import FakeMachine

from vnic.keep import NO_KEEP, Keep
from vnic.monitor.policy import Policy
from vnic.monitor.server import Monitors
from vnic.web.choice import WebChoice
from vnic.web.server import Web

T = TypeVar("T")


class Served:
    """The server, from another thread. `machine.network.emit` and all else of it is to be called by `do`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, choice: WebChoice, keep: Keep) -> None:
        self.loop = loop
        self.machine = FakeMachine()
        self.monitors = Monitors(self.machine, loop)
        self.web = Web(loop, choice, self.monitors, Policy.FULL, keep)
        self.escaped: list[dict[str, object]] = []
        """What the loop's callbacks let escape."""
        self.port = 0
        self.token = ""

    async def open(self) -> None:
        self.loop.set_exception_handler(lambda _, context: self.escaped.append(context))
        url = await self.web.open()
        assert url is not None
        address, _, self.token = url.partition("/?token=")
        self.port = int(address.rpartition(":")[2])

    async def close(self) -> None:
        self.monitors.close()
        await self.web.close()

    def do(self, call: Callable[[], T]) -> T:
        """Call it in the loop's thread."""

        async def called() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(PATIENCE_S)

    def browser(self) -> Browser:
        return Browser(self.port, f"/qmp?token={self.token}")


@contextmanager
def served(choice: WebChoice, keep: Keep = NO_KEEP) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: object) -> None:
        assert asyncio.iscoroutine(coroutine)
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE_S)

    async def end_tasks() -> None:
        """Those of browsers that the test did not close, as asyncio's Runner ends them."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    made = Served(loop, choice, keep)
    try:
        run(made.open())
        try:
            yield made
        finally:
            run(made.close())
            run(end_tasks())
            run(loop.shutdown_default_executor())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert not made.escaped, made.escaped
