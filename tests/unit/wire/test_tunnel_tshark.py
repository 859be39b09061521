"""What TUNNEL ports send, as tshark decodes it."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from tests.fakes.tunnel_peer import DOWN, KEY, MAID, TunnelPeer, TunnelSocket
from tests.fakes.wire_ends import Stream
from tests.fakes.wire_program import WireProgram, frame

from vnic.dataplane.wire.messages import Inject
from vnic.dataplane.wire.tunnel_messages import CcmMode, TunnelState

pytestmark = pytest.mark.needs("loopback", "tshark")

RAW_IP = 101
FIELDS = (
    *("vxlan.flags", "vxlan.vni", "eth.dst", "eth.src", "cfm.md.level", "cfm.version", "cfm.opcode"),
    *("cfm.flags.rdi", "cfm.flags.interval", "cfm.first.tlv.offset", "cfm.ccm.seq.num", "cfm.ccm.ma.ep.id"),
    *("cfm.maid.md.name.format", "cfm.maid.ma.name.format", "cfm.maid.ma.name.string"),
    *("cfm.tlv.type", "cfm.tlv.length", "cfm.tlv.port.interface.value"),
)
CCM = [
    *("0x0800", "1193046", "01:80:c2:00:00:33", "02:00:00:00:00:aa", "3", "0", "1"),
    *("1", "4", "70", "77", "1"),
    *("1", "2", "vnic VNI 1193046"),
    *("4,0", "1", "2"),
]


def write_pcap(path: Path, datagrams: list[bytes]) -> None:
    """The datagrams at VXLAN's port, since tests receive at others."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, RAW_IP)
    for datagram in datagrams:
        udp = struct.pack(">HHHH", 50000, 4789, 8 + len(datagram), 0) + datagram
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        packet = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses + udp
        data += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    path.write_bytes(data)


def tshark(path: Path, *arguments: str) -> list[str]:
    command = ["tshark", "-n", "-r", str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("key", [b"", KEY], ids=["plain", "with key"])
def test_tshark_decodes_frames_and_ccms(program: Path, tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "sent.pcap"
    maid = MAID if not key else b"\4\3ovs\2\3ovs".ljust(48, b"\0")
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        peer = TunnelPeer(
            *(TunnelSocket(wire), 2),
            mode=CcmMode.ON,
            interval_us=1_000_000,
            level=3,
            status=DOWN,
            key=key,
            maid=maid,
            state=TunnelState(sequence=77),
        )
        with peer:
            wire.wire(1, 1, 2)
            datagrams = [peer.sock.recv(1 << 17)]  # the first CCM
            stream.send(frame(1), frame(2, 1514))
            datagrams += [peer.sock.recv(1 << 17) for _ in range(2)]
            tagged = frame(3)[:12] + bytes.fromhex("81000007") + frame(3)[12:]
            wire.request(Inject(2, 0, tagged))
            datagrams.append(peer.sock.recv(1 << 17))
            datagrams = [each for each in datagrams if each[20:22] != b"\x89\x02" or each is datagrams[0]]
    write_pcap(path, datagrams)
    assert tshark(path, "-Y", "_ws.malformed or _ws.expert.severity >= 0x600000") == []  # warnings and errors
    options = [word for field in FIELDS for word in ("-e", field)]
    ccm, *frames = (line.split("\t") for line in tshark(path, "-T", "fields", *options))
    if key:  # the names of Open vSwitch; the trailer is behind the End TLV
        assert ccm == [*CCM[:12], "4", "2", "ovs", *CCM[15:]]
        assert tshark(path, "-T", "fields", "-e", "cfm.maid.md.name.string")[0] == "ovs"
    else:
        assert ccm == CCM
    assert [line[:2] for line in frames] == [["0x0800", "1193046"]] * len(frames)
    assert frames
