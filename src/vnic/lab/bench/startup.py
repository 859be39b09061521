"""How long `vnic run` takes until its monitor greets.

`vnic bench start` runs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Row, row

METHOD = (
    "exec of python -m vnic run with one NIC and one netdev → greeting read on its QMP socket; warm page cache, and"
    " bytecode of an earlier start, whatever PYTHONDONTWRITEBYTECODE says"
)


def measure(rounds: int) -> Iterator[Row]:
    nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"
    samples = []
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as bytecode:
        environment = {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(rounds + 1):
            with VnicProcess("-netdev", "echo,id=net0", "-device", nic, environment=environment) as vnic:
                samples.append(vnic.start_seconds * 1000)
    yield row("start-up", "ms", samples[1:], METHOD, "at most 400")
