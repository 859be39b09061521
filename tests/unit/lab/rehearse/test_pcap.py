"""Probes in captures: found behind any headers, and nowhere else."""

from __future__ import annotations

import struct
from pathlib import Path

from vnic.filter.dump import FILE_HEADER, LINKTYPE_ETHERNET, MAGIC, RECORD_HEADER, VERSION
from vnic.lab.rehearse.pcap import CAPTURED_BYTES, Sighting, sightings

ONE, TWO = b"one-toke", b"two-toke"


def probe(token: bytes, number: int, sent: int) -> bytes:
    return token + struct.pack(">IQ", number, sent)


def capture(path: Path, *frames: bytes, cut: int = 0) -> Path:
    data = FILE_HEADER.pack(MAGIC, *VERSION, 0, 0, CAPTURED_BYTES, LINKTYPE_ETHERNET)
    for at, frame in enumerate(frames):
        data += RECORD_HEADER.pack(10 + at, 7, len(frame), len(frame)) + frame
    path.write_bytes(data[: len(data) - cut])
    return path


def test_probes_are_found_in_their_order(tmp_path: Path) -> None:
    path = capture(
        tmp_path / "a.pcap",
        bytes(42) + probe(ONE, 5, 1234),
        bytes(60),
        bytes(110) + probe(TWO, 6, 99) + bytes(8),
        b"",
    )
    assert list(sightings(path, (ONE, TWO))) == [
        Sighting(0, 10_000_007, 5, 1234),
        Sighting(1, 12_000_007, 6, 99),
    ]


def test_a_probe_that_was_cut_off_is_none(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", bytes(42) + probe(ONE, 5, 1234)[:-1], probe(ONE, 6, 1))
    assert [each.number for each in sightings(path, (ONE,))] == [6]


def test_half_a_record_at_the_end_is_left_out(tmp_path: Path) -> None:
    frames = [probe(ONE, number, 0) for number in range(3)]
    for cut in (1, 19, 21, 36, 37):
        path = capture(tmp_path / "a.pcap", *frames, cut=cut)
        assert [each.number for each in sightings(path, (ONE,))] == list(range(2 if cut <= 36 else 1))
