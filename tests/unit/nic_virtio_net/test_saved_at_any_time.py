"""A virtio-net device that is saved and restored between any two steps of its driver, beside one that lives on.

The restored one may interrupt its driver more often."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.fakes.moving_lab import MovingLab
from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

PAIRS = 2


def new_lab() -> MovingLab:
    return MovingLab(PAIRS, ring_size=8)


class AnyTime(RuleBasedStateMachine):
    """The same happens to both; what the driver, the far end and a monitor see is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lives, self.moves = new_lab(), new_lab()
        self.labs = (self.lives, self.moves)
        self.plugged = False
        self.number = 0

    def teardown(self) -> None:
        self.turn()
        for lab in self.labs:
            lab.close()

    @rule()
    def save_and_restore(self) -> None:
        """What was put off is saved, too. A restored device looks at its rings in the next turn: both have it."""
        self.moves.move()
        self.lives.device.look_at_rings()
        for lab in self.labs:
            lab.settle()

    @rule()
    def turn(self) -> None:
        """Let the loop come to rest. In between a save finds work that was put off."""
        for lab in self.labs:
            lab.settle()
        lives, moves = (self.seen(lab) for lab in self.labs)
        assert moves == lives
        called = [[bool(ring.calls()) for ring in lab.driver.rings] for lab in self.labs]
        assert all(more or not once for once, more in zip(*called, strict=True)), "an interrupt was lost"

    # -- the guest ----------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.plugged)
    @rule()
    def plug(self) -> None:
        self.plugged = True
        for lab in self.labs:
            lab.plug()

    @precondition(lambda self: self.plugged)
    @rule()
    def unplug(self) -> None:
        self.plugged = False
        for lab in self.labs:
            lab.driver.unplug()

    @precondition(lambda self: self.plugged)
    @rule()
    def reset(self) -> None:
        for lab in self.labs:
            lab.driver.start()

    @precondition(lambda self: self.plugged)
    @rule(
        pair=st.integers(0, PAIRS - 1), indirect=st.booleans(), kick=st.booleans(), size=st.integers(10, 900)
    )
    def send(self, pair: int, indirect: bool, kick: bool, size: int) -> None:
        self.number += 1
        for lab in self.labs:
            ring = lab.driver.rings[2 * pair + 1]
            ring.take_used()
            if ring.free:
                lab.driver.queue_tx(frame(self.number, max(size, 20)), pair, indirect=indirect)
                ring.publish(kick)
                lab.driver.kick(ring.index)

    @precondition(lambda self: self.plugged)
    @rule(pair=st.integers(0, PAIRS - 1), count=st.integers(1, 3), size=st.sampled_from([64, 1526]))
    def make_room(self, pair: int, count: int, size: int) -> None:
        for lab in self.labs:
            count = min(count, lab.driver.rings[2 * pair].free)
            lab.driver.fill_rx(count, pair, size)

    @precondition(lambda self: self.plugged)
    @rule(
        command=st.sampled_from(
            [
                *[(0, 0, b"\0"), (0, 0, b"\1"), (0, 1, b"\1")],
                *[(4, 0, b"\1\0"), (4, 0, b"\2\0"), (4, 0, b"\3\0")],
                *[(1, 1, bytes(range(6))), (2, 0, b"\5\0"), (3, 0, b""), (9, 9, b"")],
            ]
        )
    )
    def command(self, command: tuple[int, int, bytes]) -> None:
        answers = [lab.driver.command(*command) for lab in self.labs]
        assert answers[0] == answers[1]

    @precondition(lambda self: self.plugged)
    @rule()
    def break_a_ring(self) -> None:
        for lab in self.labs:
            ring = lab.driver.rings[1]
            ring.offer(5000)
            ring.publish()
            lab.driver.kick(1)

    # -- the wire -----------------------------------------------------------------------------------------------

    @rule(queue=st.integers(0, PAIRS - 1), count=st.integers(1, 3))
    def far_end_sends(self, queue: int, count: int) -> None:
        for at in range(count):
            for lab in self.labs:
                lab.netdev.send(queue, frame(self.number + at, 300))
        self.number += count

    @rule(room=st.sampled_from([None, 0, 1]))
    def far_end_has_room(self, room: int | None) -> None:
        for lab in self.labs:
            assert isinstance(lab.far, FarEnd)
            lab.far.room = room
            if room != 0:
                for queue in range(PAIRS):
                    lab.netdev.flush(queue)

    @rule(up=st.booleans(), name=st.sampled_from(["nic0", "net0"]))
    def set_link(self, up: bool, name: str) -> None:
        for lab in self.labs:
            lab.set_link(up, name)

    @rule()
    def look_at_link(self) -> None:
        seen = [lab.device.read_config(6, 2) for lab in self.labs]
        assert seen[0] == seen[1]

    @rule()
    def announce(self) -> None:
        for lab in self.labs:
            lab.device.announce()

    # -- what is seen -------------------------------------------------------------------------------------------

    def seen(self, lab: VirtioLab) -> object:
        driver, device = lab.driver, lab.device
        return (
            [driver.received(pair) for pair in range(PAIRS)],
            [ring.used_idx for ring in driver.rings],
            (driver.config_interrupts, driver.reset_notices, driver.links),
            (device.status, device.driver_features, device.datapath, device.rx_filter(), device.active_pairs),
            device.config.pack(device.config_size),
            lab.sent,
            (lab.nic.link_up, lab.nic.operstate, lab.nic.carrier_up_changes, lab.nic.carrier_down_changes),
            (lab.nic.guest.attached, lab.nic.guest.driver_ok, lab.nic.guest.seen, set(lab.nic.holds)),
            [name for name in lab.names() if name != "NETDEV_CREATED"],
        )


AnyTime.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestSavedAtAnyTime = AnyTime.TestCase


def test_a_frame_that_waits_for_room_comes_after_a_restore() -> None:
    with new_lab() as lab:
        lab.plug()
        lab.netdev.send(0, frame(1))
        lab.move()
        lab.netdev.send(0, frame(2))
        lab.settle()
        lab.driver.fill_rx(4)
        lab.settle()
        assert lab.driver.received() == [frame(1), frame(2)]
        assert lab.driver.rings[0].calls()
