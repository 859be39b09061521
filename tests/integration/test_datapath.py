"""Data paths of a whole vnic: who moves the packets, the program's death under a guest, and the switch to Python."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.integration.process import guest_on, wait_for
from tests.needs import need
from tests.processes import children

from vnic.lab.bench.process import VnicProcess

HUB = (
    *("-netdev", "hubport,id=p0,hubid=0", "-netdev", "hubport,id=p1,hubid=0"),
    *("-device", "virtio-net,id=nic0,netdev=p0,attach.type=vhost-user,attach.path=@/nic0.sock"),
    *("-device", "virtio-net,id=nic1,netdev=p1,attach.type=vhost-user,attach.path=@/nic1.sock"),
)


def query(vnic: VnicProcess, command: str) -> Any:
    reply = vnic.execute(command)
    assert isinstance(reply, dict)
    return reply["return"]


def paths(vnic: VnicProcess) -> dict[str, tuple[str, str | None]]:
    return {
        link["name"]: (link["datapath"], link.get("datapath-reason")) for link in query(vnic, "query-links")
    }


def all_on(vnic: VnicProcess, path: str) -> bool:
    return {each for each, _ in paths(vnic).values()} == {path}


def programs(pid: int) -> list[int]:
    """The vnic-wire processes that this vnic has started."""
    return [child for child, name in children(pid).items() if name == "vnic-wire"]


def test_vnic_wire_moves_the_packets_and_may_be_killed() -> None:
    need("vnic-wire")
    with VnicProcess(*HUB) as vnic:
        assert all_on(vnic, "none")
        assert not programs(vnic.process.pid), "it is started when it is needed"
        with guest_on(str(vnic.folder / "nic0.sock")), guest_on(str(vnic.folder / "nic1.sock")):
            wait_for(lambda: all_on(vnic, "wire"))
            before = [link["carrier-changes"] for link in query(vnic, "query-links")]
            for restart in range(1, 4):
                (pid,) = programs(vnic.process.pid)
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: query(vnic, "query-vnic")["restarts"] == restart)  # noqa: B023  # called at once
                wait_for(lambda: all_on(vnic, "wire"))
            assert before == [link["carrier-changes"] for link in query(vnic, "query-links")]
            assert {each["name"] for each in query(vnic, "query-wire-stats")} == {"nic0", "nic1"}
        wait_for(lambda: all_on(vnic, "none"))


def test_threads_of_vnic_wire_are_an_option() -> None:
    need("vnic-wire")
    with (
        VnicProcess("-datapath", "auto,workers=3,spin=20", *HUB) as vnic,
        guest_on(str(vnic.folder / "nic0.sock")),
        guest_on(str(vnic.folder / "nic1.sock")),
    ):
        wait_for(lambda: all_on(vnic, "wire"))
        (pid,) = programs(vnic.process.pid)
        assert len(os.listdir(f"/proc/{pid}/task")) == 3 + 3, (
            "those of control, of the CCMs and of the guard beside them"
        )
        wait_for(lambda: {_state(pid, task) for task in os.listdir(f"/proc/{pid}/task")} == {"S"})


def _state(pid: int, task: str) -> str:
    return Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]


def test_python_moves_the_packets_where_it_is_told_to() -> None:
    with (
        VnicProcess("-datapath", "python", *HUB) as vnic,
        guest_on(str(vnic.folder / "nic0.sock")),
        guest_on(str(vnic.folder / "nic1.sock")),
    ):
        wait_for(lambda: all_on(vnic, "python"))
        assert paths(vnic)["nic0"] == ("python", "-datapath python")
        assert query(vnic, "query-wire-stats") == []
