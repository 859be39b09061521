"""Tests of passt in vhost-user mode: the link follows passt as it starts, is killed and is restarted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.fakes import passt_program
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.options import PasstOptions
from vnic.nic.virtio_net import VirtioNet


def socket_of(pid: int) -> Path:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return Path(words[words.index("--socket") + 1])


def test_killed_passt_is_restarted(tmp_path: Path) -> None:
    sockets = []
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with Lab() as lab:
            options = PasstOptions(id="net0", path=passt_program.install(tmp_path), vhost_user=True)
            netdev = lab.add(options)
            nic = lab.network.add_nic("nic0", "virtio-net", VirtioNet(1), mac=bytes(6), netdev_id="net0")
            for round_ in range(3):
                await until(lambda: nic.link_up and "pid" in netdev.endpoint.info_text(0))
                pid = int(netdev.endpoint.info_text(0).removeprefix("vhost-user,connected to pid "))
                sockets.append(socket_of(pid))
                assert sockets[-1].is_socket()
                if round_ < 2:
                    os.kill(pid, signal.SIGKILL)
                    await until(lambda: not nic.link_up)
                    assert lab.why("net0") == "the back-end closed the connection; it is started again"
            assert {name for name, _ in lab.events} == {"LINK_CHANGED"}

    run(main())
    assert not any(path.parent.exists() for path in sockets)
    assert len(os.listdir("/proc/self/fd")) <= before
