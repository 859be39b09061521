"""Commands of the driver where a keep is active: saved before the driver sees their answer, and each done once."""

from __future__ import annotations

import pytest
from tests.fakes.moving_lab import MovingLab

from vnic.record import encode

RX, ANNOUNCE = 0, 3


class Killed(BaseException):
    """The process does nothing after this."""


class Store:
    """Kept: the record of the device. It kills the process in the commit of that number, before or after it."""

    def __init__(self, lab: MovingLab, kill: int = 0, *, before: bool = False) -> None:
        self.lab = lab
        self.kill = kill
        self.before = before
        self.commits = 0
        self.dirty = False
        self.record = encode(lab.device.save())

    def changed(self) -> None:
        self.dirty = True

    handles_changed = changed

    def commit(self) -> None:
        self.commits += 1
        last = self.commits == self.kill
        if not (last and self.before):
            self.record = encode(self.lab.device.save())
        if last:
            raise Killed

    def end(self) -> None: ...


def give(lab: MovingLab, *commands: tuple[int, int, bytes]) -> list[int]:
    """Put commands into the ring; where their answers will be."""
    ring, answers = lab.driver.rings[2], []
    for klass, number, data in commands:
        out, answer = lab.guest.alloc(2 + len(data)), lab.guest.alloc(1)
        lab.guest.write(out, bytes((klass, number)) + data)
        lab.guest.write(answer, b"\xff")
        ring.add([(out, 2 + len(data))], [(answer, 1)])
        answers.append(answer)
    ring.publish()
    return answers


@pytest.mark.parametrize("before", [True, False])
def test_command_is_done_once_though_the_process_is_killed_in_the_commit(before: bool) -> None:
    """The second acknowledgement of an announcement would be refused."""
    with MovingLab() as lab:
        lab.plug()
        lab.device.announce()
        store = lab.device.kept = Store(lab, 1, before=before)
        answers = give(lab, (ANNOUNCE, 0, b""), (RX, 0, b"\0"))
        lab.driver.kick(2)
        with pytest.raises(Killed):
            lab.settle()
        assert lab.driver.rings[2].take_used() == [], "an answer was seen before it was saved"

        lab.move(store.record, Store(lab))
        lab.settle()
        assert len(lab.driver.rings[2].take_used()) == 2
        assert [lab.guest.read(answer, 1) for answer in answers] == [b"\0", b"\0"]
        assert lab.driver.rings[2].calls()
        assert not lab.device.filter.promisc
        assert lab.device.config.status == 1


def test_commands_of_one_kick_are_saved_together() -> None:
    with MovingLab() as lab:
        lab.plug()
        store = lab.device.kept = Store(lab)
        give(lab, *[(RX, mode, b"\1") for mode in range(6)])
        lab.driver.kick(2)
        assert store.commits == 0, "not within the kick, which may be a message of the VM"
        lab.settle()
        assert store.commits == 1
        assert len(lab.driver.rings[2].take_used()) == 6


def test_packets_need_no_commit() -> None:
    with MovingLab() as lab:
        lab.plug()
        lab.driver.fill_rx(8)
        store = lab.device.kept = Store(lab)
        for number in range(4):
            lab.driver.send(bytes(60))
            lab.netdev.send(0, bytes([number]) * 60)
            lab.settle()
        assert (store.commits, store.dirty) == (0, False)
        assert len(lab.driver.received()) == len(lab.sent) == 4

        lab.move(store.record)
        lab.driver.send(bytes(61))
        lab.netdev.send(0, bytes(62))
        lab.settle()
        assert [len(each) for each in lab.sent] == [60] * 4 + [61]
        assert [len(each) for each in lab.driver.received()] == [62]


def test_device_whose_vm_is_leaving_is_saved_as_one_without_a_vm() -> None:
    with MovingLab() as lab:
        fresh = lab.device.save()
        lab.plug()
        lab.device.announce()
        lab.driver.command(RX, 0, b"\0")
        lab.device._detaching = True
        assert lab.device.save() == lab.device.save()
        record = lab.device.save()
        assert (record.filter, record.engines, record.mac) == (fresh.filter, fresh.engines, fresh.mac)
        assert record.device.queues == fresh.device.queues
        assert not record.device.attached
        lab.device._detaching = False
