"""A NIC with a vhost-user netdev, and the back-end that it connects to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.loops import fresh_loop, no_fd_leak
from tests.fakes.vhost_user_backend import FakeBackend
from tests.fakes.vhost_user_wire import WireRig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[WireRig]:
    with fresh_loop() as loop, no_fd_leak():
        made = WireRig(loop, tmp_path)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def backend(rig: WireRig) -> Iterator[FakeBackend]:
    made = FakeBackend(rig.loop, rig.backend_path)
    yield made
    made.close()
