"""A User-Mode Linux of a newer release, which asks for the number of queues and has ipv6 built in."""

from __future__ import annotations

import asyncio

import pytest
from tests.guests.lab import ECHO, SOURCES, nic, vnic_run
from tests.needs import newer_uml

from vnic.lab.demo.lab import GUEST_ADDRESS, VHOST_USER, Lab
from vnic.lab.demo.steps import STEPS, first_row, run_step
from vnic.lab.guest import kit
from vnic.lab.guest.uml import UmlGuest


@pytest.fixture
def newer() -> kit.UmlKit:
    return newer_uml()


def test_every_row_of_the_demo_is_right(newer: kit.UmlKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", SOURCES)

    async def wrong() -> list[str]:
        async with Lab(*VHOST_USER) as lab:
            guest = UmlGuest([lab.nic_socket], kit=newer)
            try:
                await asyncio.to_thread(guest.boot)
                await asyncio.to_thread(guest.set_address, GUEST_ADDRESS)
                first = await first_row(lab, guest)
                rows = [first, *[await run_step(step, lab, guest) for step in STEPS]]
            finally:
                await asyncio.to_thread(guest.close)
            return [row.wrong for row in rows]

    assert asyncio.run(wrong()) == [""] * (1 + len(STEPS))


def test_it_reboots_and_needs_no_ipv6_module(newer: kit.UmlKit) -> None:
    with (
        vnic_run("-name", "newer", *ECHO, *nic("nic0")) as running,
        UmlGuest([running.socket("nic0")], kit=newer, modules=["ipv6"]) as guest,
    ):
        for _ in range(2):
            guest.set_address(GUEST_ADDRESS)
            assert guest.ping("10.0.2.2") is not None
            assert guest.run("test -e /proc/sys/net/ipv6 && uname -r") == newer.version_text()
            guest.reboot()
