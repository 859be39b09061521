"""`adopt` of the Python API: a VM is pulled and let go with its links up, and no lie of its agent is believed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.process import Running, new_place

import vnic
from vnic.api.loop import run
from vnic.lab.played.qemu import PlayedAgent, PlayedNic, PlayedQemu

RUNS = 40
SECOND_MAC = "52:54:00:12:34:57"


class Played:
    """A QEMU and its guest's agent, served by the API's own loop."""

    def __init__(self, folder: Path) -> None:
        self.qmp, self.qga = folder / "vm1.qmp", folder / "vm1.qga"
        self.qemu = PlayedQemu(
            str(self.qmp), PlayedNic("net0"), PlayedNic("net1", mac=SECOND_MAC, interface="eth1")
        )
        self.agent = PlayedAgent(str(self.qga), self.qemu)
        run(self.qemu.start())
        run(self.agent.start())

    def close(self) -> None:
        async def kill() -> None:
            self.qemu.kill()
            self.agent.kill()

        run(kill())


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    made = Played(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with new_place() as place, place.run() as made:
        yield made


@pytest.fixture
def instance(running: Running) -> Iterator[vnic.Vnic]:
    with vnic.connect(qmp=running.qmp_path) as found:
        yield found


def test_a_vm_is_pulled_and_let_go_with_its_links_up(instance: vnic.Vnic, played: Played) -> None:
    nics = played.qemu.nics
    with instance.adopt(qmp=played.qmp, wait=60) as vm:
        assert vm.id == "vm1"
        assert [nic.name for nic in vm.nics()] == ["vm1/net0", "vm1/net1"]
        with vm.nic("net0").unplugged(wait=60):
            assert nics["net0"].set_to == [False]
        assert vm.nic(SECOND_MAC).down().link == "down"
        with pytest.raises(vnic.NotSeen, match="no guest agent was named"):
            vm.nic("net1").wait_seen(timeout=60)
        with pytest.raises(vnic.Refused, match="VM 'vm1' has no NIC 'net2'; it has: net0, net1"):
            vm.nic("net2")
        assert [each.id for each in instance.vms] == ["vm1"]
    assert nics["net0"].set_to == nics["net1"].set_to == [False, True]
    assert instance.vms == []
    assert instance.links() == []


def test_a_vm_that_does_not_answer_is_refused(instance: vnic.Vnic, tmp_path: Path) -> None:
    with pytest.raises(vnic.Refused, match="the VM did not answer"):
        instance.adopt(qmp=tmp_path / "none.qmp", wait=0.1)
    assert [each["name"] for each in instance.execute("qom-list", {"path": "/objects"})] == ["type"]
    with pytest.raises(ValueError, match="either qmp"):
        instance.adopt()


class OtherCarrier:
    """The driver has not read; the agent says that the carrier is the other, which the count of changes belies."""

    def __init__(self) -> None:
        self._carriers: set[object] = set()

    def __call__(self, command: str, arguments: dict[str, Any], answer: object) -> object:
        if command == "guest-file-open" and arguments["path"].endswith("/carrier"):
            self._carriers.add(answer)
        elif (
            command == "guest-file-read"
            and arguments["handle"] in self._carriers
            and isinstance(answer, dict)
        ):
            return answer | {"buf-b64": {"MQo=": "MAo=", "MAo=": "MQo="}[answer["buf-b64"]]}
        return answer


def nonsense(command: str, _: dict[str, Any], answer: object) -> object:
    return {"count": -1, "buf-b64": "=", "eof": "no"} if command == "guest-file-read" else answer


def test_an_agent_that_lies_is_not_believed(instance: vnic.Vnic, played: Played) -> None:
    """In each run the guest's driver does not read the link; the agent is wrong in one way or another."""
    guest, agent = played.qemu.nics["net0"], played.agent
    lies = itertools.cycle([None, nonsense, OtherCarrier(), "deaf", "other session"])
    states = itertools.cycle(["down", "up"])
    with instance.adopt(qmp=played.qmp, qga=played.qga, wait=60) as vm:
        nic = vm.nic("net0")
        for _, lie in zip(range(RUNS), lies, strict=False):
            agent.runs, agent.wrong_sync = lie != "deaf", lie == "other session"
            agent.lie = lie if callable(lie) else None
            guest.reads = False
            nic.set(next(states))  # type: ignore[arg-type]
            with pytest.raises(vnic.NotSeen):
                nic.wait_seen(timeout=0.02)
            agent.runs, agent.wrong_sync, agent.lie, guest.reads = True, False, None, True
            guest.read()
        nic.set("up")
        with contextlib.suppress(vnic.NotSeen):  # the agent's count may include changes that nobody read
            nic.wait_seen(timeout=5)
        for state in ("down", "up"):
            nic.set(state)
            assert nic.wait_seen(timeout=60).seen_us is not None
            assert guest.carrier is (state == "up")
