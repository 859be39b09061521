"""Tests of echo: the answers of the built-in host, byte for byte, and the frames that get none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.echo import MAX_ANSWERS_WAITING, Responder
from vnic.backend.options import EchoOptions
from vnic.net.errors import NetError
from vnic.net.offload import checksum

HOST_MAC = bytes.fromhex("52550a000202")
GUEST_MAC = bytes.fromhex("525400123456")
HOST_IP, GUEST_IP = bytes((10, 0, 2, 2)), bytes((10, 0, 2, 15))
HOST_IP6 = bytes.fromhex("fec0" + "00" * 13 + "02")
GUEST_IP6 = bytes.fromhex("fe80" + "00" * 13 + "15")
SOLICITED_IP6 = bytes.fromhex("ff0200000000000000000001ff000002")
SOLICITED_MAC = bytes.fromhex("3333ff000002")

HOST = Responder(HOST_MAC, "10.0.2.2", "fec0::2")


def ethernet(target: bytes, ether_type: int, payload: bytes) -> bytes:
    return target + GUEST_MAC + ether_type.to_bytes(2, "big") + payload


def arp_request(target: bytes = HOST_IP) -> bytes:
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, GUEST_MAC, GUEST_IP, bytes(6), target)
    return ethernet(b"\xff" * 6, 0x0806, body)


def summed(message: bytes, at: int, extra: bytes = b"") -> bytes:
    return message[:at] + checksum(extra + message).to_bytes(2, "big") + message[at + 2 :]


def ping(payload: bytes, target: bytes = HOST_IP, fragment: int = 0) -> bytes:
    icmp = summed(struct.pack(">BBHHH", 8, 0, 0, 77, 3) + payload, 2)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 99, fragment, 64, 1, 0, GUEST_IP, target)
    return ethernet(HOST_MAC, 0x0800, summed(header, 10) + icmp)


def ipv6(target_mac: bytes, target: bytes, icmp: bytes, hops: int, source: bytes = GUEST_IP6) -> bytes:
    icmp = summed(icmp, 2, source + target + struct.pack(">II", len(icmp), 58))
    header = struct.pack(">IHBB16s16s", 6 << 28, len(icmp), 58, hops, source, target)
    return ethernet(target_mac, 0x86DD, header + icmp)


def ping6(payload: bytes) -> bytes:
    return ipv6(HOST_MAC, HOST_IP6, struct.pack(">BBHHH", 128, 0, 0, 77, 3) + payload, 64)


def solicitation(source: bytes = GUEST_IP6, hops: int = 255) -> bytes:
    body = struct.pack(">BBHI", 135, 0, 0, 0) + HOST_IP6
    if any(source):
        body += b"\1\1" + GUEST_MAC
    return ipv6(SOLICITED_MAC, SOLICITED_IP6, body, hops, source)


def test_arp_request_is_answered() -> None:
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, HOST_MAC, HOST_IP, GUEST_MAC, GUEST_IP)
    expected = GUEST_MAC + HOST_MAC + b"\x08\x06" + body
    assert HOST.answer(arp_request()) == expected.ljust(60, b"\0")


@pytest.mark.parametrize("size", [0, 1, 56, 57, 1472])
def test_ping_is_answered(size: int) -> None:
    payload = bytes(n & 0xFF for n in range(size))
    reply = HOST.answer(ping(payload))
    assert reply is not None
    assert reply[:14] == GUEST_MAC + HOST_MAC + b"\x08\x00"
    total = struct.unpack_from(">H", reply, 16)[0]
    assert total == 28 + size
    assert checksum(reply[14:34]) == 0xFFFF
    icmp = reply[34 : 14 + total]
    assert checksum(icmp) == 0xFFFF
    assert (icmp[0], icmp[1], icmp[4:]) == (0, 0, struct.pack(">HH", 77, 3) + payload)
    assert (reply[26:30], reply[30:34]) == (HOST_IP, GUEST_IP)


@pytest.mark.parametrize("size", [0, 1, 56, 57, 1452])
def test_ping6_is_answered(size: int) -> None:
    payload = bytes(n & 0xFF for n in range(size))
    reply = HOST.answer(ping6(payload))
    assert reply is not None
    length = struct.unpack_from(">H", reply, 18)[0]
    assert length == 8 + size
    message = reply[54 : 54 + length]
    assert checksum(HOST_IP6 + GUEST_IP6 + struct.pack(">II", length, 58) + message) == 0xFFFF
    assert (message[0], message[4:]) == (129, struct.pack(">HH", 77, 3) + payload)


def test_neighbour_solicitation_is_answered_with_mac() -> None:
    reply = HOST.answer(solicitation())
    assert reply is not None
    assert reply[:12] == GUEST_MAC + HOST_MAC
    assert reply[21] == 255
    message = reply[54:]
    assert checksum(HOST_IP6 + GUEST_IP6 + struct.pack(">II", 32, 58) + message) == 0xFFFF
    assert (
        message[:2] + message[4:] == b"\x88\0" + struct.pack(">I", 0x60000000) + HOST_IP6 + b"\2\1" + HOST_MAC
    )


def test_duplicate_address_probe_is_answered() -> None:
    reply = HOST.answer(solicitation(source=bytes(16)))
    assert reply is not None
    assert reply[:6] == bytes.fromhex("333300000001")
    assert reply[38:54] == bytes.fromhex("ff02" + "00" * 13 + "01")
    assert reply[58:62] == struct.pack(">I", 0x20000000)


def other_mac(frame: bytes) -> bytes:
    return b"\2" + frame[1:]


def corrupt(frame: bytes) -> bytes:
    return frame[:-1] + bytes((frame[-1] ^ 1,))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(13),
        arp_request(target=bytes((10, 0, 2, 3))),
        arp_request()[:41],
        ping(b"abc", target=bytes((10, 0, 2, 3))),
        ping(b"abc", fragment=0x2000),
        ping(b"abc")[:-1],
        corrupt(ping(b"abcd")),
        other_mac(ping(b"abcd")),
        ping6(b"abcd")[:-1],
        corrupt(ping6(b"abcd")),
        solicitation(hops=254),
        ping(b"x")[:6] + b"\xff" * 6 + ping(b"x")[12:],
    ],
)
def test_other_frames_get_no_answer(frame: bytes) -> None:
    assert HOST.answer(frame) is None


@given(st.sampled_from([arp_request(), ping(b"abcd"), ping6(b"abcd"), solicitation()]), st.data())
def test_any_frame_is_handled(frame: bytes, data: st.DataObject) -> None:
    mutated = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    HOST.answer(mutated[: data.draw(st.integers(0, len(mutated)))])


def test_netdev_answers_ping() -> None:
    async def main() -> None:
        async with Lab() as lab:
            _, nic, guest = lab.wire(EchoOptions(id="host"))
            assert nic.link_up
            guest.room = 1
            for _ in range(5):
                assert nic.send(0, memoryview(ping(b"abc")))
            await until(lambda: guest.got)
            guest.make_room()
            await until(lambda: len(guest.got) == 5)

    run(main())


def test_waiting_answers_are_bounded() -> None:
    async def main() -> None:
        async with Lab() as lab:
            _, nic, guest = lab.wire(EchoOptions(id="host"))
            for _ in range(3 * MAX_ANSWERS_WAITING):
                nic.send(0, ping(b"abc"))
            await until(lambda: len(guest.got) == MAX_ANSWERS_WAITING)

    run(main())


@pytest.mark.parametrize(
    "options",
    [
        EchoOptions(id="e", ip="10.0.2"),
        EchoOptions(id="e", ip6="fec0::g"),
        EchoOptions(id="e", mac="52:55"),
        EchoOptions(id="e", mac="53:55:0a:00:02:02"),
    ],
)
def test_bad_address_is_refused(options: EchoOptions) -> None:
    async def main() -> None:
        async with Lab() as lab:
            with pytest.raises(NetError):
                lab.add(options)

    run(main())
