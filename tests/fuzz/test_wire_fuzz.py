"""Some cases of the fuzzer of vnic-wire, the same each time; `make fuzz` runs others for as long as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.wire_program import build_sanitized
from tests.fuzz.wire_fuzzer import attack

CASES = 6


@pytest.mark.needs("sanitizers", "exec-tmp")
def test_program_outlives_hostile_guests_peers_and_requests(tmp_path: Path) -> None:
    attack(build_sanitized(tmp_path, "address,undefined"), 1, lambda count: count == CASES)
