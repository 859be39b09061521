"""Reception: filter, buffers over both rings, tags, what happens without buffers."""

from __future__ import annotations

import pytest
from tests.unit.net.test_offload import build
from tests.unit.nic_vmxnet3.conftest import MAC, Rig

from vnic.net.offload import GSO_NONE, encode
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.rx import _RETRY_S

BROADCAST, GROUP = b"\xff" * 6, bytes.fromhex("01005e000001")
OTHER = bytes.fromhex("525400aaaaaa")


def to(destination: bytes, size: int = 100) -> bytes:
    return destination + bytes(index & 0xFF for index in range(size - 6))


def tagged(vid: int, destination: bytes = MAC) -> bytes:
    return destination + bytes(6) + b"\x81\x00" + vid.to_bytes(2, "big") + bytes(range(100))


def test_frame_arrives_whole(running: Rig) -> None:
    assert running.wire(to(MAC))
    ((number, index, words),) = running.driver.completions()
    assert (number, index) == (0, 0)
    assert words[0] & (r.RCD_SOP | r.RCD_EOP | r.RCD_CNC) == r.RCD_SOP | r.RCD_EOP | r.RCD_CNC
    assert words[2] == 100
    assert running.driver.memory.read(running.driver.buffer(0, 0), 100) == to(MAC)
    assert running.driver.sent() == [0]


def test_rings_wrap(running: Rig) -> None:
    frames = []
    for number in range(200):
        frames.append(MAC + bytes([number]) * 100)
        running.wire(frames[-1])
        assert running.driver.received() == frames[-1:]


def test_short_frame_is_padded(running: Rig) -> None:
    running.wire(MAC + bytes(8))
    assert running.driver.received() == [MAC + bytes(54)]


def test_pending_checksum_is_filled_in(running: Rig) -> None:
    frame, _, l4 = build(17, bytes(100))
    running.driver.set_mode(r.RXM_PROMISC)
    running.wire(frame, encode(GSO_NONE, 0, 0, l4, 6))
    (received,) = running.driver.received()
    assert received != frame
    assert len(received) == len(frame)


@pytest.mark.parametrize(
    ("mode", "passes"),
    [
        (0, ""),
        (r.RXM_UCAST, "own"),
        (r.RXM_BCAST, "broadcast"),
        (r.RXM_MCAST, "group"),
        (r.RXM_ALL_MULTI, "group other-group"),
        (r.RXM_PROMISC, "own other broadcast group other-group vlan"),
    ],
)
def test_modes(running: Rig, mode: int, passes: str) -> None:
    running.driver.set_groups([GROUP])
    running.driver.set_mode(mode)
    frames = {
        "own": to(MAC),
        "other": to(OTHER),
        "broadcast": to(BROADCAST),
        "group": to(GROUP),
        "other-group": to(b"\x01" * 6),
        "vlan": tagged(9),
    }
    for frame in frames.values():
        assert running.wire(frame)
    expected = [frames[name] for name in passes.split()]
    if "vlan" in passes:
        expected[-1] = frames["vlan"][:12] + frames["vlan"][16:]
        running.driver.features = 0
    assert running.driver.received() == expected


def test_groups_change(running: Rig) -> None:
    running.driver.set_mode(r.RXM_MCAST)
    running.driver.set_groups([b"\x03" * 6, GROUP])
    running.wire(to(GROUP))
    running.driver.set_groups([])
    running.wire(to(GROUP))
    assert running.driver.received() == [to(GROUP)]


def test_vlan_table_and_stripping(running: Rig) -> None:
    driver = running.driver
    driver.set_vlans({5})
    for vid in (5, 6, 0, 0xFFF, 0x6005):
        running.wire(tagged(vid))
    done = driver.completions()
    assert [words[2] >> 16 for _, _, words in done] == [5, 0, 0xFFF, 0x6005]
    assert all(words[2] & r.RCD_TS and words[2] & 0x3FFF == 114 - 2 for _, _, words in done)


def test_tag_stays_where_it_is_not_stripped(running: Rig) -> None:
    driver = running.driver
    driver.set_vlans({5})
    driver.memory.write(driver.served.regions[0].guest_addr + 8 + 16, bytes(8))
    driver.write(r.VD_BAR, r.CMD, r.UPDATE_FEATURE)
    running.wire(tagged(5))
    assert driver.received() == [tagged(5)]


@pytest.mark.parametrize("bodies", [0, 2])
def test_long_frame_goes_on_in_bodies(bodies: int) -> None:
    """Of the first ring as long as there are some behind the head, then of the second."""
    rig = Rig(bodies=bodies, size=33)
    rig.driver.mtu = 9000
    rig.driver.probe()
    rig.driver.start()
    for size in (9014, 100, 2048, 2049, 9014):
        rig.wire(to(MAC, size))
        rings = [number for number, _, _ in rig.driver.completions()]
        first = min(len(rings), 1 + bodies)
        assert rings == [0] * first + [1] * (len(rings) - first)
        assert len(rings) == -(-size // 2048)
    rig.close()


def test_many_long_frames() -> None:
    rig = Rig(bodies=2, size=33)
    rig.driver.probe()
    rig.driver.start()
    for size in (5000, 60, 9000, 2500) * 20:
        rig.wire(to(MAC, size))
        assert rig.driver.received() == [to(MAC, size)]
    rig.close()


def test_fragments_are_limited_by_the_driver() -> None:
    rig = Rig(bodies=2, size=33)
    rig.driver.fragments = 2
    rig.driver.probe()
    rig.driver.start()
    for size in (4096, 4097, 60):
        assert rig.wire(to(MAC, size))
    assert rig.driver.received() == [to(MAC, 4096), to(MAC, 60)]
    assert rig.driver.statistics(1)[9] == 1
    rig.close()


def test_windows_gets_heads_only() -> None:
    rig = Rig()
    rig.driver.system = 2 | 2 << 2
    rig.driver.probe()
    rig.driver.start()
    rig.wire(to(MAC, 5000))
    assert [number for number, _, _ in rig.driver.completions()] == [0, 0, 0]
    rig.close()


def test_frame_waits_for_buffers_until_the_interrupt_is_enabled(running: Rig) -> None:
    driver = running.driver
    for number in range(40):
        running.wire(MAC + bytes([number]) * 60)
    first = driver.received()
    assert len(first) == 31
    driver.mask(0, False)
    assert [frame[6] for frame in first + driver.received()] == list(range(40))
    assert driver.statistics(1)[8] == 0


@pytest.mark.parametrize("ring", [r.RXPROD, r.RXPROD2])
def test_frame_waits_until_the_driver_says_that_it_posted(running: Rig, ring: int) -> None:
    for _ in range(32):
        running.wire(to(MAC))
    running.driver.received()
    running.driver.write(r.PT_BAR, ring, 3)
    assert running.driver.received() == [to(MAC)]


def test_polling_driver_gets_waiting_frames(running: Rig) -> None:
    running.driver.mask(0, True)
    for _ in range(32):
        running.wire(to(MAC))
    running.driver.received()
    running.scheduler.advance(_RETRY_S)
    assert running.driver.received() == [to(MAC)]


def test_frames_that_find_no_buffer_wait_in_order(running: Rig) -> None:
    driver = running.driver
    for number in range(34):
        running.wire(MAC + bytes([number]) * 60)
    running.scheduler.advance(10 * _RETRY_S)
    first = driver.received()
    assert len(first) == 31
    running.scheduler.advance(_RETRY_S)
    assert [frame[6] for frame in first + driver.received()] == list(range(34))
    running.device.overrun(0)
    assert driver.statistics(1)[8] == 1


def test_waiting_frames_are_dropped_with_the_link(running: Rig) -> None:
    for _ in range(40):
        running.wire(to(MAC))
    running.set_link(False)
    assert not running.nic.has_waiting
    assert not running.wire(to(MAC)) or len(running.driver.received()) == 31


@pytest.mark.parametrize("command", [r.QUIESCE_DEV, r.RESET_DEV])
def test_next_driver_gets_no_old_frames(running: Rig, command: int) -> None:
    for _ in range(40):
        running.wire(to(MAC))
    running.driver.write(r.VD_BAR, r.CMD, command)
    running.wire(to(MAC))
    running.driver.start()
    running.scheduler.advance(1)
    assert running.driver.received() == []
    assert running.driver.statistics(1) == (0,) * 10


def test_only_first_queue_receives() -> None:
    rig = Rig(queues=4)
    rig.driver.probe()
    rig.driver.start()
    for number in range(8):
        rig.wire(MAC + bytes([number]) * 60)
    assert len(rig.driver.received()) == 8
    assert rig.driver.sent() == [0]
    rig.wire(to(MAC, 5000))
    assert [words[0] >> 16 & 0x3FF for _, _, words in rig.driver.completions()] == [0, 4, 4]
    rig.close()


def test_statistics_by_destination(running: Rig) -> None:
    running.driver.set_mode(r.RXM_PROMISC)
    for destination in (OTHER, GROUP, BROADCAST):
        running.wire(to(destination))
    assert running.driver.statistics(1) == (0, 0, 1, 100, 1, 100, 1, 100, 0, 0)
