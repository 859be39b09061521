"""How fast packets go between a real guest and a stream socket: by vnic's virtio-net-pci and by QEMU's own.

Both NICs are in one VM, their far ends are two sockets of this process; rounds take them by turns.
"""

from __future__ import annotations

import re
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from vnic.backend.echo import Responder
from vnic.backend.framing import LENGTH, Deframer
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.qemu import ratio, require_kit
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_kit import QemuKit
from vnic.lab.guest.qemu_nic import emulated, vfio_user

PINGS = 30
PACKETS = 20_000
"""Of a round and direction."""
SIZES = (60, 1514)
TIMEOUT_S = 20.0
FAR_MAC = bytes.fromhex("525400aabb01")
ETH_P_802_EX1 = 0x88B5
"""Local experimental: the guest's kernel counts such a frame, and drops it."""

METHOD = (
    "one VM under TCG with one CPU; its virtio-net-pci, by MSI-X, on a stream netdev of vnic's or of QEMU's, whose"
    " far end is a thread of the measuring process. ping: the guest's own figure, every 10 ms. to the host: pktgen,"
    f" first to last of {PACKETS} frames at the far end; to the guest: {PACKETS} frames written at once → all counted"
    " by the guest"
)


class FarEnd:
    """Host and meter at the far end of a stream netdev: answers pings, counts all else."""

    def __init__(self, path: Path, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._responder = Responder(FAR_MAC, address, "fec0::2")
        self._stream: socket.socket | None = None
        self.count = 0
        self.first = self.last = 0.0
        """When the first and the last frames of those counted came."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._stream, _ = self._listener.accept()
        deframer = Deframer()
        while data := self._stream.recv(1 << 18):
            now = time.perf_counter()
            deframer.feed(data)
            while (frame := deframer.next()) is not None:
                answer = self._responder.answer(frame)
                if answer is not None:
                    self._stream.sendall(LENGTH.pack(len(answer)) + answer)
                elif frame[:6] == FAR_MAC:
                    self.first = self.first or now
                    self.last = now
                    self.count += 1

    def restart(self) -> None:
        """Count from zero."""
        self.count, self.first, self.last = 0, 0.0, 0.0

    def send(self, data: bytes) -> None:
        if self._stream is None:
            raise Missing("the netdev did not connect")
        self._stream.sendall(data)

    def close(self) -> None:
        """The thread ends when the other side has gone."""
        self._thread.join(TIMEOUT_S)
        if self._stream is not None:
            self._stream.close()
        self._listener.close()


def measure(rounds: int) -> Iterator[Row]:
    kit = require_kit()
    nic = "virtio-net-pci,id=nic0,netdev=net0,attach.type=vfio-user,attach.path=@/nic0.sock"
    stream = "stream,id=net0,addr.type=unix,addr.path=@/far0.sock,reconnect-ms=50"
    far_ends: list[FarEnd] = []
    try:
        with VnicProcess("-netdev", stream, "-device", nic) as vnic:
            far_ends = [FarEnd(vnic.folder / f"far{index}.sock", f"10.{index}.0.2") for index in range(2)]
            yield from _rows(_in_a_guest(vnic, kit, far_ends, rounds))
    except GuestError as error:
        raise Missing(str(error)) from error
    finally:
        for far_end in far_ends:
            far_end.close()


Samples = dict[str, tuple[list[float], list[float]]]
"""By what was measured: vnic's, and QEMU's."""


def _rows(samples: Samples) -> Iterator[Row]:
    for what, (ours, theirs) in samples.items():
        unit = "µs" if what.startswith("ping") else "1/s"
        yield row(f"vnic: {what}", unit, ours, METHOD, digits=0)
        yield row(f"QEMU: {what}", unit, theirs, METHOD, digits=0)
        aim = "at most 1.0" if what.startswith("ping") else "at least 1.0" if what.endswith("guest") else ""
        yield ratio(f"{what}, vnic / QEMU", ours, theirs, METHOD, aim)


def _in_a_guest(vnic: VnicProcess, kit: QemuKit, far_ends: list[FarEnd], rounds: int) -> Samples:
    own = emulated(
        "virtio-net-pci",
        {"type": "stream", "addr": {"type": "unix", "path": str(vnic.folder / "far1.sock")}},
    )
    samples: Samples = {}
    with QemuGuest([vfio_user(vnic.folder / "nic0.sock"), own], kit=kit, modules=["pktgen"]) as guest:
        vnic.wait_link("net0", True)
        for index in range(2):
            guest.set_address(f"10.{index}.0.15/24", f"eth{index}")
            if not guest.wait_carrier(True, f"eth{index}") or guest.ping(f"10.{index}.0.2") is None:
                raise Missing(f"eth{index} of the guest does not reach its far end")
        for _ in range(rounds):
            for index, far_end in enumerate(far_ends):
                for what, value in _round(guest, index, far_end):
                    samples.setdefault(what, ([], []))[index].append(value)
    return samples


def _round(guest: QemuGuest, index: int, far_end: FarEnd) -> Iterator[tuple[str, float]]:
    yield "ping, median of a round", _ping_us(guest, f"10.{index}.0.2")
    for size in SIZES:
        yield f"{size} bytes to the host", _to_host(guest, f"eth{index}", far_end, size)
        yield f"{size} bytes to the guest", _to_guest(guest, f"eth{index}", far_end, size)


def _ping_us(guest: QemuGuest, address: str) -> float:
    text = guest.run(f"ping -c {PINGS} -i 0.01 {address}", timeout=TIMEOUT_S)
    return statistics.median(float(found) * 1000 for found in re.findall(r"time=([0-9.]+) ms", text))


def _to_host(guest: QemuGuest, interface: str, far_end: FarEnd, size: int) -> float:
    """Packets per second."""
    mac = FAR_MAC.hex(":")
    settings = (f"count {PACKETS}", f"pkt_size {size}", f"dst_mac {mac}", "clone_skb 0", "delay 0")
    far_end.restart()
    guest.run(
        "cd /proc/net/pktgen; echo rem_device_all >kpktgend_0;"
        f" echo add_device {interface} >kpktgend_0;"
        + "".join(f" echo {setting} >{interface};" for setting in settings)
        + " echo start >pgctrl",
        timeout=TIMEOUT_S,
    )
    deadline = time.perf_counter() + TIMEOUT_S
    while far_end.count < PACKETS:
        if time.perf_counter() > deadline:
            raise Missing(f"{far_end.count} of {PACKETS} packets came from {interface}")
        time.sleep(0.01)
    return (PACKETS - 1) / (far_end.last - far_end.first)


def _to_guest(guest: QemuGuest, interface: str, far_end: FarEnd, size: int) -> float:
    """Packets per second."""
    statistic = f"/sys/class/net/{interface}/statistics/rx_packets"
    mac = bytes.fromhex(guest.run(f"cat /sys/class/net/{interface}/address").replace(":", ""))
    frame = (mac + FAR_MAC + ETH_P_802_EX1.to_bytes(2, "big")).ljust(size, b"\0")
    wanted = int(guest.run(f"cat {statistic}")) + PACKETS
    waiting = guest.start(
        f"for i in $(seq 4000); do [ $(cat {statistic}) -ge {wanted} ] && exit 0; usleep 3000; done; exit 1"
    )
    started = time.perf_counter()
    far_end.send((LENGTH.pack(size) + frame) * PACKETS)
    done = waiting.result(TIMEOUT_S)
    seconds = time.perf_counter() - started
    if done.status != 0:
        raise Missing(f"not all of {PACKETS} packets came to {interface}")
    return PACKETS / seconds
