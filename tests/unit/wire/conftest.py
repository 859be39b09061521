"""The built program, once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.wire_program import built_program


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_program(tmp_path_factory)
