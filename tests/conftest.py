"""Fixtures and rules that every test shares."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, or its making, says how busy the machine is, and nothing about the code.
settings.register_profile("vnic", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vnic")

# A shell script's `make test &` ignores Ctrl-C for ever (POSIX sh, 2.11), and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
