"""Tests of vhost= of a tap: QEMU's rules for combinations, and the close of the descriptors."""

from __future__ import annotations

import os

import pytest

from vnic.backend.options import TapOptions
from vnic.backend.tap.vhost import check_vhost, ignore_vhost
from vnic.net.errors import NetError


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (TapOptions(id="t"), False),
        (TapOptions(id="t", vhost=True), True),
        (TapOptions(id="t", vhostforce=True), True),
        (TapOptions(id="t", vhost=False, vhostforce=True), False),
        (TapOptions(id="t", fd="3", vhostfd="4"), True),
        (TapOptions(id="t", fds="3:4", vhostfds="5:6"), True),
    ],
)
def test_vhost_is_requested_as_in_qemu(options: TapOptions, asked: bool) -> None:
    assert check_vhost(options) is asked


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (TapOptions(id="t", vhost=False, vhostfd="3"), r"vhostfd\(s\)= is not valid without vhost"),
        (TapOptions(id="t", vhostfds="3"), "vhostfds= is invalid if fds= wasn't specified"),
    ],
)
def test_contradicting_options_are_refused(options: TapOptions, text: str) -> None:
    with pytest.raises(NetError, match=text):
        check_vhost(options)


def test_vhost_descriptors_are_closed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    ignore_vhost("t", [writing])
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert caplog.messages == ["netdev t: packets go through vnic: vhost-net is not used"]
