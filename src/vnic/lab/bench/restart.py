"""How long control is away after a SIGKILL: until its successor answers QMP, and until packets are at vnic-wire again.

`vnic bench restart` runs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Final, cast

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.wire_scale import GUEST_BYTES, PlayedGuest, add_nics, wait_on_the_wire

SIZES: Final = (1, 1000)
AIMS: Final = {1: "at most 400", 1000: "at most 5000"}
TIMEOUT_S: Final = 60.0
SETTLED_S: Final = 1.5
"""A control that lived for less than a second is followed after a pause."""

METHOD = (
    "vnic run --keep with N virtio-net over vhost-user, two on each hub, and a driver attached to each; the packets are"
    " vnic-wire's. SIGKILL to control → the first reply to query-status, over a new connection; and → query-links says"
    " that the packets of all are vnic-wire's, as before"
)


def measure(rounds: int) -> Iterator[Row]:
    for size in SIZES:
        with contextlib.ExitStack() as stack:
            yield from _at(stack, size, max(3, rounds if size == 1 else rounds // 2))


def _at(stack: contextlib.ExitStack, size: int, rounds: int) -> Iterator[Row]:
    vnic = stack.enter_context(VnicProcess("--keep"))
    add_nics(vnic, size)
    memory = os.memfd_create("guests", os.MFD_CLOEXEC)
    stack.callback(os.close, memory)
    os.ftruncate(memory, GUEST_BYTES * size)
    guests = [
        stack.enter_context(PlayedGuest(str(vnic.folder / f"{number}.sock"), memory, number * GUEST_BYTES))
        for number in range(size)
    ]
    for guest in guests:
        guest.wait_started()
    if size > 1:
        wait_on_the_wire(vnic, size)
    answers, moves = [], []
    for _ in range(rounds):
        time.sleep(SETTLED_S)
        killed = _kill_control(vnic)
        answers.append((_answered(vnic) - killed) * 1e3)
        if size > 1:
            wait_on_the_wire(vnic, size)
            moves.append((time.perf_counter() - killed) * 1e3)
    name = f"{size} NIC{'s' if size > 1 else ''}"
    yield row(f"{name}: control answers again", "ms", answers, METHOD, AIMS[size])
    if moves:
        yield row(f"{name}: vnic-wire moves all again", "ms", moves, METHOD)


def _kill_control(vnic: VnicProcess) -> float:
    """The time at which it was killed."""
    with contextlib.closing(vnic.second_client()) as client:
        client.sendall(b'{"execute":"query-vnic"}\n')
        (found,) = vnic.replies(client, 1)
    os.kill(cast(dict[str, int], found)["pid"], signal.SIGKILL)
    return time.perf_counter()


def _answered(vnic: VnicProcess) -> float:
    """The time of the first reply of control."""
    deadline = time.perf_counter() + TIMEOUT_S
    while True:
        try:
            with contextlib.closing(vnic.second_client()) as client:
                client.sendall(b'{"execute":"query-status"}\n')
                vnic.replies(client, 1)
                answered = time.perf_counter()
            vnic.reconnect()
            return answered
        except (OSError, Missing) as error:
            if time.perf_counter() > deadline:
                raise Missing(f"control did not come back: {error}") from None
            time.sleep(0.001)
