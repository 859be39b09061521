"""The same 40 link steps for each of vnic's models and for QEMU's own device of that model, in one guest.

The steps are taken once, in lockstep, when the first test asks for what came of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.guests.models import MODELS
from tests.guests.parity import STEPS, Difference, parity_rig, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TAKING_PART = [model for model in MODELS if model.parity]
NAMES = [model.name for model in TAKING_PART]


@pytest.fixture(scope="module")
def differences() -> Mapping[str, list[Difference]]:
    with parity_rig(TAKING_PART) as rig:
        return run(rig)


def test_script_has_forty_steps() -> None:
    assert len(STEPS) == 40


@pytest.mark.parametrize("model", NAMES)
def test_guest_has_the_same_registers_interrupts_and_messages_as_with_qemus_own(
    differences: Mapping[str, list[Difference]], model: str
) -> None:
    assert differences[model] == []
