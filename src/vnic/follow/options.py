"""The options of `-object link-follow`.

The command line, HMP and QMP fill them in, `query-qmp-schema` prints them, and `link_follow` reads them.
"""

from __future__ import annotations

from vnic.net.objects import ObjectOptions


class LinkFollowOptions(ObjectOptions, tag="link-follow", frozen=True, kw_only=True):
    """`nic` follows `ifname`, an interface of this host, or `netdev`, a wire of this vnic. None of them has to exist.

    With `invert` the NIC's link is up while the other is down.
    """

    nic: str
    ifname: str | None = None
    netdev: str | None = None
    invert: bool = False
