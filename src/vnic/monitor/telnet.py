"""The part of Telnet that QEMU implements on a monitor's socket (chardev/char-socket.c): each key is sent at once.

`ports.py` wraps the socket of a `telnet=on` chardev in a TelnetChannel.
"""

from __future__ import annotations

from typing import Final

from vnic.monitor.connection import SocketChannel

IAC: Final = 255
NEGOTIATION: Final = bytes((IAC, 251, 1, IAC, 251, 3, IAC, 251, 0, IAC, 253, 0))
"""WILL ECHO, WILL SUPPRESS-GO-AHEAD, WILL BINARY, DO BINARY (RFC 854, 857, 858, 856): tcp_chr_telnet_init."""


class TelnetChannel:
    """A channel that removes the telnet commands of the peer; each counts as three bytes long, as in
    tcp_chr_process_IAC_bytes. Output is sent unchanged."""

    def __init__(self, channel: SocketChannel) -> None:
        self._channel = channel
        self.reading, self.writing = channel.reading, channel.writing
        self._at = 0
        """How many bytes of a command have been read."""
        self._negotiation = NEGOTIATION

    def receive(self) -> bytes:
        received = self._channel.receive()
        data = self._without_commands(received)
        if received and not data:
            raise BlockingIOError  # no input for the monitor, which is not the end
        return data

    def _without_commands(self, data: bytes) -> bytes:
        if not self._at and IAC not in data:
            return data
        kept = bytearray()
        for byte in data:
            if self._at == 0 and byte != IAC:
                kept.append(byte)
            elif self._at == 1 and byte == IAC:  # a byte 255 in the text
                kept.append(byte)
                self._at = 0
            else:
                self._at = (self._at + 1) % 3
        return bytes(kept)

    def send(self, data: bytes | bytearray) -> int:
        if self._negotiation:
            sent = self._channel.send(self._negotiation)
            self._negotiation = self._negotiation[sent:]
            if self._negotiation:
                raise BlockingIOError
        return self._channel.send(data)

    def take_fd(self) -> int | None:
        return self._channel.take_fd()

    def close(self) -> None:
        self._channel.close()
