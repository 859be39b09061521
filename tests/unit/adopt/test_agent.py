"""Tests of `seen` by a guest's agent: what proves it, and all the answers that do not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.unit.adopt.lab import AdoptLab, PlayedNic, run, until

from vnic.adopt.evidence import Evidence, NotProven, Reading
from vnic.lab.played.qemu import PlayedAgent, PlayedQemu, text_answer


async def seen_up(lab: AdoptLab) -> tuple[PlayedQemu, PlayedAgent]:
    """An adopted VM whose agent has said that its link is up."""
    qemu = await lab.adopted("vm1", PlayedNic("net0"), agent=True)
    await until(lambda: lab.entry("vm1/net0").guest.seen == "up")
    return qemu, lab.agents["vm1"]


def agent_text(lab: AdoptLab) -> str:
    vm = lab.entry("vm1/net0").vm
    assert vm is not None
    assert vm.agent is not None
    return vm.agent


def test_agent_proves_what_the_guest_saw(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            await seen_up(lab)
            guest = lab.entry("vm1/net0").guest
            assert (guest.seen_by, guest.driver_ok) == ("agent", True)
            for up in (False, True, False):
                lab.set("vm1/net0", up)
                await until(lambda: lab.entry("vm1/net0").last_change.seen_us is not None)
                change = lab.entry("vm1/net0").last_change
                assert (change.link, change.seen_by) == ("up" if up else "down", "agent")
            assert len(lab.named("LINK_SEEN")) == 3
            assert agent_text(lab) == "its guest agent answers"

    run(main())


def test_driver_that_does_not_read_has_not_seen(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu, agent = await seen_up(lab)
            qemu.nics["net0"].reads = False
            lab.set("vm1/net0", False)
            asked = agent.asked
            await until(lambda: not qemu.nics["net0"].link and agent.asked > asked + 20)
            assert lab.entry("vm1/net0").guest.seen == "up"
            assert lab.entry("vm1/net0").last_change.seen_us is None
            qemu.nics["net0"].read()
            await until(lambda: lab.entry("vm1/net0").last_change.seen_us is not None)

    run(main())


def test_change_that_the_guest_may_have_missed_is_not_seen(tmp_path: Path) -> None:
    """It shows the state that is wanted, but has not counted the changes between."""

    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu, agent = await seen_up(lab)
            nic = qemu.nics["net0"]
            nic.reads, agent.runs = False, False
            lab.set("vm1/net0", False)
            await until(lambda: nic.set_to == [False])
            lab.set("vm1/net0", True)
            await until(lambda: nic.set_to == [False, True])
            agent.runs = True
            await until(lambda: "it has counted 0 of 2 changes" in agent_text(lab))
            assert lab.entry("vm1/net0").last_change.seen_us is None
            nic.reads = True
            lab.set("vm1/net0", False)
            await until(lambda: lab.entry("vm1/net0").last_change.seen_us is not None)

    run(main())


def test_late_agent_and_reboot(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted("vm1", PlayedNic("net0"), agent=True)
            agent = lab.agents["vm1"]
            await until(lambda: lab.entry("vm1/net0").guest.seen == "up")
            agent.kill()
            await until(lambda: "socket" in agent_text(lab))
            lab.set("vm1/net0", False)
            await until(lambda: qemu.nics["net0"].set_to)
            await agent.start()
            await until(lambda: lab.entry("vm1/net0").guest.seen == "down")
            agent.boot_id = "another"
            qemu.boot()
            await until(lambda: lab.entry("vm1/net0").guest.seen_by == "agent")
            assert lab.entry("vm1/net0").guest.seen == "down"

    run(main())


def test_interface_that_is_down_in_the_guest(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            nic = PlayedNic("net0", admin_down=True)
            await lab.adopted("vm1", nic, agent=True)
            await until(lambda: lab.entry("vm1/net0").guest.admin_down)
            assert lab.entry("vm1/net0").guest.seen == "unknown"
            nic.admin_down = False
            await until(lambda: lab.entry("vm1/net0").guest.seen == "up")
            assert not lab.entry("vm1/net0").guest.admin_down

    run(main())


def test_port_of_a_bond_is_found_by_its_own_address(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            own = "52:54:00:12:34:57"
            first = PlayedNic("net0", perm_address="52:54:00:12:34:56")
            second = PlayedNic("net1", interface="eth1", mac=own)
            qemu = await lab.qemu("vm1", first, second, agent=True)
            vm = lab.adopt("vm1", agent=True)
            await until(lambda: vm.there)
            second.mac, second.perm_address = first.mac, own  # the guest makes a bond
            lab.set("vm1/net1", False)
            await until(lambda: lab.entry("vm1/net1").guest.seen == "down")
            await until(lambda: lab.entry("vm1/net0").guest.seen == "up")
            assert qemu.nics["net1"].set_to == [False]

    run(main())


def lie_text(**texts: str) -> Any:
    """An agent that reads this from the files of these names."""
    opened: dict[object, str] = {}

    def lie(command: str, arguments: dict[str, Any], truth: object) -> object:
        if command == "guest-file-open":
            opened[truth] = arguments["path"].rpartition("/")[2]
        name = opened.get(arguments.get("handle"), "") if command == "guest-file-read" else ""
        return text_answer(texts[name]) if name in texts else truth

    return lie


def lie_raw(wanted: str, answer: object) -> Any:
    return lambda command, _, truth: answer if command == wanted else truth


LIES = {
    "carrier without a change counted": lie_text(carrier="0\n"),
    "no number": lie_text(carrier="down\n"),
    "another address": lie_text(carrier="0\n", address="52:54:00:00:00:01\n"),
    "a count of nothing": lie_text(carrier="0\n", carrier_changes="-\n"),
    "no base64": lie_raw("guest-file-read", {"count": 2, "buf-b64": "!!!!", "eof": True}),
    "another length": lie_raw("guest-file-read", {"count": 9, "buf-b64": "MAo=", "eof": True}),
    "no handle": lie_raw("guest-file-open", True),
    "no answer of this kind": lie_raw("guest-file-read", [0]),
    "interfaces that are none": lie_raw("guest-network-get-interfaces", {"eth0": 1}),
    "another interface": lie_raw(
        "guest-network-get-interfaces", [{"name": "../../x", "hardware-address": "52:54:00:12:34:56"}]
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_agent_proves_nothing(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu, agent = await seen_up(lab)
            qemu.nics["net0"].reads = False
            agent.lie = LIES[name]
            if "interface" in name:
                agent.kill()
                await agent.start()
            lab.set("vm1/net0", False)
            asked = agent.asked
            await until(lambda: not qemu.nics["net0"].link and agent.asked > asked + 3)
            await until(lambda: agent_text(lab) != "its guest agent answers")
            assert lab.entry("vm1/net0").last_change.seen_us is None
            assert lab.entry("vm1/net0").guest.seen == "up"

    run(main())


def test_agent_with_a_wrong_sync_is_not_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            await lab.qemu("vm1", PlayedNic("net0"), agent=True)
            lab.agents["vm1"].wrong_sync = True
            lab.adopt("vm1", agent=True)
            await until(lambda: lab.agents["vm1"].asked >= 2)
            assert lab.entry("vm1/net0").guest.seen == "unknown"
            lab.agents["vm1"].wrong_sync = False
            await until(lambda: lab.entry("vm1/net0").guest.seen == "up")

    run(main())


def test_agent_that_may_not_read_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            await lab.qemu("vm1", PlayedNic("net0"), agent=True)
            lab.agents["vm1"].disabled.add("guest-network-get-interfaces")
            lab.adopt("vm1", agent=True)
            text = "its guest agent: Command guest-network-get-interfaces has been disabled"
            await until(lambda: lab.network.find_nic("vm1/net0") and agent_text(lab) == text)
            assert lab.entry("vm1/net0").guest.seen == "unknown"

    run(main())


def test_only_a_guest_that_looked_is_taken_for_one_that_did() -> None:
    """A guest that looks now and then, or not at all, and an agent that is asked now and then: 1000 histories."""
    right = 0
    for seed in range(1000):
        chance = random.Random(seed)
        evidence = Evidence()
        device = guest = True
        changes = count = 0
        looked = True
        """The driver has read the device since its last change."""
        for _ in range(30):
            what = chance.random()
            if what < 0.3:
                device, count, looked = not device, count + 1, False
            elif what < 0.6:
                changes += guest is not device
                guest, looked = device, True
            else:
                try:
                    proven = evidence.take(Reading(guest, changes, "boot"), device, count)
                except NotProven:
                    proven = False
                assert looked or not proven, f"seed {seed}"
                right += proven
    assert right > 1000
