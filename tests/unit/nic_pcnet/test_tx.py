"""Transmitting: whole frames of one or more descriptors, in all software styles, demanded or polled for."""

from __future__ import annotations

import pytest
from tests.fakes.pcnet_driver import BABL, ENP, ERR, OWN, STOP, STP, TDMD, TINT, TX_BUFFERS, TX_RING, UFLO
from tests.unit.nic_pcnet.conftest import MAC, Rig

from vnic.nic.pcnet.device import POLL_SECONDS
from vnic.nic.pcnet.tx import WORK_PER_TURN

FRAME = bytes.fromhex("525400000002") + MAC + b"\x12\x34" + bytes(range(100))


@pytest.mark.parametrize("style", [0, 1, 2, 3])
def test_styles(style: int) -> None:
    rig = Rig(style=style)
    rig.driver.start()
    for pieces in (1, 2, 7):
        rig.driver.send(FRAME, pieces)
    assert rig.netdev.frames == [FRAME] * 3
    assert rig.driver.sent(0) == (STP | ENP, 0)
    assert rig.driver.sent(1) == (STP, 0)
    rig.close()


def test_sent_frame_interrupts(running: Rig) -> None:
    driver = running.driver
    driver.take_interrupt()
    driver.send(FRAME)
    assert driver.interrupted()
    causes = driver.take_interrupt()
    assert causes & TINT
    assert not causes & TDMD
    assert not driver.interrupted()
    assert driver.csr(4) & 8


def test_frames_wrap_around_the_ring(running: Rig) -> None:
    for _ in range(6):
        running.driver.send(FRAME, 7)
    assert running.netdev.frames == [FRAME] * 6
    assert running.driver.csr(74) == 16 - 42 % 16


def test_tokintd_keeps_good_frames_quiet(running: Rig) -> None:
    driver = running.driver
    driver.take_interrupt()
    driver.write_csr(5, 0xC000)
    driver.send(FRAME)
    assert not driver.interrupted()
    driver.piece(FRAME, OWN | STP | ENP | 0x1000)
    driver.demand()
    assert driver.interrupted()
    driver.take_interrupt()
    running.set_link(False)
    driver.send(FRAME)
    assert driver.interrupted()


def test_short_frames_are_padded_with_apad(rig: Rig) -> None:
    rig.driver.start(csr4=0x0115)
    rig.driver.send(FRAME[:20])
    rig.driver.write_csr(4, 0x0915)
    rig.driver.send(FRAME[:20])
    assert rig.netdev.frames == [FRAME[:20], FRAME[:20] + bytes(40)]


def test_fcs_of_the_guest_is_not_on_the_wire(rig: Rig) -> None:
    rig.driver.start(0x0008)
    rig.driver.send(FRAME + b"FCS.")
    rig.driver.piece(FRAME, OWN | STP | ENP | 0x2000)
    rig.driver.demand()
    assert rig.netdev.frames == [FRAME] * 2


def test_frame_that_does_not_end_is_an_underflow(running: Rig) -> None:
    driver = running.driver
    driver.piece(FRAME, OWN | STP)
    driver.demand()
    assert driver.sent(0) == (STP | ERR, 0x8000_0000 | UFLO)
    assert not driver.csr(0) & 0x10
    driver.start()
    driver.write_csr(3, 0x40)
    driver.piece(FRAME, OWN | STP)
    driver.demand()
    assert driver.csr(0) & 0x10
    driver.send(FRAME)
    assert running.netdev.frames == [FRAME]


def test_descriptor_without_start_is_given_back(running: Rig) -> None:
    driver = running.driver
    driver.piece(FRAME, OWN | ENP)
    driver.piece(FRAME, OWN)
    driver.send(FRAME)
    assert [driver.sent(at)[0] for at in range(3)] == [ENP, 0, STP | ENP]
    assert running.netdev.frames == [FRAME]


def test_long_frame_is_babble(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for _ in range(2):
        driver.piece(bytes(3000), OWN | STP)
        driver.piece(bytes(3000), OWN | ENP)
        driver.demand()
    assert driver.csr(0) & 0xFF00 & (BABL | TINT) == BABL | TINT
    assert running.netdev.frames == []
    assert len(caplog.records) == 1
    driver.send(bytes(4092))
    assert running.netdev.frames == [bytes(4092)]


def test_unreadable_buffer_drops_only_its_frame(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    driver.piece(FRAME, OWN | STP | ENP)
    driver.put(TX_RING, 1, 0x10, 64, OWN | STP | ENP)
    driver.tx_next = 2
    driver.send(FRAME)
    assert running.netdev.frames == [FRAME] * 2
    assert driver.sent(1)[0] == STP | ENP | ERR
    assert driver.csr(5) & 0x0800
    assert len(caplog.records) == 1


def test_chip_polls_until_the_driver_demands(running: Rig) -> None:
    driver = running.driver
    driver.piece(FRAME, OWN | STP | ENP)
    running.scheduler.advance(POLL_SECONDS)
    assert running.netdev.frames == [FRAME]
    driver.send(FRAME)
    driver.piece(FRAME, OWN | STP | ENP)
    running.scheduler.advance(1)
    assert running.netdev.frames == [FRAME] * 2
    assert all(timer.cancelled for _, _, timer in running.scheduler._calls)
    driver.demand()
    assert running.netdev.frames == [FRAME] * 3


def test_dpoll_turns_polling_off(rig: Rig) -> None:
    rig.driver.start(csr4=0x1915)
    rig.driver.piece(FRAME, OWN | STP | ENP)
    rig.scheduler.advance(1)
    assert rig.netdev.frames == []


def test_transmitter_that_is_off_sends_nothing(rig: Rig) -> None:
    rig.driver.start(0x0002)
    rig.driver.send(FRAME)
    assert rig.netdev.frames == []
    assert not rig.driver.csr(0) & TDMD
    rig.driver.start()
    rig.driver.write_csr(5, 1)
    rig.driver.send(FRAME)
    assert rig.netdev.frames == []
    rig.driver.write_csr(5, 0)
    rig.driver.demand()
    assert rig.netdev.frames == [FRAME]


def test_peer_without_room_pauses_ring(running: Rig) -> None:
    driver = running.driver
    running.netdev.room = False
    for _ in range(5):
        driver.piece(FRAME, OWN | STP | ENP)
    driver.demand()
    driver.demand()
    running.scheduler.run_soon()
    assert [bool(driver.sent(at)[0] & OWN) for at in range(3)] == [False, True, True]
    running.netdev.room = True
    running.netdev.client.flush(0)
    running.scheduler.run_soon()
    assert running.netdev.frames == [FRAME] * 5


def test_netdev_del_resumes_paused_ring(running: Rig) -> None:
    running.netdev.room = False
    running.driver.send(FRAME)
    running.network.delete_netdev("net0", "test")
    running.driver.send(FRAME)
    running.scheduler.run_soon()
    assert not running.driver.sent(1)[0] & OWN


def test_work_is_spread_over_turns() -> None:
    rig = Rig(log_size=9)
    rig.driver.start()
    for index in range(500):
        rig.driver.put(TX_RING, index, rig.driver.base + TX_BUFFERS, 64, OWN | STP | ENP)
    rig.driver.demand()
    assert len(rig.netdev.frames) == WORK_PER_TURN
    rig.driver.demand()
    assert len(rig.netdev.frames) == WORK_PER_TURN, "a demand while a turn is due is no turn of its own"
    rig.scheduler.run_soon()
    assert len(rig.netdev.frames) == 500
    rig.close()


def test_stop_cancels_scheduled_turn() -> None:
    rig = Rig(log_size=9)
    rig.driver.start()
    for index in range(500):
        rig.driver.put(TX_RING, index, rig.driver.base + TX_BUFFERS, 64, OWN | STP | ENP)
    rig.driver.demand()
    rig.driver.write_csr(0, STOP)
    rig.scheduler.run_soon()
    assert len(rig.netdev.frames) == WORK_PER_TURN
    rig.close()
