"""How long a set_link over QMP takes to become an interrupt of a PCI NIC: the eventfd that a VM gave for it.

The VM is played by this process, which is another one than vnic; `bench/qemu.py` has the same in a real VM.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Iterator

from vnic.lab.bench.pci_subjects import SUBJECTS, Ready, played
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row

CHANGES_PER_ROUND = 200
PAUSE_S = 0.001
TIMEOUT_S = 5.0

METHOD = (
    "QMP request written → the interrupt's eventfd readable in this process, which plays a VM over vfio-user; no"
    f" traffic, {PAUSE_S * 1000:g} ms between changes; Intel's without negotiation"
)


def measure(rounds: int) -> Iterator[Row]:
    for name, samples in samples_of(SUBJECTS, rounds * CHANGES_PER_ROUND).items():
        yield row(f"{name}: set_link → eventfd", "µs", samples, METHOD)


def samples_of(models: Iterable[str], count: int) -> dict[str, list[float]]:
    """µs until the eventfd, of `count` changes of each NIC's link."""
    models = tuple(models)
    options: list[str] = []
    for index, model in enumerate(models):
        device = ",".join(filter(None, (model, SUBJECTS[model].options)))
        options += ["-netdev", f"echo,id=net{index},ip=10.0.{index}.2", "-device"]
        where = f"attach.type=vfio-user,attach.path=@/{model}.sock"
        options += [f"{device},id={model},netdev=net{index},{where}"]
    result = {}
    with VnicProcess(*options) as vnic:
        for model in models:
            with played(SUBJECTS[model], str(vnic.folder / f"{model}.sock")) as driver:
                result[model] = _changes(vnic, model, driver, count)
    return result


def _changes(vnic: VnicProcess, nic: str, driver: Ready, count: int) -> list[float]:
    samples = []
    for change in range(count):
        word = b"true" if change % 2 else b"false"
        request = b'{"execute":"set_link","arguments":{"name":"%s","up":%s}}\n' % (nic.encode(), word)
        time.sleep(PAUSE_S)
        started = time.perf_counter()
        vnic.qmp.send(request)
        if not select.select([driver.eventfd], [], [], TIMEOUT_S)[0]:
            raise Missing(f"no interrupt of {nic} came within {TIMEOUT_S:g} s")
        samples.append((time.perf_counter() - started) * 1e6)
        os.eventfd_read(driver.eventfd)
        vnic.reply()
        driver.look()
    return samples
