"""Tests of the back-ends' parsers with any input of a hostile peer or a careless user."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.loops import fresh_loop, turn, until

from vnic.backend.connection import FramedConnection
from vnic.backend.datagram import Hosts
from vnic.backend.framing import (
    LENGTH,
    MAX_FRAME_BYTES,
    Deframer,
    FramingError,
)
from vnic.backend.options import String, UserOptions
from vnic.backend.user.backend import UserPlan
from vnic.net.errors import NetError
from vnic.net.queue import Frame
from vnic.sockets.address import UnixAddress
from vnic.sockets.resolve import AddressError, unix_sockaddr


def take(deframer: Deframer, piece: bytes) -> list[bytes]:
    deframer.feed(piece)
    frames = []
    while (frame := deframer.next()) is not None:
        frames.append(frame)
    return frames


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 80), min_size=1, max_size=40))
def test_frames_are_reassembled_from_any_pieces(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(LENGTH.pack(len(frame)) + frame for frame in frames)
    deframer = Deframer()
    got: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        got += take(deframer, stream[at : at + size])
        at += size
        turn += 1
    assert got == frames


@given(st.lists(st.binary(max_size=5000), max_size=30))
def test_any_bytes_give_frames_or_framing_error(pieces: list[bytes]) -> None:
    deframer = Deframer()
    try:
        for piece in pieces:
            assert all(len(frame) <= MAX_FRAME_BYTES for frame in take(deframer, piece))
    except FramingError:
        pass


def test_longest_frame_passes_and_longer_is_refused() -> None:
    longest = bytes(MAX_FRAME_BYTES)
    assert take(Deframer(), LENGTH.pack(len(longest)) + longest) == [longest]
    with pytest.raises(FramingError):
        take(Deframer(), LENGTH.pack(MAX_FRAME_BYTES + 1))


@given(
    st.text(max_size=60)
    | st.from_regex(r"(tcp|udp|):[0-9.]{0,9}:[0-9]{1,5}-[0-9.]{0,9}:[0-9]{1,5}", fullmatch=True)
)
def test_any_host_forwarding_rule_is_parsed_or_refused(rule: str) -> None:
    try:
        plan = UserPlan(UserOptions(id="u", hostfwd=[String(text=rule)]))
    except NetError:
        return
    (forward,) = plan.forwards
    assert forward.protocol in ("tcp", "udp")
    assert forward.specification().isascii()


@given(st.from_regex(r"[0-9.:x/-]{0,24}", fullmatch=True))
def test_any_host_and_port_is_parsed_or_refused(text: str) -> None:
    try:
        host, port = Hosts().parse(text)
    except NetError:
        return
    assert host.count(".") == 3
    assert 0 <= port <= 0xFFFF


@given(st.text(st.characters(), max_size=200), st.booleans(), st.booleans())
def test_any_unix_path_is_used_or_refused(path: str, abstract: bool, tight: bool) -> None:
    try:
        sockaddr = unix_sockaddr(UnixAddress(path=path, abstract=abstract, tight=tight))
    except AddressError:
        return
    assert 0 < len(sockaddr) <= 108


class Receiver:
    """Keeps what arrives."""

    name = "receiver"

    def __init__(self) -> None:
        self.got: list[Frame] = []

    def send(self, queue: int, frame: Frame) -> bool:
        self.got.append(frame)
        return True

    def flush(self, queue: int) -> None:
        """Nothing waits."""


def test_flood_of_empty_frames_does_not_block_loop() -> None:
    with fresh_loop() as loop:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        receiver = Receiver()
        connection = FramedConnection(loop, ours, receiver, lost=lambda _: None)
        theirs.sendall(LENGTH.pack(0) * 1000 + LENGTH.pack(3) + b"end")
        turn(loop, 5)
        assert not receiver.got, "a thousand empty frames went by in a few turns"
        until(loop, lambda: receiver.got)
        assert receiver.got == [b"end"]
        connection.close()
        theirs.close()
