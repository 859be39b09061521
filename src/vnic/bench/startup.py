"""How long `vnic run` takes until its monitor greets."""

from __future__ import annotations

from collections.abc import Iterator

from .process import VnicProcess
from .report import Row, row

METHOD = "exec of python -m vnic run with one NIC and one netdev → greeting read on its QMP socket; warm page cache"


def measure(rounds: int) -> Iterator[Row]:
    nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"
    samples = []
    for _ in range(rounds + 1):
        with VnicProcess("-netdev", "echo,id=net0", "-device", nic) as vnic:
            samples.append(vnic.start_seconds * 1000)
    yield row("start-up", "ms", samples[1:], METHOD, "at most 400")
