"""Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one repeatedly
between register accesses of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.intel_rig import MAC, IntelRig, Netdev

from vnic.nic.intel.e1000 import E1000, MODELS

__all__ = ["MAC", "Netdev", "Rig"]


class Rig(IntelRig):
    """With an e1000."""

    device: E1000

    def __init__(self, model: str = "e1000", *, link: bool = True, autonegotiation: bool = True) -> None:
        self.model, self.autonegotiation = MODELS[model], autonegotiation
        super().__init__(link=link)

    def make(self) -> E1000:
        return E1000(self.model, autonegotiation=self.autonegotiation)


@pytest.fixture(params=["lives on", "is restored"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig()
    if request.param == "is restored":
        made.driver.before_access = made.restore_sometimes
    yield made
    made.close()


@pytest.fixture
def running(rig: Rig) -> Rig:
    """The same with the guest's driver started."""
    rig.driver.probe()
    rig.driver.start()
    return rig
