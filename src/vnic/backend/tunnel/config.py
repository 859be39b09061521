"""The options of a tunnel, checked: addresses, names, the key.

`tunnel.backend` makes one TunnelConfig for each netdev.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from vnic.backend.options import TunnelOptions
from vnic.backend.readiness import parse_follow
from vnic.net.errors import NetError
from vnic.plainfile import open_plain
from vnic.protocol.cfm import ccm
from vnic.protocol.trailer import derive
from vnic.protocol.vxlan import MAX_VNI, PORT
from vnic.sockets.address import InetAddress

Mode = Literal["on", "auto", "off"]

INTERVALS_MS: Final = {3.3: 1, 3.33: 1, 10.0: 2, 100.0: 3, 1000.0: 4, 10000.0: 5, 60000.0: 6, 600000.0: 7}
"""What `interval=` may be, and the codes of CCMs."""
DEFAULT_INTERVAL_MS: Final = 10.0
MIN_MTU: Final = 68
"""ETH_MIN_MTU."""
KEY_FILE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """What the user asked for. The addresses are still to be resolved."""

    local: InetAddress | None
    remote: InetAddress
    vni: int
    mtu: int | None
    mode: Mode
    interval: int
    """A key of INTERVALS_US."""
    level: int
    mep: int | None
    maid: bytes
    key: bytes | None
    """Derived from the user's text, which is kept nowhere."""
    follow: frozenset[str]

    def __repr__(self) -> str:
        """Without the key."""
        return f"TunnelConfig({address_text(self.remote)}, vni {self.vni})"


def parse(options: TunnelOptions) -> TunnelConfig:
    """Raises NetError."""
    return _parse(options, _key(options))


def check(options: TunnelOptions) -> None:
    """As `parse`, without a look at the key's file: for options of a tunnel that is made later, or elsewhere."""
    _check_key(options)
    _parse(options, None)


def _parse(options: TunnelOptions, key: bytes | None) -> TunnelConfig:
    if not 0 <= options.vni <= MAX_VNI:
        raise NetError(f"Parameter 'vni' expects a number from 0 to {MAX_VNI}, not '{options.vni}'")
    if options.mtu is not None and options.mtu < MIN_MTU:
        raise NetError(f"Parameter 'mtu' expects a number from {MIN_MTU} to 65535, not '{options.mtu}'")
    interval = DEFAULT_INTERVAL_MS if options.interval is None else options.interval
    if interval not in INTERVALS_MS:
        raise NetError(
            f"Parameter 'interval' expects 3.3, 10, 100, 1000, 10000, 60000 or 600000, not '{interval:g}'"
        )
    level = options.level or 0
    if level > ccm.MAX_LEVEL:
        raise NetError(f"Parameter 'level' expects a number from 0 to {ccm.MAX_LEVEL}, not '{level}'")
    if options.mep is not None and options.mep not in ccm.MEP_IDS:
        raise NetError(f"Parameter 'mep' expects a number from 1 to {ccm.MEP_IDS[-1]}, not '{options.mep}'")
    if options.md is not None and options.ma is None:
        raise NetError("Parameter 'md' needs 'ma'")
    if options.ccm == "off":
        _refuse_those_of_ccms(options)
    return TunnelConfig(
        local=None if options.local is None else _address("local", options.local),
        remote=_remote(options.remote),
        vni=options.vni,
        mtu=options.mtu,
        mode=options.ccm,
        interval=INTERVALS_MS[interval],
        level=level,
        mep=options.mep,
        maid=_maid(options),
        key=key,
        follow=parse_follow(options.follow),
    )


def _refuse_those_of_ccms(options: TunnelOptions) -> None:
    """What would have no effect. `mep` is also this end's name in the trailer of a key."""
    names = ["interval", "level", "md", "ma", "follow"] + ["mep"] * (
        options.key is None and options.key_file is None
    )
    for name in names:
        if getattr(options, name) is not None:
            raise NetError(f"Parameter '{name}' has no effect with 'ccm=off'")


def _maid(options: TunnelOptions) -> bytes:
    try:
        return ccm.maid(f"vnic {options.vni}" if options.ma is None else options.ma, options.md)
    except ValueError as error:
        raise NetError(f"Parameters 'md' and 'ma' do not fit into a CCM: {error}") from None


def _check_key(options: TunnelOptions) -> None:
    if options.key is not None and options.key_file is not None:
        raise NetError("Parameters 'key' and 'key-file' are mutually exclusive")


def _key(options: TunnelOptions) -> bytes | None:
    _check_key(options)
    text = options.key
    if options.key_file is not None:
        text = _read_key(options.key_file)
    if text is None:
        return None
    if not text:
        raise NetError(f"Parameter '{'key' if options.key is not None else 'key-file'}' expects a key")
    return derive(text)


def _read_key(path: str) -> str:
    """The first line of a file that others cannot read."""
    try:
        fd = open_plain(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NetError(f"key-file {path}: {reason}") from None
    with open(fd, "rb") as file:
        if os.fstat(fd).st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise NetError(f"key-file {path}: others can read it or write to it (chmod o= {path})")
        data = file.read(KEY_FILE_BYTES + 1)
    line = data.partition(b"\n")[0]
    if len(data) > KEY_FILE_BYTES:
        raise NetError(f"key-file {path}: it has more than {KEY_FILE_BYTES} bytes")
    try:
        return line.rstrip(b"\r").decode()
    except UnicodeDecodeError:
        raise NetError(f"key-file {path}: it is no UTF-8 text") from None


def _remote(text: str) -> InetAddress:
    """One host: datagrams of a group come from its members' addresses, and none come from 0.0.0.0."""
    address = _address("remote", text)
    try:
        ip = ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return address  # a name
    if ip.is_unspecified or ip.is_multicast:
        raise NetError(f"Parameter 'remote' expects the address of one host, and not '{text}'")
    return address


def _address(name: str, text: str) -> InetAddress:
    """`HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address."""
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or (rest and colon != ":"):
            raise NetError(f"Parameter '{name}' expects HOST or HOST:PORT, and not '{text}'")
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    if not host or (colon and not 0 < number <= 0xFFFF):
        raise NetError(f"Parameter '{name}' expects HOST or HOST:PORT, and not '{text}'")
    return InetAddress(host=host, port=port or str(PORT))


def address_text(address: InetAddress) -> str:
    """The address as the user may have written it."""
    return endpoint_text(address.host, int(address.port))


def endpoint_text(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_numeric(address: InetAddress) -> bool:
    """Whether no name server has to be asked."""
    try:
        ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return False
    return True


class Place(NamedTuple):
    """A resolved address: what `socket` takes as one."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    @property
    def host(self) -> str:
        return self.sockaddr[0]

    @property
    def port(self) -> int:
        return self.sockaddr[1]

    def text(self) -> str:
        """With the interface of a link-local address (RFC 4007 §11): alone, it may be that of several hosts."""
        host, scope = self.source()
        if scope:
            try:
                host += f"%{socket.if_indextoname(scope)}"
            except OSError:  # the interface is gone
                host += f"%{scope}"
        return endpoint_text(host, self.port)

    def source(self) -> Source:
        return source_of(self.sockaddr)


Source = tuple[str, int]
"""An address that datagrams come from: the host and, in IPv6, the interface's index."""


def source_of(sockaddr: tuple[object, ...]) -> Source:
    """The key by which a datagram's tunnel is found; the port varies with the flow (RFC 7348 §5)."""
    host = str(sockaddr[0]).partition("%")[0]
    scope = sockaddr[3] if len(sockaddr) > 3 else 0
    assert isinstance(scope, int)
    return host, scope


def any_place(family: int, port: int) -> Place:
    """All addresses of this host."""
    return (
        Place(family, ("::", port, 0, 0)) if family == socket.AF_INET6 else Place(family, ("0.0.0.0", port))
    )
