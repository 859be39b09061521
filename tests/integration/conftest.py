"""A place for each test of whole processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.process import Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.close()
