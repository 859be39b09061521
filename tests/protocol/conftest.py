"""A vhost-user engine with a NIC behind and a client before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.vhost_user_rig import EngineRig, engine_rig


@pytest.fixture
def rig() -> Iterator[EngineRig]:
    with engine_rig() as made:
        yield made
