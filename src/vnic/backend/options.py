"""The options of every netdev type, as Structs: QAPI's Netdev (qapi/net.json), and `link`, which vnic adds.

The command line, HMP and QMP fill them in, `query-qmp-schema` prints them, and the back-ends read them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import field

from vnic.sockets.address import SocketAddress

U16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
U64: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""It has no upper bound here, because msgspec takes only bounds within an int64; argument checking uses 2**64 - 1."""
I32: TypeAlias = Annotated[int, msgspec.Meta(ge=-0x80000000, le=0x7FFFFFFF)]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, extra={"qapi": "size"})]


class String(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A string in a list (QAPI's String)."""

    text: str = field(name="str")


# -- netdevs ----------------------------------------------------------------------------------------------------------


class NetdevOptions(
    msgspec.Struct, tag_field="type", rename="kebab", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The options that all netdevs share. With `link=off` the netdev starts with the operator's hold."""

    id: str
    link: bool = True


class HubPortOptions(NetdevOptions, tag="hubport", frozen=True, kw_only=True):
    hubid: I32
    netdev: str | None = None


class CableOptions(NetdevOptions, tag="cable", frozen=True, kw_only=True):
    """Only vnic has it: one end of a cable. `follow` is `none`, or words joined by `+`; `nic` is the NIC of an adopted
    VM whose cable it is."""

    cable: str
    follow: str | None = None
    nic: str | None = None


class StreamOptions(NetdevOptions, tag="stream", frozen=True, kw_only=True):
    addr: SocketAddress
    server: bool = False
    reconnect_ms: int | None = None
    mode: str | None = None
    """The mode of the socket's path, in octal; only vnic has it."""
    link_propagate: bool = False


class DgramOptions(NetdevOptions, tag="dgram", frozen=True, kw_only=True):
    local: SocketAddress | None = None
    remote: SocketAddress | None = None
    mode: str | None = None


class SocketOptions(NetdevOptions, tag="socket", frozen=True, kw_only=True):
    fd: str | None = None
    listen: str | None = None
    connect: str | None = None
    mcast: str | None = None
    localaddr: str | None = None
    udp: str | None = None


class TapOptions(NetdevOptions, tag="tap", frozen=True, kw_only=True):
    ifname: str | None = None
    fd: str | None = None
    fds: str | None = None
    script: str | None = None
    downscript: str | None = None
    br: str | None = None
    helper: str | None = None
    sndbuf: Size | None = None
    vnet_hdr: bool | None = field(default=None, name="vnet_hdr")
    vhost: bool | None = None
    vhostfd: str | None = None
    vhostfds: str | None = None
    vhostforce: bool | None = None
    queues: U32 | None = None
    poll_us: U32 | None = None


class InterfaceOptions(NetdevOptions, tag="interface", frozen=True, kw_only=True):
    """Only vnic has it."""

    ifname: str
    netns: str | None = None
    """A name of `ip netns`, a path, or the id of a process."""
    propagate: bool = False


class TunnelOptions(NetdevOptions, tag="tunnel", frozen=True, kw_only=True):
    """Only vnic has it. `local` and `remote` are HOST or HOST:PORT, `interval` is in milliseconds. None: not given, as
    some have no effect without CCMs; `tunnel.config` has the defaults."""

    remote: str
    vni: U32
    local: str | None = None
    mtu: U16 | None = None
    ccm: Literal["on", "auto", "off"] = "on"
    interval: float | None = None
    level: U16 | None = None
    mep: U16 | None = None
    md: str | None = None
    ma: str | None = None
    key: str | None = None
    key_file: str | None = None
    follow: str | None = None
    """As that of `cable`."""


class VhostUserOptions(NetdevOptions, tag="vhost-user", frozen=True, kw_only=True):
    """`vhostforce` is accepted and has no effect, as in QEMU."""

    chardev: str
    vhostforce: bool = False
    queues: int | None = None


class PasstOptions(NetdevOptions, tag="passt", frozen=True, kw_only=True):
    path: str | None = None
    quiet: bool | None = None
    vhost_user: bool | None = None
    mtu: int | None = None
    address: str | None = None
    netmask: str | None = None
    mac: str | None = None
    gateway: str | None = None
    interface: str | None = None
    outbound: str | None = None
    outbound_if4: str | None = None
    outbound_if6: str | None = None
    dns: str | None = None
    search: list[String] | None = None
    fqdn: str | None = None
    dhcp_dns: bool | None = None
    dhcp_search: bool | None = None
    map_host_loopback: str | None = None
    map_guest_addr: str | None = None
    dns_forward: str | None = None
    dns_host: str | None = None
    tcp: bool | None = None
    udp: bool | None = None
    icmp: bool | None = None
    dhcp: bool | None = None
    ndp: bool | None = None
    dhcpv6: bool | None = None
    ra: bool | None = None
    freebind: bool | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    tcp_ports: list[String] | None = None
    udp_ports: list[String] | None = None
    param: list[String] | None = None


class UserOptions(NetdevOptions, tag="user", frozen=True, kw_only=True):
    hostname: str | None = None
    restrict: bool | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    ip: str | None = None
    net: str | None = None
    host: str | None = None
    tftp: str | None = None
    bootfile: str | None = None
    dhcpstart: str | None = None
    dns: str | None = None
    dnssearch: list[String] | None = None
    domainname: str | None = None
    ipv6_prefix: str | None = None
    ipv6_prefixlen: int | None = None
    ipv6_host: str | None = None
    ipv6_dns: str | None = None
    smb: str | None = None
    smbserver: str | None = None
    hostfwd: list[String] | None = None
    guestfwd: list[String] | None = None
    tftp_server_name: str | None = None


class BridgeOptions(NetdevOptions, tag="bridge", frozen=True, kw_only=True):
    br: str | None = None
    helper: str | None = None


class EchoOptions(NetdevOptions, tag="echo", frozen=True, kw_only=True):
    """Only vnic has it: a host that answers ARP, neighbour solicitation and ping for one address of each family."""

    ip: str = "10.0.2.2"
    ip6: str = "fec0::2"
    mac: str = "52:55:0a:00:02:02"
