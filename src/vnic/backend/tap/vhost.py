"""Whether the options of a tap ask for vhost-net, by QEMU's rules. `vhost_tap.make_tap` calls it."""

from __future__ import annotations

from vnic.backend.options import TapOptions
from vnic.net.errors import NetError


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
