"""user: QEMU's user-mode network, provided by passt. The guest finds the same network as with slirp.

The registry makes it. `net`, `host`, `dhcpstart`, `dns` and similar options become arguments of passt. An option that
passt has no equivalent for is refused by name.
"""

from __future__ import annotations

import ipaddress

from vnic.backend.base import Backend, BackendContext
from vnic.backend.options import UserOptions
from vnic.backend.passt.stream import PasstBackend, PasstBackendRecord, PasstFds, PasstHandles
from vnic.backend.user.host_forward import (
    TABLE_HEAD,
    HostForward,
    parse_rule,
    parse_source,
)
from vnic.backend.user.restricted import RestrictedGuest
from vnic.net.errors import NetError
from vnic.net.queue import Frame
from vnic.record import RecordError

_NOT_PASST = ("tftp", "bootfile", "tftp_server_name", "smb", "smbserver", "guestfwd", "domainname")
"""Options of slirp that passt has no equivalent for."""
_GATEWAY_HOST, _DNS_HOST, _GUEST_HOST = 0x0202, 0x0203, 0x020F
"""slirp's addresses of the host, the name server and the first guest, relative to the network: 10.0.2.2 in 10.0.0.0/8,
10.9.1.2 in 10.9.1.0/24 (net/slirp.c: net_slirp_init)."""
_GATEWAY_HOST_6, _DNS_HOST_6, _GUEST_HOST_6 = 2, 3, 0x15


class UserBackendRecord(PasstBackendRecord, frozen=True):
    """The state of a UserBackend: its rules may not be those of its options any more."""

    forwards: list[str]
    """As hostfwd_add takes them."""


class UserBackend(PasstBackend):
    """One user netdev."""

    kept_type = UserBackendRecord, PasstFds

    def __init__(self, context: BackendContext, options: UserOptions) -> None:
        self._plan = plan = UserPlan(options)
        super().__init__(context, plan.arguments())
        self._restricted = RestrictedGuest(plan.forwards) if options.restrict else None
        self._info = f"net={plan.net.network_address},restrict={'on' if options.restrict else 'off'}"

    def info_text(self, queue: int) -> str:
        return self._info

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self._restricted is not None and not self._restricted.may_send(frame):
            return True
        return super().receive(queue, frame, offload)

    # -- state apart from the socket ------------------------------------------------------------------------------

    def save(self) -> UserBackendRecord:
        each = super().save()
        return UserBackendRecord(
            passt=each.passt,
            transport=each.transport,
            logged=each.logged,
            forwards=[forward.rule() for forward in self._plan.forwards],
        )

    def restore(
        self, record: PasstBackendRecord, handles: PasstHandles, arguments: list[str] | None = None
    ) -> None:
        if not isinstance(record, UserBackendRecord):
            raise RecordError("", "is that of another netdev")
        forwards = []
        for at, rule in enumerate(record.forwards):
            try:
                forwards.append(parse_rule(rule, str(self._plan.guest)))
            except NetError as error:
                raise RecordError(f"forwards[{at}]", error.desc) from None
        before, self._plan.forwards = self._plan.forwards, forwards
        try:
            super().restore(record, handles, self._plan.arguments())
        except RecordError:
            self._plan.forwards = before
            raise
        if self._restricted is not None:
            self._restricted = RestrictedGuest(forwards)

    # -- host forwarding at run time ------------------------------------------------------------------------------

    def info_usernet(self) -> str:
        """The table of HMP `info usernet`: the rules. Only passt knows the connections."""
        return TABLE_HEAD + "".join(forward.line() for forward in self._plan.forwards)

    def add_forward(self, rule: str) -> None:
        """HMP hostfwd_add. passt takes rules only at its start, so it is restarted, which ends its connections."""
        forward = parse_rule(rule, str(self._plan.guest))
        taken = any(each.source == forward.source for each in self._plan.forwards)
        if taken or not forward.can_listen():
            raise NetError(f"Could not set up host forwarding rule '{rule}'")
        self._change([*self._plan.forwards, forward])

    def remove_forward(self, source: str) -> bool | None:
        """HMP hostfwd_remove. False: the rule does not exist; None: `source` is malformed."""
        wanted = parse_source(source)
        if wanted is None:
            return None
        left = [each for each in self._plan.forwards if each.source != wanted]
        if len(left) == len(self._plan.forwards):
            return False
        self._change(left)
        return True

    def _change(self, forwards: list[HostForward]) -> None:
        self._plan.forwards = forwards
        if self._restricted is not None:
            self._restricted = RestrictedGuest(forwards)
        self.start_again(self._plan.arguments(), "passt is started again with other host forwarding rules")


def user_netdev(context: BackendContext, options: UserOptions) -> Backend:
    """-netdev user."""
    return UserBackend(context, options)


class UserPlan:
    """The addresses that the options select, with the checks of net_slirp_init."""

    def __init__(self, options: UserOptions) -> None:
        for name in _NOT_PASST:
            if getattr(options, name):
                key = name.replace("_", "-")
                raise NetError(f"Parameter '{key}' of user is not built in: passt has nothing like it")
        # An option for one family turns the other off, unless that is requested too (net_init_slirp).
        self._ipv4 = options.ipv4 if options.ipv4 is not None else not options.ipv6
        self._ipv6 = options.ipv6 if options.ipv6 is not None else not options.ipv4
        net = options.net if options.net is not None or options.ip is None else f"{options.ip}/24"
        if not self._ipv4 and any(each is not None for each in (net, options.host, options.dns)):
            raise NetError("IPv4 disabled but netmask/host/dns provided")
        if not self._ipv6 and (options.ipv6_prefix or options.ipv6_host or options.ipv6_dns):
            raise NetError("IPv6 disabled but prefix/host6/dns6 provided")
        if not self._ipv4 and not self._ipv6:
            raise NetError("IPv4 and IPv6 disabled")
        self._options = options
        self.net = _ipv4_network(net)
        self.host = self._address("host", options.host, _GATEWAY_HOST)
        self.dns = self._address("dns", options.dns, _DNS_HOST)
        if self.host == self.dns:
            raise NetError("DNS must be different from host")
        self.guest = self._address("dhcpstart", options.dhcpstart, _GUEST_HOST)
        if self.guest in (self.host, self.dns):
            raise NetError("DHCP must be different from host and DNS")
        self._ipv6_words = self._ipv6_arguments()
        self.forwards = [parse_rule(each.text, str(self.guest)) for each in options.hostfwd or ()]

    def _address(self, name: str, given: str | None, default: int) -> ipaddress.IPv4Address:
        if given is None:
            return self.net.network_address + (default & int(self.net.hostmask))
        try:
            address = ipaddress.IPv4Address(given)
        except ValueError:
            raise NetError(f"Failed to parse {_LABELS[name]}") from None
        if address not in self.net and (name != "dns" or self._options.restrict):
            raise NetError(f"{_NAMES[name]} doesn't belong to network")
        return address

    def arguments(self) -> list[str]:
        options = self._options
        words = ["passt", "--quiet"]
        if self._ipv4:
            # The MAC of slirp's host contains its address.
            mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x55, *self.host.packed))
            words += ["--address", str(self.guest), "--netmask", str(self.net.prefixlen)]
            words += ["--gateway", str(self.host), "--mac-addr", mac, "--dns-forward", str(self.dns)]
        words += self._ipv6_words
        if options.hostname is not None:
            words += ["--hostname", options.hostname]
        if options.dnssearch:
            words += ["--search", " ".join(each.text for each in options.dnssearch)]
        if options.restrict:
            words += ["--no-icmp", "--no-map-gw", "--no-dhcp-dns"]
        for protocol, word in (("tcp", "--tcp-ports"), ("udp", "--udp-ports")):
            specs = [each.specification() for each in self.forwards if each.protocol == protocol]
            if options.restrict and not specs:
                words.append(f"--no-{protocol}")
            for spec in specs or ["none"]:
                words += [word, spec]
        return words

    def _ipv6_arguments(self) -> list[str]:
        """Without an IPv6 option the guest gets the host's network; with one it gets slirp's."""
        options = self._options
        if not self._ipv6:
            return ["--ipv4-only"]
        words = [] if self._ipv4 else ["--ipv6-only"]
        length = options.ipv6_prefixlen or 64
        if not 0 <= length <= 126:
            raise NetError("Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)")
        if length != 64:
            raise NetError("Parameter 'ipv6-prefixlen' of user has to be 64: passt announces no other")
        if not (options.ipv6_prefix or options.ipv6_host or options.ipv6_dns):
            return words
        prefix = _ipv6("ipv6-prefix", options.ipv6_prefix or "fec0::")
        net = ipaddress.IPv6Network((prefix, length), strict=False)
        host = _ipv6("ipv6-host", options.ipv6_host) if options.ipv6_host else prefix + _GATEWAY_HOST_6
        if host not in net:
            raise NetError("IPv6 Host doesn't belong to network")
        dns = _ipv6("ipv6-dns", options.ipv6_dns) if options.ipv6_dns else prefix + _DNS_HOST_6
        if options.restrict and dns not in net:
            raise NetError("IPv6 DNS doesn't belong to network")
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
_NAMES = {"host": "Host", "dns": "DNS", "dhcpstart": "DHCP"}
_CLASSES = (
    *(("0.0.0.0/1", 8), ("172.16.0.0/12", 12), ("128.0.0.0/2", 16), ("192.168.0.0/16", 16)),
    *(("198.18.0.0/16", 15), ("224.0.0.0/3", 24), ("0.0.0.0/0", 28)),
)
"""The prefix length of a network without one: that of the first row which contains its address."""


def _ipv4_network(text: str | None) -> ipaddress.IPv4Network:
    """Parse `addr[/mask]`; None is slirp's default network."""
    if text is None:
        return ipaddress.IPv4Network("10.0.2.0/24")
    address, slash, mask = text.partition("/")
    try:
        first = ipaddress.IPv4Address(address)
    except ValueError:
        raise NetError("Failed to parse netmask") from None
    if not slash:
        length = next(length for net, length in _CLASSES if first in ipaddress.IPv4Network(net))
        return ipaddress.IPv4Network((first, length), strict=False)
    if not mask or (mask.isdecimal() and not 4 <= int(mask) <= 32):
        raise NetError("Invalid netmask provided (must be in range 4-32)")
    try:
        return ipaddress.IPv4Network((first, mask), strict=False)
    except ValueError:
        raise NetError("Failed to parse netmask (trailing chars)") from None


def _ipv6(name: str, text: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        raise NetError(f"Failed to parse {_LABELS[name]}") from None
