"""A hostile guest: no register, descriptor or frame makes the device raise, and afterwards it works as new."""

from __future__ import annotations

import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.e1000_driver import MEMORY_BYTES, RX_RING, TX_BUFFERS, TX_RING
from tests.fakes.e1000e_driver import EXTEN, SPLIT
from tests.unit.nic_e1000e.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import registers as r

FRAME = MAC + bytes(100)
REGISTERS = [0, 4, 0x5FC, 0x1FFFC, *sorted(r.BY_OFFSET)]
INTERESTING = (0, 1, 2, 0xF, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFF0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADS = (0, 3, 14, 15, 16, 0xFFFF)
LENGTHS = (0, 128, 256, 0xFFF80)


def test_random_register_values_do_not_raise(running: Rig) -> None:
    rng = random.Random(1)
    for _ in range(10):
        for offset in REGISTERS:
            running.driver.write(offset, rng.choice((*INTERESTING, rng.getrandbits(32))))
            running.driver.read(offset)
        running.wire(FRAME)
        running.set_link(bool(rng.getrandbits(1)))
        running.scheduler.advance(0.3)
    running.device.reset()
    running.driver.irq.sent.clear()
    assert running.driver.probe() == MAC
    running.set_link(True)
    running.scheduler.advance(1)
    running.driver.start()
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]


@settings(max_examples=40)
@given(
    descriptors=st.lists(
        st.tuples(
            st.sampled_from(
                [0, GUEST_ADDR, TX_RING, TX_BUFFERS, GUEST_ADDR + MEMORY_BYTES - 8, (1 << 64) - 1]
            ),
            st.integers(0, 0xFFFFFFFF),
            st.integers(0, 0xFFFFFFFF),
        ),
        min_size=16,
        max_size=16,
    ),
    queue=st.sampled_from([0, regs.QUEUE_BYTES]),
    head=st.sampled_from(HEADS),
    tail=st.sampled_from(HEADS),
    length=st.sampled_from(LENGTHS),
)
def test_random_transmit_descriptors_do_not_raise(
    descriptors: list[tuple[int, int, int]], queue: int, head: int, tail: int, length: int
) -> None:
    rig = Rig()
    rig.driver.start()
    rig.driver.memory.write(TX_RING, b"".join(struct.pack("<QII", *each) for each in descriptors))
    rig.driver.write(regs.TDBAL + queue, TX_RING)
    rig.driver.write(regs.TDLEN + queue, length)
    rig.driver.write(regs.TDH + queue, head)
    rig.driver.write(regs.TDT + queue, tail)
    for _ in range(3):
        rig.scheduler.advance(0)
    rig.close()


@settings(max_examples=60)
@given(
    ring=st.binary(min_size=256, max_size=256),
    head=st.sampled_from(HEADS),
    tail=st.sampled_from(HEADS),
    length=st.sampled_from(LENGTHS),
    rctl=st.integers(0, 0xFFFFFFFF),
    split=st.booleans(),
    psrctl=st.sampled_from([0, 1, 0x101, 0x40402, 0x3F3F3F7F, 0x01000000]),
    rfctl=st.integers(0, 0x3FFFF),
    mrqc=st.sampled_from([0, 0x1F0001]),
    body=st.binary(min_size=50, max_size=120),
)
def test_random_receive_rings_and_frames_do_not_raise(
    ring: bytes,
    head: int,
    tail: int,
    length: int,
    rctl: int,
    split: bool,
    psrctl: int,
    rfctl: int,
    mrqc: int,
    body: bytes,
) -> None:
    rig = Rig()
    driver = rig.driver
    driver.write(r.PSRCTL, psrctl)
    driver.start(rctl=rctl | 2 | SPLIT * split)
    driver.write(r.RFCTL, rfctl | EXTEN * split)
    driver.write(r.MRQC, mrqc)
    driver.write(r.RXCSUM, 0x2300 if mrqc else 0x300)
    driver.memory.write(RX_RING, ring)
    driver.write(regs.RDLEN, length)
    driver.write(regs.RDH, head)
    driver.write(regs.RDT, tail)
    for kind in (b"\x08\0\x45", b"\x86\xdd\x60", b"\x81\0\0\x01\x08\0\x46"):
        rig.wire(b"\xff" * 12 + kind + body)
    rig.wire(b"\xff" * 9000)
    rig.close()


def test_odd_ends_of_a_packet_split_ring_do_no_harm(rig: Rig) -> None:
    """RDH and RDT count by 16 bytes, descriptors have 32."""
    driver = rig.driver
    driver.split = True
    driver.start()
    for head, tail in ((15, 3), (14, 15), (1, 0), (13, 15)):
        driver.write(regs.RDH, head)
        driver.write(regs.RDT, tail)
        while rig.wire(b"\xff" * 64):
            assert driver.read(regs.RDH) < driver.ring_size
        rig.netdev.client.purge(0)
        rig.nic.purge(0)
