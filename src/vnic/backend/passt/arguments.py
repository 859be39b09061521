"""The command line of passt, from the options of a netdev (net_passt_decode_args of QEMU's net/passt.c).

`stream` and `vhost_user` in this package call `passt_arguments`.
"""

from __future__ import annotations

from collections.abc import Iterable

from vnic.backend.options import PasstOptions, String
from vnic.net.errors import NetError
from vnic.net.names import parse_mac

MTU_MAX = 65535

_VALUES = (
    ("mtu", "--mtu"),
    ("address", "--address"),
    ("netmask", "--netmask"),
    ("mac", "--mac-addr"),
    ("gateway", "--gateway"),
    ("interface", "--interface"),
    ("outbound", "--outbound"),
    ("outbound_if4", "--outbound-if4"),
    ("outbound_if6", "--outbound-if6"),
    ("dns", "--dns"),
    ("fqdn", "--fqdn"),
    ("map_host_loopback", "--map-host-loopback"),
    ("map_guest_addr", "--map-guest-addr"),
    ("dns_forward", "--dns-forward"),
    ("dns_host", "--dns-host"),
)
_SWITCHED_OFF = (
    ("dhcp_dns", "--no-dhcp-dns"),
    ("dhcp_search", "--no-dhcp-search"),
    ("tcp", "--no-tcp"),
    ("udp", "--no-udp"),
    ("icmp", "--no-icmp"),
    ("dhcp", "--no-dhcp"),
    ("ndp", "--no-ndp"),
    ("dhcpv6", "--no-dhcpv6"),
    ("ra", "--no-ra"),
    ("ipv4", "--ipv6-only"),
    ("ipv6", "--ipv4-only"),
)


def passt_arguments(options: PasstOptions) -> list[str]:
    """The command line of passt, without its socket. NetError for options that passt would refuse later, in passt's
    words."""
    if options.mac is not None:
        parse_mac(options.mac, "passt")
    if options.mtu is not None and not 0 <= options.mtu <= MTU_MAX:
        raise NetError(f"Parameter 'mtu' must be from 0 to {MTU_MAX}")
    words = [options.path or "passt"]
    if options.vhost_user:
        words.append("--vhost-user")
    if options.quiet is not False:
        words.append("--quiet")
    for name, word in _VALUES:
        value = getattr(options, name)
        if value is not None:
            words += [word, str(value)]
    words += [word for name, word in _SWITCHED_OFF if getattr(options, name) is False]
    if options.freebind:
        words.append("--freebind")
    for strings, word, separator in (
        (options.search, "--search", " "),
        (options.tcp_ports, "--tcp-ports", ","),
        (options.udp_ports, "--udp-ports", ","),
    ):
        if strings:
            words += [word, separator.join(_texts(strings))]
    return [*words, *_texts(options.param or ())]


def _texts(strings: Iterable[String]) -> list[str]:
    return [each.text for each in strings]
