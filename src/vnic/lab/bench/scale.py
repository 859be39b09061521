"""How long commands take with many NICs: none may take longer for NICs that it does not concern.

`vnic bench scale` runs it."""

from __future__ import annotations

import json
import random
import resource
import select
import time
from collections.abc import Iterator

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row

SIZES = (1, 100, 1000, 10_000)
LAST_ADDED = 100
"""device_add is timed for so many NICs, those that make the number full."""
CHANGES = 500
LONG: tuple[tuple[str, dict[str, str]], ...] = (
    ("query-links", {}),
    ("query-link-log", {}),
    ("human-monitor-command", {"command-line": "info links"}),
    ("human-monitor-command", {"command-line": "info network"}),
)

METHOD = (
    "one vnic run, N NICs without netdevs, each listening at a vhost-user socket; one QMP client: request written →"
    f" reply read. device_add: the last {LAST_ADDED} of N; set_link: {CHANGES} NICs at random"
)
WAIT_METHOD = (
    "the same vnic: a second QMP client asks query-status again and again while the first asks for all that there"
    f" is, {len(LONG)} long answers in turn; its slowest reply in a round"
)


def measure(rounds: int) -> Iterator[Row]:
    for size in SIZES:
        _allow_descriptors(size + 1000)  # each NIC listens at a socket
        yield from _at(size, rounds)


def _allow_descriptors(number: int) -> None:
    """Raise the limit for the process that is measured, which inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if number > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(number, soft), max(number, hard)))
        except (OSError, ValueError) as error:
            raise Missing(f"{number} descriptors are needed, and the limit is {hard}: {error}") from None


def _at(size: int, rounds: int) -> Iterator[Row]:
    with VnicProcess() as vnic:
        before = _resident_kib(vnic.process.pid)
        added = [_timed(vnic, _device_add(vnic, number)) for number in range(size)]
        each_kib = (_resident_kib(vnic.process.pid) - before) / size
        chance = random.Random(size)
        changed: list[float] = []
        for _ in range(CHANGES):
            name = f"nic{chance.randrange(size)}"
            changed.append(_timed(vnic, _request("set_link", name=name, up=bool(chance.randrange(2)))))
        waits = [_slowest(vnic) for _ in range(rounds)]
    yield row(f"{size} NICs: device_add", "µs", added[-LAST_ADDED:], METHOD)
    yield row(f"{size} NICs: set_link", "µs", changed, METHOD, "99th percentile at most 1000 at 10 000")
    yield row(f"{size} NICs: memory of each", "KiB", [each_kib], METHOD)
    yield row(
        f"{size} NICs: wait for another's long answer", "ms", waits, WAIT_METHOD, "at most 20", digits=2
    )


def _request(command: str, **arguments: object) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def _device_add(vnic: VnicProcess, number: int) -> bytes:
    attach = {"type": "vhost-user", "path": str(vnic.folder / f"{number}.sock")}
    mac = "52:54:01:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(3, "big"))
    return _request("device_add", driver="virtio-net", id=f"nic{number}", mac=mac, attach=attach)


def _timed(vnic: VnicProcess, request: bytes) -> float:
    """Request written → reply read, in µs."""
    start = time.perf_counter()
    vnic.qmp.sendall(request)
    reply = vnic.reply()
    took = (time.perf_counter() - start) * 1e6
    if not isinstance(reply, dict) or "return" not in reply:
        raise Missing(f"{request.decode().strip()}: {reply}")
    return took


def _slowest(vnic: VnicProcess) -> float:
    """The longest that a second client waited for a reply while the first one got its long answers, in ms."""
    slowest = 0.0
    with vnic.second_client() as second:
        for command, arguments in LONG:
            vnic.qmp.sendall(_request(command, **arguments))
            answered = False
            while not answered:
                start = time.perf_counter()
                second.sendall(b'{"execute":"query-status"}\n')
                reply = b""
                while not reply.endswith(b"\r\n"):
                    readable, _, _ = select.select([second, vnic.qmp], [], [])
                    if second in readable:
                        reply += second.recv(1 << 16)
                    if vnic.qmp in readable:
                        answered |= vnic.qmp.recv(1 << 20).endswith(b"\r\n")
                slowest = max(slowest, time.perf_counter() - start)
    return slowest * 1e3


def _resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
