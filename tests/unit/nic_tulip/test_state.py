"""A record of a Tulip that cannot be is refused with the field's name, and leaves the NIC as it was; and a process that
was killed in the middle of a frame leaves a record from which the next one goes on.

That a NIC lives on in its record is what the other tests here show (`conftest.py`).
"""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.tulip_driver import FS, IC, LS, OWN, RX_RING, TX_RING
from tests.unit.nic_tulip.conftest import MAC, Rig

from vnic.net.network import Network
from vnic.nic.tulip import Tulip
from vnic.nic.tulip.record import TulipRecord
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode

FRAME = MAC + bytes(100)


def changed(record: TulipRecord, place: str, value: object) -> bytes:
    """The encoded record with `value` at a place such as `csr.5`."""
    whole = msgspec.json.decode(encode(record))
    part = whole["state"]
    *path, last = (int(step) if step.isdigit() else step for step in place.split("."))
    for step in path:
        part = part[step]
    part[last] = value
    return msgspec.json.encode(whole)


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ("function.config.data", "AAAA", "function.config.data"),
        ("csr", [], "csr"),
        ("csr.5", 0, "csr"),
        ("csr.3", 1 << 32, "csr[3]"),
        ("rx.at", -1, "rx.at"),
        ("tx.owed", [0] * 65, "tx.owed"),
        ("setup", "AAAA", "setup"),
        ("filter_kind", 4, "filter_kind"),
        ("phy", [], "phy"),
        ("mii.count", 32, "mii.count"),
        ("srom.state", "asleep", "srom.state"),
        ("link_up", 1, "link_up"),
    ],
)
def test_invalid_record_is_refused_with_field(rig: Rig, place: str, value: object, field: str) -> None:
    rig.driver.start()
    rig.wire(FRAME)
    assert rig.driver.interrupted()
    nic = Tulip()
    Network(FakeScheduler()).add_nic("new", nic.name, nic, mac=rig.nic.mac)
    before = nic.save()
    with pytest.raises(RecordError) as error:
        nic.restore(
            decode(TulipRecord, changed(rig.device.save(), place, value)),
            PciHandles(rig.driver.irq, rig.driver.served),
        )
    assert error.value.field == field
    assert nic.save() == before


def killed(rig: Rig, record: TulipRecord) -> None:
    """The process was killed when this was its last record."""
    new = Tulip()
    Network(FakeScheduler()).add_nic("new", "tulip", new, mac=rig.nic.mac)
    new.client, rig.nic.endpoint = rig.nic, new
    new.restore(record, PciHandles(rig.driver.irq, rig.driver.served))
    rig.device = rig.driver.device = new


@pytest.mark.parametrize("shown", [False, True])
def test_kill_while_a_frame_is_sent(shown: bool) -> None:
    rig = Rig()
    driver = rig.driver
    driver.start()
    driver.send(FRAME)
    record = msgspec.structs.replace(
        rig.device.save(), tx=msgspec.structs.replace(rig.device.save().tx, owed=[TX_RING + 16])
    )
    if not shown:
        driver.put(TX_RING, 1, 0, 100, FS | LS | IC, OWN)
    killed(rig, record)
    assert not driver.status(TX_RING, 1) & OWN
    driver.send(FRAME)
    rig.scheduler.run_soon()
    assert rig.netdev.frames == [FRAME] * 2
    rig.close()


@pytest.mark.parametrize("state", ["filled", "shown", "given again"])
def test_kill_while_a_frame_is_received(state: str) -> None:
    rig = Rig()
    driver = rig.driver
    driver.start()
    rig.wire(FRAME)
    record = rig.device.save()
    record = msgspec.structs.replace(record, rx=msgspec.structs.replace(record.rx, owed=[RX_RING]))
    if state == "filled":
        driver.memory.write(RX_RING, (OWN | 1 << 9).to_bytes(4, "little"))
    elif state == "given again":
        assert driver.received() == [FRAME]
    killed(rig, record)
    rig.wire(FRAME + b"2")
    expected = [FRAME, FRAME + b"2"] if state == "shown" else [FRAME + b"2"]
    assert driver.received() == expected
    rig.close()
