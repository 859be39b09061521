"""QEMU's dialect of JSON for QMP, without I/O: bytes to values and errors, and values to bytes.

The monitor's connections feed a `Stream`, which yields messages, and write the bytes of `encode`. `decode` is for a
single value, such as an option in JSON form.
"""

from vnic.protocol.qmp.encode import encode, encode_reply
from vnic.protocol.qmp.stream import ParseError, Stream, decode

__all__ = ["ParseError", "Stream", "decode", "encode", "encode_reply"]
