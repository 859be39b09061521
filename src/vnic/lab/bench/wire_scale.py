"""What many attached NICs cost: memory of vnic and vnic-wire together, and the time until all of them run.

`vnic bench wire-scale` runs it; the growth from 10 to 10 000 is a plot of docs/performance.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.through import children
from vnic.lab.bench.wire_program import cpu_ns
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.features import VERSION_1

SIZES: Final = (10, 100, 1000, 10_000)
DESCRIPTORS_EACH: Final = 9
"""Of an attached NIC in vnic: three sockets, its guest's memory and the mapping's own, and two a ring."""
OTHER_DESCRIPTORS: Final = 500
RING_SIZE: Final = 64
GUEST_BYTES: Final = 16 << 10
"""The memory of one guest; its rings lie in it."""
GUEST_ADDR: Final = 0x4000_0000
USER_ADDR: Final = 0x7F12_3456_0000
PIPELINED: Final = 200
"""QMP commands that are sent at once."""
TIMEOUT_S: Final = 120.0

METHOD = (
    "vnic run (more than one where a process may not have enough descriptors) with N virtio-net, two on each hub,"
    " added over QMP; N drivers, played by this process, connect by vhost-user and start two rings of"
    f" {RING_SIZE} each, until the packets of all NICs are vnic-wire's. Start: from exec on; memory: the proportional"
    " set sizes of vnic's Python and vnic-wire, without the guests' own memory, less those of a vnic without NICs"
)
CPU_METHOD = (
    "the same: CPU time of vnic's Python, from the first NIC on, and of vnic-wire, of all vnics together"
)


def measure(rounds: int) -> Iterator[Row]:
    for size in SIZES:
        yield from _at(size)


def _at(size: int) -> Iterator[Row]:
    shares = list(_shares(size))
    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        vnics = [stack.enter_context(VnicProcess()) for _ in shares]
        starting = time.perf_counter() - began
        before = sum(map(_own_kib, vnics))
        python_before = sum(cpu_ns(vnic.process.pid) for vnic in vnics)
        began = time.perf_counter()
        _at_once(add_nics, vnics, shares)
        start = starting + time.perf_counter() - began
        memory = os.memfd_create("guests", os.MFD_CLOEXEC)
        stack.callback(os.close, memory)
        os.ftruncate(memory, GUEST_BYTES * size)
        began = time.perf_counter()
        paths = [
            str(vnic.folder / f"{number}.sock")
            for vnic, share in zip(vnics, shares, strict=True)
            for number in range(share)
        ]
        guests = [
            stack.enter_context(PlayedGuest(path, memory, number * GUEST_BYTES))
            for number, path in enumerate(paths)
        ]
        for guest in guests:
            guest.wait_started()
        _at_once(wait_on_the_wire, vnics, shares)
        attach = time.perf_counter() - began
        total = sum(map(_own_kib, vnics))
        python = (sum(cpu_ns(vnic.process.pid) for vnic in vnics) - python_before) / 1e6 / size
        wire = sum(cpu_ns(child) for vnic in vnics for child in children(vnic.process.pid)) / 1e6 / size
    name = f"{size} NICs" + (f" of {len(shares)} vnics" if len(shares) > 1 else "")
    at_most = "at most {} at 10 000".format
    yield row(f"{name}: memory of each", "KiB", [(total - before) / size], METHOD, at_most(60))
    yield row(f"{name}: memory of all processes", "MiB", [total / 1024], METHOD)
    yield row(f"{name}: start", "s", [start], METHOD, digits=2)
    yield row(f"{name}: attach", "s", [attach], METHOD, digits=2)
    yield row(f"{name}: start and attach", "s", [start + attach], METHOD, at_most(10), digits=2)
    yield row(f"{name}: CPU time of Python for each", "ms", [python], CPU_METHOD, digits=2)
    yield row(f"{name}: CPU time of vnic-wire for each", "ms", [wire], CPU_METHOD, digits=2)


def _at_once(
    work: Callable[[VnicProcess, int], None], vnics: Sequence[VnicProcess], shares: Sequence[int]
) -> None:
    """Have all vnics do something, in a thread for each; the first exception is raised when all have ended."""
    with ThreadPoolExecutor(len(vnics)) as threads:
        for _ in threads.map(work, vnics, shares):
            pass


def _shares(size: int) -> Iterator[int]:
    """How many NICs each vnic has: as few vnics as the limit of descriptors allows, an even number in each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_EACH * size + OTHER_DESCRIPTORS
    if wanted > soft:
        try:
            soft = wanted
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
        except (OSError, ValueError):
            soft = hard
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (soft - OTHER_DESCRIPTORS) // DESCRIPTORS_EACH & ~1
    if most < 2:
        raise Missing(f"a process may have {soft} descriptors only")
    number = -(-size // most)  # about as many in each
    each = -(-size // number) + 1 & ~1
    while size > 0:
        yield min(size, each)
        size -= each


# -- vnic -----------------------------------------------------------------------------------------------------------


def add_nics(vnic: VnicProcess, size: int) -> None:
    """Add the NICs and their hub ports."""
    requests = []
    for number in range(size):
        hub = {"type": "hubport", "id": f"hub{number}", "hubid": number // 2}
        mac = "52:54:01:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(3, "big"))
        attach = {"type": "vhost-user", "path": str(vnic.folder / f"{number}.sock")}
        nic = {"driver": "virtio-net", "id": f"nic{number}", "netdev": f"hub{number}", "mac": mac}
        requests.append({"execute": "netdev_add", "arguments": hub})
        requests.append({"execute": "device_add", "arguments": {**nic, "attach": attach}})
    with vnic.second_client() as client:
        client.settimeout(TIMEOUT_S)
        for at in range(0, len(requests), PIPELINED):
            part = requests[at : at + PIPELINED]
            client.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in part))
            vnic.replies(client, len(part))


def wait_on_the_wire(vnic: VnicProcess, size: int) -> None:
    """Until vnic-wire has the packets of all NICs. To ask for all takes the time of several, so it comes last."""
    vnic.wait_on_the_wire("nic0", f"nic{size - 1}", seconds=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    with vnic.second_client() as client:
        client.settimeout(TIMEOUT_S)
        while True:
            client.sendall(b'{"execute":"query-links"}\n')
            (links,) = vnic.replies(client, 1)
            assert isinstance(links, list)
            others = [link for link in links if link["type"] == "nic" and link.get("datapath") != "wire"]
            if not others:
                return
            if time.monotonic() > deadline:
                reason = others[0].get("datapath-reason", "")
                raise Missing(
                    f"vnic-wire does not move the packets of {len(others)} of {size} NICs: {reason}"
                )
            time.sleep(0.2)


def _own_kib(vnic: VnicProcess) -> int:
    """The memory of vnic and its children, without what they share with guests."""
    total = 0
    for pid in (vnic.process.pid, *children(vnic.process.pid)):
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            sizes = {words[0]: int(words[1]) for line in rollup if len(words := line.split()) == 3}
        total += sizes["Pss:"] - sizes["Pss_Shmem:"]
    return total


# -- guests ---------------------------------------------------------------------------------------------------------


class PlayedGuest:
    """A context manager: one played driver, which sends all that it has to say at once."""

    def __init__(self, path: str, memory: int, offset: int) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.connect(path)
            self._start(memory, offset)
        except OSError as error:
            self._sock.close()
            raise Missing(f"a driver cannot attach: {error}") from error

    def _start(self, memory: int, offset: int) -> None:
        features = VERSION_1 | vu.F_PROTOCOL_FEATURES
        self._send(vu.encode(vu.SET_OWNER), vu.encode(vu.GET_FEATURES), vu.encode(vu.GET_PROTOCOL_FEATURES))
        self._send(_u64(vu.SET_PROTOCOL_FEATURES, vu.P_REPLY_ACK), _u64(vu.SET_FEATURES, features))
        table = vu.MEM_TABLE.pack(1, 0) + vu.MEM_REGION.pack(GUEST_ADDR, GUEST_BYTES, USER_ADDR, offset)
        self._send(vu.encode(vu.SET_MEM_TABLE, table), fds=[memory])
        for index in range(2):
            self._start_ring(index)
        self._send(vu.encode(vu.GET_FEATURES))

    def _start_ring(self, index: int) -> None:
        desc = USER_ADDR + index * 4096
        avail, used = desc + 16 * RING_SIZE, desc + 2048
        call, kick = os.eventfd(0), os.eventfd(0)
        try:
            self._send(
                _u64(vu.SET_VRING_CALL, index),
                vu.encode(vu.SET_VRING_NUM, vu.VRING_STATE.pack(index, RING_SIZE)),
                vu.encode(vu.SET_VRING_BASE, vu.VRING_STATE.pack(index, 0)),
                vu.encode(vu.SET_VRING_ADDR, vu.VRING_ADDR.pack(index, 0, desc, used, avail, 0)),
                fds=[call],
            )
            enable = vu.encode(vu.SET_VRING_ENABLE, vu.VRING_STATE.pack(index, 1))
            self._send(_u64(vu.SET_VRING_KICK, index), enable, fds=[kick])
        finally:  # vnic has its own now
            os.close(call)
            os.close(kick)

    def _send(self, *messages: bytes, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self._sock, [b"".join(messages)], list(fds))

    def wait_started(self) -> None:
        """Until the answer to the last message is there."""
        self._sock.settimeout(TIMEOUT_S)
        awaited = 3 * (vu.HEADER.size + vu.U64.size)
        try:
            while awaited:
                part = self._sock.recv(awaited)
                if not part:
                    raise Missing("vnic closed a driver's connection")
                awaited -= len(part)
        except OSError as error:
            raise Missing(f"vnic did not answer a driver: {error}") from error

    def __enter__(self) -> PlayedGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def _u64(request: int, value: int) -> bytes:
    return vu.encode(request, vu.U64.pack(value))
