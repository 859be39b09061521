"""QEMU's dialect of JSON as QMP speaks it, without any I/O: bytes in, values and errors out, and back.

The monitor's connections feed a `Stream` and write what `encode` gives; a message is `stream.feed()`'s answer.
`decode` is for a single value, as an option in JSON form.
"""

from vnic.protocol.qmp.encode import encode, encode_reply
from vnic.protocol.qmp.stream import ParseError, Stream, decode

__all__ = ["ParseError", "Stream", "decode", "encode", "encode_reply"]
