"""user: QEMU's user-mode network, as passt can give it. The guest finds what slirp would show it.

`net`, `host`, `dhcpstart`, `dns` and the like become passt's arguments; what passt cannot do is refused by name.
"""

from __future__ import annotations

import ipaddress
import socket

from vnic.net.errors import NetError

from .base import Backend, BackendContext
from .options import UserOptions
from .passt import PasstBackend

_NOT_PASST = ("tftp", "bootfile", "tftp_server_name", "smb", "smbserver", "guestfwd", "domainname")
"""What slirp has and passt lacks."""
_DEFAULT_NET = "10.0.2.0/24"
_GATEWAY_HOST, _DNS_HOST, _GUEST_HOST, _GUEST_HOST_6 = 2, 3, 15, 0x15
"""Where slirp puts the host, the name server and the first guest in the network (net/slirp.c: net_slirp_init)."""


class UserBackend(PasstBackend):
    """One user netdev."""

    def __init__(self, context: BackendContext, options: UserOptions) -> None:
        plan = UserPlan(options)
        super().__init__(context, plan.arguments())
        self._info = f"net={plan.net.network_address},restrict={'on' if options.restrict else 'off'}"

    def info_text(self, queue: int) -> str:
        return self._info


def user_netdev(context: BackendContext, options: UserOptions) -> Backend:
    """-netdev user."""
    return UserBackend(context, options)


class UserPlan:
    """The addresses that the options ask for, checked as net_slirp_init checks them."""

    def __init__(self, options: UserOptions) -> None:
        for name in _NOT_PASST:
            if getattr(options, name):
                key = name.replace("_", "-")
                raise NetError(f"Parameter '{key}' of user is not built in: passt has nothing like it")
        if options.restrict and options.hostfwd:
            raise NetError(
                "Parameters 'restrict' and 'hostfwd' of user exclude each other: passt cannot do both"
            )
        if options.ipv4 is False and options.ipv6 is False:
            raise NetError("IPv4 and IPv6 disabled")
        if options.ipv6_prefixlen is not None and not 0 <= options.ipv6_prefixlen <= 126:
            raise NetError("Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)")
        self._options = options
        self.net = _ipv4_network(options.net or options.ip)
        self.host = self._address("host", options.host, _GATEWAY_HOST)
        self.dns = self._address("dns", options.dns, _DNS_HOST)
        self.guest = self._address("dhcpstart", options.dhcpstart, _GUEST_HOST)
        if self.host == self.dns:
            raise NetError("DNS must be different from host")
        if self.guest in (self.host, self.dns):
            raise NetError("DHCP must be different from host and DNS")
        self.forwards = [_parse_hostfwd(each.text, str(self.guest)) for each in options.hostfwd or ()]

    def _address(self, name: str, given: str | None, default: int) -> ipaddress.IPv4Address:
        if given is None:
            return self.net.network_address + default
        try:
            address = ipaddress.IPv4Address(given)
        except ValueError:
            raise NetError(f"Failed to parse {_LABELS[name]}") from None
        if address not in self.net and name != "dns":  # a DNS server may be anywhere
            raise NetError(f"{_NAMES[name]} doesn't belong to network")
        return address

    def arguments(self) -> list[str]:
        options = self._options
        words = ["passt", "--quiet"]
        if options.ipv4 is not False:
            # slirp's host has a MAC made of its address.
            mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x55, *self.host.packed))
            words += ["--address", str(self.guest), "--netmask", str(self.net.prefixlen)]
            words += ["--gateway", str(self.host), "--mac-addr", mac, "--dns-forward", str(self.dns)]
        words += self._ipv6_arguments()
        if options.hostname is not None:
            words += ["--hostname", options.hostname]
        if options.dnssearch:
            words += ["--search", " ".join(each.text for each in options.dnssearch)]
        if options.restrict:
            words += ["--no-tcp", "--no-udp", "--no-icmp", "--no-map-gw"]
        for protocol, word in (("tcp", "--tcp-ports"), ("udp", "--udp-ports")):
            specs = [spec for each, spec in self.forwards if each == protocol]
            for spec in specs or ["none"]:
                words += [word, spec]
        return words

    def _ipv6_arguments(self) -> list[str]:
        """Without an IPv6 option the guest gets what the host has; slirp's own network on request."""
        options = self._options
        asked = (options.ipv6_prefix, options.ipv6_host, options.ipv6_dns)
        if options.ipv6 is False:
            return ["--ipv4-only"]
        words = ["--ipv6-only"] if options.ipv4 is False else []
        if not any(asked):
            return words
        if options.ipv6_prefixlen not in (None, 64):
            raise NetError("Parameter 'ipv6-prefixlen' of user has to be 64: passt announces no other")
        prefix = _ipv6("ipv6-prefix", options.ipv6_prefix or "fec0::")
        host = _ipv6("ipv6-host", options.ipv6_host) if options.ipv6_host else prefix + _GATEWAY_HOST
        dns = _ipv6("ipv6-dns", options.ipv6_dns) if options.ipv6_dns else prefix + _DNS_HOST
        words += ["--address", str(prefix + _GUEST_HOST_6), "--gateway", str(host)]
        return [*words, "--dns-forward", str(dns)]


_LABELS = {
    "host": "host",
    "dns": "DNS",
    "dhcpstart": "DHCP start address",
    "ipv6-prefix": "IPv6 prefix",
    "ipv6-host": "IPv6 host",
    "ipv6-dns": "IPv6 DNS",
}
_NAMES = {"host": "Host", "dhcpstart": "DHCP"}


def _ipv4_network(text: str | None) -> ipaddress.IPv4Network:
    """`addr[/mask]`; without a mask the one of the address's class, as slirp has it."""
    text = text or _DEFAULT_NET
    address, slash, mask = text.partition("/")
    try:
        first = ipaddress.IPv4Address(address)
    except ValueError:
        raise NetError("Failed to parse netmask") from None
    if not slash:
        mask = "8" if first.packed[0] < 0x80 else "16" if first.packed[0] < 0xC0 else "24"
    if not mask or (mask.isdecimal() and not 4 <= int(mask) <= 32):
        raise NetError("Invalid netmask provided (must be in range 4-32)")
    try:
        net = ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
    except ValueError:
        raise NetError("Failed to parse netmask (trailing chars)") from None
    if net.prefixlen > 27:
        raise NetError("Invalid mask provided (too short)")
    return net


def _ipv6(name: str, text: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        raise NetError(f"Failed to parse {_LABELS[name]}") from None


def _parse_hostfwd(rule: str, guest: str) -> tuple[str, str]:
    """`[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport` to (protocol, passt's port specification)
    (net/slirp.c: slirp_hostfwd)."""

    def bad(reason: str) -> NetError:
        return NetError(f"Invalid host forwarding rule '{rule}' ({reason})")

    protocol, colon, rest = rule.partition(":")
    if not colon:
        raise bad("No : separators")
    if protocol not in ("", "tcp", "udp"):
        raise bad("Bad protocol name")
    host, colon, rest = rest.partition(":")
    if not colon:
        raise bad("Missing : separator")
    host_port, dash, target = rest.partition("-")
    if not dash:
        raise bad("Bad host port separator")
    guest_address, colon, guest_port = target.partition(":")
    if not colon:
        raise bad("Missing guest address")
    if host and not _is_ipv4(host):
        raise bad("Bad host address")
    if not _is_port(host_port):
        raise bad("Bad host port")
    if guest_address and not _is_ipv4(guest_address):
        raise bad("Bad guest address")
    if not _is_port(guest_port):
        raise bad("Bad guest port")
    if guest_address not in ("", "0.0.0.0", guest):
        raise bad(f"passt forwards to the guest that it serves only: {guest}")
    spec = f"{host_port}:{guest_port}"
    if host not in ("", "0.0.0.0"):
        spec = f"{host}/{spec}"
    return protocol or "tcp", spec


def _is_ipv4(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 0xFFFF
