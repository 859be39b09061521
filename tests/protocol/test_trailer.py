"""Tests of a tunnel's trailer: what the key vouches for, and what is refused."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.protocol.trailer import TRAILER_BYTES, WINDOW, Refused, Trailer, derive
from vnic.protocol.vxlan import MAX_VNI, VxlanError, header, vni_of

KEY = derive("secret")
NOW = 1_800_000_000_000_000_000


def pair() -> tuple[Trailer, Trailer]:
    return Trailer(KEY, 1, NOW), Trailer(KEY, 2, NOW)


def test_layout_is_as_documented() -> None:
    """Made here from the description alone."""
    key = hashlib.blake2b(b"secret", digest_size=32, person=b"vnic tunnel key\0").digest()
    head = struct.pack(">BBHQ", 1, 0, 1, NOW)
    mac = hashlib.blake2b(b"datagram" + head, key=key, digest_size=16).digest()
    assert pair()[0].seal(b"datagram") == b"datagram" + head + mac
    assert len(head + mac) == TRAILER_BYTES


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_what_is_sealed_opens_once(datagrams: list[bytes]) -> None:
    one, two = pair()
    sealed = [one.seal(each) for each in datagrams]
    assert [two.open(each) for each in sealed] == datagrams
    assert all(two.open(each) is Refused.REPLAYED for each in sealed)


@given(st.binary(max_size=60), st.data())
def test_each_changed_bit_is_refused(datagram: bytes, data: st.DataObject) -> None:
    one, two = pair()
    sealed = bytearray(one.seal(datagram))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert two.open(bytes(sealed)) is Refused.BAD_KEY


def test_other_keys_ends_and_lengths_are_refused() -> None:
    one, two = pair()
    sealed = one.seal(b"datagram")
    assert Trailer(derive("other"), 2, NOW).open(sealed) is Refused.BAD_KEY
    assert one.open(sealed) is Refused.WRONG_MEP, "a datagram that came back"
    assert two.open(sealed[: TRAILER_BYTES - 1]) is Refused.TRUNCATED
    assert two.open(sealed[:-1]) is Refused.BAD_KEY


@given(st.permutations(range(WINDOW)))
def test_order_within_the_window_does_not_matter(order: list[int]) -> None:
    one, two = pair()
    sealed = [one.seal(bytes([number])) for number in range(WINDOW)]
    assert [two.open(sealed[at]) for at in order] == [bytes([at]) for at in order]


def test_older_than_the_window_is_refused() -> None:
    one, two = pair()
    sealed = [one.seal(b"x") for _ in range(WINDOW + 1)]
    assert two.open(sealed[-1]) == b"x"
    assert two.open(sealed[0]) is Refused.REPLAYED
    assert two.open(sealed[1]) == b"x"


def test_later_start_is_ahead_and_restored_one_goes_on() -> None:
    one, two = pair()
    for _ in range(1000):
        two.open(one.seal(b"x"))
    assert two.open(Trailer(KEY, 1, NOW + 1_000_000).seal(b"later")) == b"later"
    assert two.open(one.seal(b"x")) is Refused.REPLAYED
    saved, replayed = two.save(), one.seal(b"y")
    again = Trailer(KEY, 2, 0)
    again.restore(saved)
    assert again.save() == saved
    assert again.open(replayed) is Refused.REPLAYED


@given(st.integers(0, MAX_VNI), st.binary(max_size=20))
def test_vxlan_header_has_its_vni(vni: int, frame: bytes) -> None:
    assert vni_of(header(vni) + frame) == vni
    assert len(header(vni)) == 8


@pytest.mark.parametrize("datagram", [b"", bytes(7), bytes(8), b"\xf7" + bytes(20)])
def test_datagram_without_a_vni_is_refused(datagram: bytes) -> None:
    with pytest.raises(VxlanError):
        vni_of(datagram)
