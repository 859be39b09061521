"""`vhost=` of a tap, which vnic accepts and does not use. `tap.backend` calls it, and logs that once for each tap."""

from __future__ import annotations

import logging

from vnic.backend.options import TapOptions
from vnic.descriptors import close_fds
from vnic.net.errors import NetError

log = logging.getLogger(__name__)


def check_vhost(options: TapOptions) -> bool:
    """Whether vhost-net is requested (net/tap.c: net_init_tap_one). Raises NetError if the options contradict each
    other."""
    passed = options.vhostfd is not None or options.vhostfds is not None
    asked = bool(options.vhostforce or passed) if options.vhost is None else options.vhost
    if options.vhostfds is not None and options.fds is None and options.fd is None:
        raise NetError("vhostfds= is invalid if fds= wasn't specified")
    if passed and not asked:
        raise NetError("vhostfd(s)= is not valid without vhost")
    return asked


def ignore_vhost(name: str, fds: list[int]) -> None:
    """Log that vhost-net is not used, and close the passed descriptors of /dev/vhost-net."""
    close_fds(fds)
    log.warning("netdev %s: packets go through vnic: vhost-net is not used", name)
