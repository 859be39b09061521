"""What a service may say to its keeper, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.keeper.messages import Malformed, Message, is_name, parse


def test_states_are_read() -> None:
    assert parse(b"READY=1\nSTATUS=all is well = so far") == Message(ready=True)
    assert parse(b"WATCHDOG=1") == Message(watchdog=True)
    assert parse(b"STOPPING=1\n") == Message(stopping=True)


def test_stored_and_removed_descriptors_have_a_name() -> None:
    assert parse(b"FDSTORE=1\nFDNAME=vnic-1\nFDPOLL=0") == Message(store=True, name="vnic-1")
    assert parse(b"FDSTOREREMOVE=1\nFDNAME=vnic-1") == Message(remove=True, name="vnic-1")
    assert parse(b"FDSTORE=1").name == "stored"


def test_an_upgrade_names_a_program_or_the_present_one() -> None:
    assert parse(b"X_VNIC_UPGRADE=/opt/vnic").upgrade == "/opt/vnic"
    assert parse(b"X_VNIC_UPGRADE=").upgrade == ""
    assert parse(b"READY=1").upgrade is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"FDSTORE=1\nFDNAME=a:b",
        b"FDSTORE=1\nFDNAME=",
        b"FDNAME=" + b"x" * 256,
        b"FDSTOREREMOVE=1",
    ],
)
def test_a_message_that_cannot_be_meant_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


@given(st.binary(max_size=300))
def test_any_datagram_is_a_message_or_refused(data: bytes) -> None:
    try:
        message = parse(data)
    except Malformed:
        return
    assert is_name(message.name)
