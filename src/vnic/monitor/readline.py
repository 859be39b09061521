"""The line editor of a readline monitor, which echoes input byte for byte as QEMU does (util/readline.c).

Sans-IO: `HmpSession` feeds it each byte and sends the output. Programs wait for this echo to find their place in the
output, as GNS3 does for `…set_link gns3-0 off\\x1b[K\\r\\n`.
"""

from __future__ import annotations

import enum
from typing import Final

LINE_MAX_BYTES: Final = 4095
"""READLINE_CMD_BUF_SIZE of QEMU's readline.h; further input is dropped."""
HISTORY_MAX_LINES: Final = 64
"""READLINE_MAX_CMDS."""

_LEFT, _RIGHT, _ERASE_TO_END = b"\x1b[D", b"\x1b[C", b"\x1b[K"
_BLANKS = b" \t\n\v\f\r"
_PARAMETER_MAX = 9999
"""The largest parameter of an escape sequence, so that endless digits make no huge number."""


class _EscapeState(enum.Enum):
    """The position within an escape sequence."""

    NORMAL = enum.auto()
    ESCAPE = enum.auto()
    CSI = enum.auto()
    SS3 = enum.auto()


class ReadLine:
    """The line being edited, its cursor, and the history."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._cursor = 0
        self._shown = b""
        """The line and the cursor on the terminal."""
        self._shown_cursor = 0
        self._history: list[bytes] = []
        self._recalled: int | None = None
        """The index of the edited line in the history."""
        self._state = _EscapeState.NORMAL
        self._parameter = 0

    def put(self, byte: int, echo: bytearray) -> bytes | None:
        """Take one byte and append to `echo` the output for the terminal; returns the line if the byte ended one.

        The caller prints the prompt after the output of the line.
        """
        if self._state is _EscapeState.NORMAL and byte in (10, 13):
            line = bytes(self._line)
            self._remember(line)
            self._line.clear()
            self._cursor = self._shown_cursor = 0
            self._shown = b""
            echo += b"\r\n"
            return line
        _HANDLERS[self._state](self, byte)
        self._show(echo)
        return None

    def _show(self, echo: bytearray) -> None:
        """Update the terminal (readline_update)."""
        if self._line != self._shown:
            echo += _LEFT * self._shown_cursor + self._line + _ERASE_TO_END
            self._shown = bytes(self._line)
            self._shown_cursor = len(self._line)
        moved = self._cursor - self._shown_cursor
        echo += _RIGHT * moved if moved > 0 else _LEFT * -moved
        self._shown_cursor = self._cursor

    # -- one function a state (readline_handle_byte) ------------------------------------------------------------

    def _normal(self, byte: int) -> None:
        match byte:
            case 1:  # ^A
                self._cursor = 0
            case 4:  # ^D
                self._delete()
            case 5:  # ^E
                self._cursor = len(self._line)
            case 8 | 127:
                self._backspace()
            case 23:  # ^W
                self._erase_word()
            case 27:
                self._state = _EscapeState.ESCAPE
            case 155:
                self._state = _EscapeState.CSI
            case _ if byte >= 32 and len(self._line) < LINE_MAX_BYTES:
                self._line.insert(self._cursor, byte)
                self._cursor += 1

    def _escape(self, byte: int) -> None:
        self._parameter = 0
        self._state = {ord("["): _EscapeState.CSI, ord("O"): _EscapeState.SS3}.get(byte, _EscapeState.NORMAL)

    def _csi(self, byte: int) -> None:
        char = chr(byte)
        if char in "0123456789":
            self._parameter = min(self._parameter * 10 + int(char), _PARAMETER_MAX)
            return
        self._state = _EscapeState.NORMAL
        if char in "AF":
            self._recall_older()
        elif char in "BE":
            self._recall_newer()
        elif char == "C":
            self._cursor = min(self._cursor + 1, len(self._line))
        elif char == "D":
            self._cursor = max(self._cursor - 1, 0)
        elif char == "~" and self._parameter == 1:
            self._cursor = 0
        elif char == "~" and self._parameter == 3:
            self._delete()
        elif char == "~" and self._parameter == 4:
            self._cursor = len(self._line)

    def _ss3(self, byte: int) -> None:
        self._state = _EscapeState.NORMAL
        if byte == ord("F"):
            self._cursor = len(self._line)
        elif byte == ord("H"):
            self._cursor = 0

    # -- editing ------------------------------------------------------------------------------------------------

    def _delete(self) -> None:
        del self._line[self._cursor : self._cursor + 1]

    def _backspace(self) -> None:
        if self._cursor:
            self._cursor -= 1
            self._delete()

    def _erase_word(self) -> None:
        """Erase the word before the cursor, and the blanks behind it (readline_backword)."""
        before = bytes(self._line[: self._cursor]).rstrip(_BLANKS)
        start = max(before.rfind(bytes((blank,)), 1) for blank in _BLANKS) + 1  # also a leading blank
        del self._line[start : self._cursor]
        self._cursor = start

    # -- history ------------------------------------------------------------------------------------------------

    def _recall(self, line: bytes) -> None:
        self._line[:] = line
        self._cursor = len(line)

    def _recall_older(self) -> None:
        index = len(self._history) if self._recalled is None else self._recalled
        if index:
            self._recalled = index - 1
            self._recall(self._history[index - 1])

    def _recall_newer(self) -> None:
        if self._recalled is None:
            return
        self._recalled = self._recalled + 1 if self._recalled + 1 < len(self._history) else None
        self._recall(b"" if self._recalled is None else self._history[self._recalled])

    def _remember(self, line: bytes) -> None:
        """Move the line to the end of the history, which contains it once only (readline_hist_add)."""
        if not line:
            return
        self._recalled = None
        if line in self._history:
            self._history.remove(line)
        self._history.append(line)
        del self._history[:-HISTORY_MAX_LINES]


_HANDLERS = {
    _EscapeState.NORMAL: ReadLine._normal,
    _EscapeState.ESCAPE: ReadLine._escape,
    _EscapeState.CSI: ReadLine._csi,
    _EscapeState.SS3: ReadLine._ss3,
}
