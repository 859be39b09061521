"""The README's test in pytest, of a QEMU that was started without vnic: its guest's carrier follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.places import short_folder

import vnic
from vnic.lab.guest import qemu_kit
from vnic.lab.guest.qemu import QemuGuest

pytestmark = [pytest.mark.needs("qemu-guest"), pytest.mark.usefixtures("own_labs")]


@pytest.fixture(scope="module")
def qmp() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "vm1.qmp"


@pytest.fixture(scope="module")
def vm1(qmp: Path) -> Iterator[QemuGuest]:
    """With a NIC of QEMU's own, and a monitor as the README has it."""
    nic = ["-netdev", "hubport,id=hub0,hubid=0", "-device", "e1000,id=net0,netdev=hub0"]
    monitor = ["-qmp", f"unix:{qmp},server=on,wait=off"]
    with QemuGuest(kit=qemu_kit.find_qemu(), options=[*nic, *monitor]) as guest:
        guest.run("ip link set eth0 up")
        assert guest.wait_carrier(True)
        yield guest


def test_service_survives_a_pulled_cable(vnic_lab: vnic.Vnic, qmp: Path, vm1: QemuGuest) -> None:
    vm = vnic_lab.adopt(qmp=str(qmp))
    with vm.nic("net0").unplugged():
        assert vm1.wait_carrier(False)
    assert vm1.wait_carrier(True)


def test_a_cable_that_a_test_left_out_is_in_again_after_it(
    vnic_lab: vnic.Vnic, qmp: Path, vm1: QemuGuest
) -> None:
    vnic_lab.adopt(qmp=str(qmp)).nic("net0").down()
    assert vm1.wait_carrier(False)


def test_the_test_after_it_finds_its_carrier(vm1: QemuGuest) -> None:
    assert vm1.wait_carrier(True)
