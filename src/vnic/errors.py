"""VnicError, the base of the errors that users of `import vnic` may meet; `str()` is for a person."""

from __future__ import annotations


class VnicError(Exception):
    """Something cannot be done, or did not come to pass."""
