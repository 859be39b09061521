"""The errors of the Python API, under one roof: all of them are VnicErrors, whose `str()` is for a person."""

from vnic.cli.client import Refused
from vnic.cli.seen import NotSeen
from vnic.errors import VnicError
from vnic.lab.guest.errors import CommandFailed, GuestError

__all__ = ["CommandFailed", "GuestError", "NotSeen", "Refused", "VnicError"]
