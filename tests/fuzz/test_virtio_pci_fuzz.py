"""A guest that writes anything into every register of a real virtio-net-pci, over memory full of anything.

The device may break rings and ask for a reset; it never raises, and never touches memory it was not given.
"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler

from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.virtio_net import VirtioNet
from vnic.virtio.pci.transport import VirtioPci

RAM = 64 << 10
BASE = 0x10_0000

value = st.one_of(
    st.integers(0, 15),
    st.sampled_from([64, 256, 1024, 0x8000, 0xFFFF]),
    st.integers(BASE, BASE + RAM).map(lambda at: at & ~15),
    st.integers(0, 0xFFFFFFFF),
)
register = st.one_of(
    st.sampled_from([(20, 1), (22, 2), (24, 2), (28, 2), (32, 4), (40, 4), (48, 4), (12, 4), (8, 4)]),
    st.tuples(st.integers(0x3000, 0x3010).map(lambda at: at & ~3), st.just(2)),
    st.tuples(st.integers(0, 0x3FF8), st.sampled_from([1, 2, 4, 8])),
)
write = st.tuples(register, value)

START = [
    ((20, 1), 0), ((20, 1), 3), ((8, 4), 1), ((12, 4), 1), ((20, 1), 11),
    ((22, 2), 0), ((24, 2), 64), ((32, 4), BASE), ((40, 4), BASE + 0x1000), ((48, 4), BASE + 0x2000), ((28, 2), 1),
    ((22, 2), 1), ((24, 2), 64), ((32, 4), BASE), ((40, 4), BASE + 0x3000), ((48, 4), BASE + 0x4000), ((28, 2), 1),
    ((22, 2), 2), ((24, 2), 64), ((32, 4), BASE), ((40, 4), BASE + 0x5000), ((48, 4), BASE + 0x6000), ((28, 2), 1),
    ((20, 1), 15), ((0x3000, 2), 0), ((0x3004, 2), 0), ((0x3008, 2), 0),
]  # fmt: skip
"""A driver's start-up with three rings over whatever the memory holds, and a kick for each."""


@settings(max_examples=150)
@given(st.integers(0, 1 << 32), st.booleans(), st.lists(write, max_size=60), st.lists(st.binary(max_size=80)))
def test_random_registers_and_memory_do_not_raise(
    seed: int, started: bool, writes: list[tuple[tuple[int, int], int]], frames: list[bytes]
) -> None:
    scheduler = FakeScheduler()
    network = Network(scheduler)
    peer = network.add_netdev("net0", "echo", Endpoint())
    device = VirtioNet()
    network.add_nic("nic0", "virtio-net-pci", device, mac=b"\x52\x54\0\x12\x34\x56", netdev_id="net0")
    pci = VirtioPci(device)
    with FakeGuestMemory(RAM, guest_addr=BASE) as ram:
        ram.write(BASE, _sparse(random.Random(seed)))
        pci.plug(FakeIrq(), ram.served())
        pci.config_write(4, b"\x06\x00")
        for (offset, size), data in [*(START if started else []), *writes]:
            pci.window_write(4, offset, (data & (1 << 8 * size) - 1).to_bytes(size, "little"))
            assert len(pci.window_read(4, offset, size)) == size
        for frame in frames:
            peer.send(0, frame)
        scheduler.advance(1.0)
        pci.unplug(lambda: None)
        scheduler.run_soon()
    network.close()


def _sparse(rng: random.Random) -> bytes:
    """Descriptors that mostly point into the memory, rings with small numbers, and noise."""
    ram = bytearray(RAM)
    for at in range(0, 0x1000, 16):
        addr = BASE + rng.randrange(RAM) if rng.random() < 0.9 else rng.getrandbits(64)
        ram[at : at + 8] = addr.to_bytes(8, "little")
        ram[at + 8 : at + 12] = rng.choice([0, 1, 12, 60, 1500, 70000, 0xFFFFFFFF]).to_bytes(4, "little")
        ram[at + 12] = rng.choice([0, 0, 0, 2, 2, 2, 1, 3, 4, 7])
        ram[at + 14] = rng.randrange(80)
    for ring in (0x1000, 0x3000, 0x5000):  # the available rings; used.idx stays 0
        ram[ring + 2] = rng.randrange(68)
        for entry in range(64):
            ram[ring + 4 + 2 * entry] = rng.randrange(66)
    ram[0x7000:] = rng.randbytes(RAM - 0x7000)
    return bytes(ram)
