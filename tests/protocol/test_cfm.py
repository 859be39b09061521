"""Tests of continuity checks with a clock of the test's own: the codec, and the judge of a maintenance end point."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnic.protocol.cfm.ccm import (
    INTERVALS_US,
    MAX_LEVEL,
    MIN_PDU_BYTES,
    Ccm,
    CcmError,
    InterfaceStatus,
    ethernet_header,
    level_of,
    maid,
)
from vnic.protocol.cfm.mep import Heard, Mep, MepConfig, Verdict

MAID = maid("vnic 7")
SOURCE = bytes.fromhex("027600010007")

ccms = st.builds(
    Ccm,
    level=st.integers(0, MAX_LEVEL),
    interval=st.sampled_from(sorted(INTERVALS_US)),
    sequence=st.integers(0, (1 << 32) - 1),
    mep=st.integers(1, 8191),
    maid=st.binary(min_size=48, max_size=48),
    rdi=st.booleans(),
    status=st.none() | st.sampled_from(InterfaceStatus),
)


def mep(mep_id: int = 1, *, interval: int = 2, sequence: int = 1000, level: int = 0) -> Mep:
    config = MepConfig(level, mep_id, MAID, interval, SOURCE)
    return Mep(config, now_us=0, sequence=sequence, status=InterfaceStatus.UP)


def frame(**fields: Any) -> bytes:
    given: dict[str, Any] = {"level": 0, "interval": 2, "sequence": 1, "mep": 2, "maid": MAID} | fields
    ccm = Ccm(**given)
    return ethernet_header(ccm.level, SOURCE) + ccm.pack()


# -- the codec --------------------------------------------------------------------------------------------------------


@given(ccms)
def test_ccm_survives_the_way(ccm: Ccm) -> None:
    assert Ccm.parse(ccm.pack()) == ccm
    assert Ccm.parse(ccm.pack() + b"padding") == ccm
    assert level_of(ethernet_header(ccm.level, SOURCE) + ccm.pack()) == ccm.level


@given(st.binary(max_size=120))
def test_any_bytes_are_parsed_or_refused(pdu: bytes) -> None:
    try:
        Ccm.parse(pdu)
    except CcmError:
        return


@given(ccms, st.data())
def test_changed_bytes_are_parsed_or_refused(ccm: Ccm, data: st.DataObject) -> None:
    pdu = bytearray(ccm.pack())
    pdu[data.draw(st.integers(0, len(pdu) - 1))] = data.draw(st.integers(0, 255))
    try:
        Ccm.parse(bytes(pdu[: data.draw(st.integers(0, len(pdu)))]))
    except CcmError:
        return


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


@pytest.mark.parametrize(
    ("tlvs", "status"),
    [
        (b"", None),
        (b"\0", None),
        (tlv(2, b"\2") + tlv(4, b"\2") + b"\0", InterfaceStatus.DOWN),
        (tlv(31, b"vendor") + tlv(4, b"\7"), InterfaceStatus.LOWER_LAYER_DOWN),
        (tlv(4, b"\2") + tlv(4, b"\1"), InterfaceStatus.UP),
        (b"\0" + tlv(4, b"\2"), None),
    ],
)
def test_tlvs_are_read_to_their_end(tlvs: bytes, status: InterfaceStatus | None) -> None:
    head = frame()[14 : 14 + MIN_PDU_BYTES]
    assert Ccm.parse(head + tlvs).status is status


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda pdu: pdu[: MIN_PDU_BYTES - 1], "73 bytes"),
        (lambda pdu: pdu[:2] + b"\0" + pdu[3:], "interval of 0"),
        (lambda pdu: pdu[:3] + b"\x45" + pdu[4:], "first TLV offset of 69"),
        (lambda pdu: pdu[:3] + b"\xf0" + pdu[4:], "first TLV offset of 240"),
        (lambda pdu: pdu[:MIN_PDU_BYTES] + b"\4", "without its length"),
        (lambda pdu: pdu[:MIN_PDU_BYTES] + b"\4\0\2\1", "runs over the end"),
        (lambda pdu: pdu[:MIN_PDU_BYTES] + b"\4\0\0\0", "without a status"),
        (lambda pdu: pdu[:MIN_PDU_BYTES] + b"\4\0\1\x08", "without a status"),
        (lambda pdu: pdu[:MIN_PDU_BYTES] + b"\4\0\2\1\1", "without a status"),
    ],
)
def test_malformed_pdu_is_refused(change: Any, text: str) -> None:
    with pytest.raises(CcmError, match=text):
        Ccm.parse(change(frame()[14:]))


def test_names_have_their_formats() -> None:
    assert maid("vnic 7").rstrip(b"\0") == b"\x01\x02\x06vnic 7"
    assert maid("ovs", "ovs").rstrip(b"\0") == b"\x04\x03ovs\x02\x03ovs", "cfm_generate_maid of Open vSwitch"
    for names in (("x" * 46,), ("x", "y" * 44), ("",), ("x", "")):
        with pytest.raises(ValueError, match="bytes"):
            maid(*names)


@pytest.mark.parametrize(
    "data", [b"", bytes(14), frame()[:14], frame()[:12] + b"\x81\0\0\1" + frame()[12:], bytes(100)]
)
def test_other_frames_have_no_level(data: bytes) -> None:
    assert level_of(data) is None


@pytest.mark.needs("tshark")
@pytest.mark.parametrize("status", [None, *InterfaceStatus])
def test_tshark_decodes_it(tmp_path: Path, status: InterfaceStatus | None) -> None:
    """As a capture of Ethernet frames, one for each level."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1)
    for level in range(MAX_LEVEL + 1):
        packet = frame(level=level, rdi=True, interval=2, sequence=77 + level, status=status)
        data += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    path = tmp_path / "ccms.pcap"
    path.write_bytes(data)
    fields = ("cfm.md.level", "cfm.flags.rdi", "cfm.flags.interval", "cfm.ccm.seq.num", "cfm.ccm.ma.ep.id",
              "cfm.maid.ma.name.string", "cfm.tlv.port.interface.value", "_ws.malformed")  # fmt: skip
    command = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-T",
        "fields",
        *(word for name in fields for word in ("-e", name)),
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    told = "" if status is None else str(int(status))
    assert [line.split("\t") for line in lines] == [
        [str(level), "1", "2", str(77 + level), "2", "vnic 7", told, ""] for level in range(MAX_LEVEL + 1)
    ]


# -- the judge --------------------------------------------------------------------------------------------------------


def test_two_ends_hear_each_other() -> None:
    one, two = mep(1), mep(2)
    assert one.own_rdi
    first = one.make_due(0)
    assert first is not None
    assert Ccm.parse(first[14:]).rdi
    assert two.receive(first, 5) is Verdict.TAKEN
    assert two.state == (Heard.YES, True, InterfaceStatus.UP, 1)
    answer = two.make_due(5)
    assert answer is not None, "it tells at once that it hears"
    assert one.receive(answer, 9) is Verdict.TAKEN
    assert one.state == (Heard.YES, False, InterfaceStatus.UP, 2)
    again = one.make_due(9)
    assert again is not None
    assert two.receive(again, 12) is Verdict.TAKEN
    assert two.state == (Heard.YES, False, InterfaceStatus.UP, 1)


def test_ccms_are_made_at_the_interval_without_bursts() -> None:
    one = mep()
    assert one.make_due(0) is not None
    assert one.make_due(9_999) is None
    assert one.make_due(10_000) is not None
    assert one.send_due_us == 20_000
    assert one.make_due(95_000) is not None
    assert one.send_due_us == 105_000, "those that were missed are not made up for"
    assert one.make_due(95_001) is None


def test_change_of_status_is_sent_at_once() -> None:
    one = mep()
    one.make_due(0)
    assert not one.set_status(InterfaceStatus.UP, 10)
    assert one.make_due(10) is None
    assert one.set_status(InterfaceStatus.DOWN, 20)
    sent = one.make_due(20)
    assert sent is not None
    assert Ccm.parse(sent[14:]).status is InterfaceStatus.DOWN


def test_silence_of_3_5_intervals_is_a_loss() -> None:
    one = mep()
    assert not one.expire(10**9), "nothing is lost that was never heard"
    one.receive(frame(status=InterfaceStatus.DOWN, rdi=True), 1000)
    assert one.lost_due_us == 36_000
    assert not one.expire(35_999)
    assert one.expire(36_000)
    assert tuple(one.state) == (Heard.LOST, False, None, 2), "what it said is no longer known"
    assert one.send_due_us == 36_000, "and is told at once"
    assert Ccm.parse(one.make()[14:]).rdi
    assert not one.expire(99_000), "it is lost once"


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (frame(level=1), Verdict.WRONG_LEVEL),
        (frame(level=3), Verdict.PASS),
        (frame(level=2, maid=maid("vnic 8")), Verdict.WRONG_MAID),
        (frame(level=2, mep=1), Verdict.WRONG_MEP),
        (frame(level=2, mep=0), Verdict.WRONG_MEP),
        (frame(level=2, mep=8192), Verdict.WRONG_MEP),
        (frame(level=2)[:15] + b"\3", Verdict.FILTERED),
        (frame(level=2)[:15], Verdict.BAD_CCM),
        (frame(level=2)[:50], Verdict.BAD_CCM),
        (frame(level=2), Verdict.TAKEN),
    ],
    ids=lambda value: value.hex()[28:44] if isinstance(value, bytes) else value.name,
)
def test_ccms_of_others_have_no_effect(given: bytes, verdict: Verdict) -> None:
    one = mep(level=2)
    assert one.receive(given, 5) is verdict
    assert (one.state.heard is Heard.YES) is (verdict is Verdict.TAKEN)


def test_repeated_ccm_has_no_effect_while_its_sender_is_heard() -> None:
    one = mep()
    up, down = (
        frame(sequence=n, status=s) for n, s in ((10, InterfaceStatus.UP), (11, InterfaceStatus.DOWN))
    )
    one.receive(up, 0)
    one.receive(down, 1000)
    for old in (up, down):
        assert one.receive(old, 2000) is Verdict.OLD_SEQUENCE
    assert one.state.status is InterfaceStatus.DOWN
    assert one.lost_due_us == 36_000, "nor does it prolong the life of its sender"
    assert one.expire(36_000)
    assert one.receive(up, 40_000) is Verdict.TAKEN, "an end that starts anew may have a wrong clock"


@pytest.mark.parametrize(
    ("last", "following", "taken"),
    [
        (1, 2, True),
        (1, 0x8000_0000, True),
        (1, 0x8000_0001, False),
        (0xFFFF_FFFF, 1, True),
        (0xFFFF_FFFF, 0, True),
        (5, 0, False),
        (0, 5, True),
        (0, 0, True),
        (5, 5, False),
    ],
)
def test_sequence_numbers_are_serial_and_may_all_be_zero(last: int, following: int, taken: bool) -> None:
    one = mep()
    one.receive(frame(sequence=last), 0)
    assert (one.receive(frame(sequence=following), 1) is Verdict.TAKEN) is taken


def test_own_sequence_has_32_bits() -> None:
    one = mep(sequence=0x1_FFFF_FFFF)
    assert [Ccm.parse(one.make()[14:]).sequence for _ in range(2)] == [0xFFFF_FFFF, 0]


def test_silence_is_judged_by_the_interval_of_the_other_end() -> None:
    one = mep(interval=2)
    one.receive(frame(interval=3), 0)
    assert one.lost_due_us == 350_000
    one.receive(frame(interval=1, sequence=2), 0)
    assert one.lost_due_us == 11_665


def test_quiet_end_tells_of_silence_only_after_a_ccm() -> None:
    one = Mep(MepConfig(0, 1, MAID, 2, SOURCE, quiet=True), now_us=0, sequence=1, status=InterfaceStatus.UP)
    assert not one.own_rdi
    one.receive(frame(), 0)
    assert one.expire(35_000)
    assert one.own_rdi


@settings(max_examples=15)
@given(st.integers(0, 1 << 30), st.sampled_from(sorted(INTERVALS_US)))
def test_ends_agree_over_a_lossy_path(seed: int, interval: int) -> None:
    """A model: an end is heard exactly while a CCM reached the other within 3.5 intervals, and RDI says that it is
    not; restored ends behave as those that were saved."""
    chance = random.Random(seed)
    ends = {1: mep(1, interval=interval), 2: mep(2, interval=interval, sequence=77)}
    step = INTERVALS_US[interval] // 7
    last: dict[int, int | None] = {1: None, 2: None}
    loss = {1: 0.0, 2: 0.0}
    for tick in range(200):
        now = tick * step
        if tick % 50 == 0:
            loss = {number: chance.choice((0.0, 0.0, 0.3, 1.0)) for number in ends}
        if chance.random() < 0.02:
            number = chance.choice((1, 2))
            saved = msgspec.json.decode(msgspec.json.encode(ends[number].save(now)), type=dict)
            record = type(ends[number].save(now))(**saved)
            ends[number] = mep(number, interval=interval)
            ends[number].restore(record, now)
        for number, end in ends.items():
            heard_at = last[number]
            end.expire(now)
            if heard_at is not None:
                assert (end.state.heard is Heard.YES) is (now < heard_at + int(INTERVALS_US[interval] * 3.5))
            if chance.random() < 0.05:
                end.set_status(chance.choice(list(InterfaceStatus)), now)
            sent = end.make_due(now)
            if sent is None or chance.random() < loss[number]:
                continue
            other = ends[3 - number]
            assert other.receive(sent, now) is Verdict.TAKEN
            last[3 - number] = now
            assert other.state.rdi is end.own_rdi
            assert other.state.status is end.own_status
