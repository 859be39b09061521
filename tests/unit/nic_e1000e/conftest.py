"""Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one repeatedly
between register accesses of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.e1000e_driver import E1000eDriver
from tests.fakes.intel_rig import MAC, IntelRig

from vnic.nic.intel.e1000e import E1000e

__all__ = ["MAC", "Rig"]


class Rig(IntelRig):
    """With an e1000e."""

    device: E1000e
    driver: E1000eDriver
    driver_type = E1000eDriver

    def make(self) -> E1000e:
        return E1000e()


@pytest.fixture(params=["lives on", "is restored"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig()
    if request.param == "is restored":
        made.driver.before_access = made.restore_sometimes
    yield made
    made.close()


@pytest.fixture
def running(rig: Rig) -> Rig:
    """The same with the guest's driver started, by MSI-X."""
    rig.driver.probe()
    rig.driver.start()
    return rig
