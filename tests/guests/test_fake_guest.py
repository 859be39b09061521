"""The fake guest of `vnic demo`, on a running vnic: it takes a kernel's place, so it must see the same."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.guests.lab import ECHO, nic, vnic_run

from vnic.lab.guest.errors import BootFailed
from vnic.lab.guest.fake import FakeGuest


def test_carrier_follows_and_guest_pings() -> None:
    with vnic_run("-name", "fake", *ECHO, *nic("nic0")) as running:
        guest = FakeGuest(running.socket("nic0"))
        guest.boot()
        try:
            guest.set_address("10.0.2.15/24")
            assert guest.carrier()
            for _ in range(40):
                assert guest.ping("10.0.2.2") is not None
            assert guest.ping("10.0.2.77", timeout=1) is None
            for up in (False, True, False, True):
                running.qmp.set_link("nic0", up)
                assert guest.wait_carrier(up)
            assert running.qmp.link("nic0")["guest"]["seen"] == "up"
            assert guest.ping("10.0.2.2") is not None
        finally:
            guest.close()
        assert "fake-guest" not in [thread.name for thread in threading.enumerate()]


def test_guest_outlives_its_nic() -> None:
    with vnic_run("-name", "fake", *ECHO, *nic("nic0")) as running:
        guest = FakeGuest(running.socket("nic0"))
        guest.boot()
    assert guest.ping("10.0.2.2", timeout=1) is None
    guest.close()


def test_guest_does_not_boot_without_a_nic(tmp_path: Path) -> None:
    with pytest.raises(BootFailed, match=r"cannot use .*nic0\.sock"):
        FakeGuest(tmp_path / "nic0.sock").boot()
