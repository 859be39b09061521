"""The errors of guests, as exceptions whose text says what to do.

All of `lab.guest` raises them; the demo and the tests print them unchanged."""

from __future__ import annotations

from vnic.errors import VnicError


class GuestError(VnicError):
    """A guest did not do what it was told."""


class GuestUnavailable(GuestError):
    """This machine has no such guest and none can be fetched; `remedy` is a command that mends it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; mend it with: {remedy}")
        self.what = what
        self.remedy = remedy


class BootFailed(GuestError):
    """The kernel ended, or said nothing in time; the last lines of its log are in the text."""


class CommandFailed(GuestError):
    """A command in the guest ended with a status other than 0."""

    def __init__(self, command: str, status: int, output: str) -> None:
        super().__init__(f"in the guest, {command!r} ended with status {status}: {output.strip()}")
        self.status = status
        self.output = output


class GuestGone(GuestError):
    """The guest ended while a command was running in it."""
