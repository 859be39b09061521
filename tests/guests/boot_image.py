"""The file that boot loaders fetch in `test_firmware.py`: random bytes behind a program that prints their sum.

So a loader that has no command for checksums (iPXE) shows what it received by starting it: it is an image by the
Multiboot specification (version 0.6.96), for any PC with a serial line.
"""

from __future__ import annotations

import random
import struct

SIZE = 2 << 20
_LOAD_ADDRESS = 0x200000
_HEADER = struct.Struct("<8I")
_MAGIC = 0x1BADB002
_ADDRESSES_ARE_HERE = 1 << 16
_PAYLOAD = random.Random(1).randbytes(SIZE)


def _code(payload_address: int) -> bytes:
    """32-bit code without paging; interrupts are off. The sum's eight digits are the letters A to P."""
    return b"".join(
        [
            b"\xbe" + struct.pack("<I", payload_address),  # mov esi, payload
            b"\xb9" + struct.pack("<I", SIZE // 4),  # mov ecx, words
            b"\x31\xdb",  # xor ebx, ebx
            b"\xc1\xc3\x07",  # sum: rol ebx, 7
            b"\x33\x1e",  # xor ebx, [esi]
            b"\x83\xc6\x04",  # add esi, 4
            b"\xe2\xf6",  # loop sum
            b"\xb9\x08\x00\x00\x00",  # mov ecx, 8
            b"\x66\xba\xfd\x03",  # digit: mov dx, 3fdh (line status)
            b"\xec\xa8\x20",  # busy: in al, dx; test al, 20h (THR empty)
            b"\x74\xfb",  # jz busy
            b"\xc1\xc3\x04",  # rol ebx, 4
            b"\x88\xd8\x24\x0f\x04\x41",  # mov al, bl; and al, 0fh; add al, 'A'
            b"\x66\xba\xf8\x03\xee",  # mov dx, 3f8h; out dx, al
            b"\xe2\xe7",  # loop digit
            b"\xf4\xeb\xfd",  # halt: hlt; jmp halt
        ]
    )


def _image() -> bytes:
    entry = _LOAD_ADDRESS + _HEADER.size
    end = entry + len(_code(0)) + SIZE
    checksum = -(_MAGIC + _ADDRESSES_ARE_HERE) & 0xFFFFFFFF
    addresses = (_LOAD_ADDRESS, _LOAD_ADDRESS, end, end, entry)
    header = _HEADER.pack(_MAGIC, _ADDRESSES_ARE_HERE, checksum, *addresses)
    return header + _code(entry + len(_code(0))) + _PAYLOAD


def _letters() -> str:
    value = 0
    for (word,) in struct.iter_unpack("<I", _PAYLOAD):
        value = ((value << 7 | value >> 25) & 0xFFFFFFFF) ^ word
    return "".join(chr(ord("A") + (value >> shift & 15)) for shift in range(28, -1, -4))


FILE = _image()
LETTERS = _letters()
"""What the program prints."""
