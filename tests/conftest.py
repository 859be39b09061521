"""Fixtures and rules that every test shares."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# No test measures time, and Hypothesis does of its own accord: a busy machine must not fail one.
settings.register_profile("vnic", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vnic")


def require(condition: object, what: str) -> None:
    """Skip the test when this machine lacks `what`; fail instead where all parts are demanded.

    CI sets VNIC_REQUIRE_GUESTS=1: a missing kernel or tool is a failure there, so that no real part
    drops out of the suite unseen.
    """
    if condition:
        return
    if os.environ.get("VNIC_REQUIRE_GUESTS") == "1":
        pytest.fail(f"this machine lacks {what}, and VNIC_REQUIRE_GUESTS=1 demands it")
    pytest.skip(f"this machine lacks {what}")
