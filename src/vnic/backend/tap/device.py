"""The kernel's tap devices: the ioctls of linux/if_tun.h and if_bridge.h that tap and bridge need, with QEMU's texts.

These functions do not block and keep no state (QEMU's net/tap-linux.c).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct

from vnic.descriptors import Kind, kind_of, mount_of
from vnic.net.errors import NetError

TUN_PATH = "/dev/net/tun"

TUNGETFEATURES = 0x800454CF
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETSNDBUF = 0x400454D4
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETVNETLE = 0x400454DC
TUNSETIFF = 0x400454CA
TUNSETCARRIER = 0x400454E2

IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
ALL_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCSIFMTU = 0x8922
SIOCSIFHWADDR = 0x8924
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933
SIOCBRADDIF = 0x89A2
IFF_UP = 0x1

IFNAMSIZ = 16
INT_MAX = 0x7FFFFFFF
_INT = struct.Struct("i")
_IFREQ = struct.Struct(f"{IFNAMSIZ}sH22x")
"""struct ifreq with ifr_flags."""
_IFREQ_INT = struct.Struct(f"{IFNAMSIZ}si20x")
"""struct ifreq with ifr_ifindex or ifr_mtu."""
_HARDWARE_ADDRESS_AT = IFNAMSIZ + 2
"""The offset of the address in a struct ifreq with ifr_hwaddr, behind its family."""
assert _IFREQ.size == _IFREQ_INT.size == 40

VNET_HEADER_BYTES = 10


def _name(ifname: str) -> bytes:
    """The interface name for the kernel, cut to its length as by QEMU's pstrcpy."""
    return os.fsencode(ifname)[: IFNAMSIZ - 1]


def open_tap(ifname: str | None, *, vnet_hdr: bool | None, multi_queue: bool) -> tuple[int, str, bool]:
    """Open one queue of a tap. Returns (descriptor, name, whether frames have a virtio_net_hdr) (tap_open).

    `ifname` may contain %d. `vnet_hdr` None uses the header if the kernel has it. A second queue has the name of the
    first.
    """
    try:
        fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NetError(f"could not open {TUN_PATH}: {error.strerror}") from None
    try:
        (features,) = _INT.unpack(fcntl.ioctl(fd, TUNGETFEATURES, bytes(_INT.size)))
        flags = IFF_TAP | IFF_NO_PI
        if vnet_hdr is not False and features & IFF_VNET_HDR:
            flags |= IFF_VNET_HDR
        elif vnet_hdr:
            raise NetError("vnet_hdr=1 requested, but no kernel support for IFF_VNET_HDR available")
        if multi_queue:
            if not features & IFF_MULTI_QUEUE:
                raise NetError("multiqueue required, but no kernel support for IFF_MULTI_QUEUE available")
            flags |= IFF_MULTI_QUEUE
        request = _IFREQ.pack(_name(ifname or "tap%d"), flags)
        try:
            name, _ = _IFREQ.unpack(fcntl.ioctl(fd, TUNSETIFF, request))
        except OSError as error:
            which = f" ({os.fsdecode(_name(ifname))})" if ifname else ""
            raise NetError(f"could not configure {TUN_PATH}{which}: {error.strerror}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd, os.fsdecode(name.rstrip(b"\0")), bool(flags & IFF_VNET_HDR)


def probe_tap(fd: int) -> tuple[str, bool]:
    """The name of a tap that was passed, and whether its frames have a virtio_net_hdr (tap_probe_vnet_hdr)."""
    try:
        if not _may_be_tap(fd):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        name, flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:
        raise NetError(f"Unable to query TUNGETIFF on FD {fd}: {error.strerror}") from None
    return os.fsdecode(name.rstrip(b"\0")), bool(flags & IFF_VNET_HDR)


def _may_be_tap(fd: int) -> bool:
    """False for a file whose ioctl could block: one on FUSE, or on an unknown file system.

    The kernel identifies a tun device in any mount namespace, but not a macvtap.
    """
    if kind_of(fd) is not Kind.FILE:
        return True  # a file system of the kernel: ENOTTY
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as info:
            if any(line.startswith("iff:") for line in info):
                return True
    except OSError:
        return False
    mount = mount_of(fd)
    return mount is not None and not mount.kind.startswith("fuse")


def set_up_queue(fd: int, *, vnet_hdr: bool, sndbuf: int | None) -> None:
    """Set a queue up as `tap.backend` expects, whatever its earlier user set (net_tap_fd_init)."""
    set_offload(fd, 0)
    if vnet_hdr:
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, _INT.pack(VNET_HEADER_BYTES))
        try:
            fcntl.ioctl(fd, TUNSETVNETLE, _INT.pack(1))  # the header in the format of virtio 1, on any host
        except OSError:
            pass  # an old kernel, where the header has the host's byte order; it differs only on big-endian hosts
    try:
        # QEMU treats 0 as no limit: with a limit, a receiver on this host could block the sender.
        fcntl.ioctl(fd, TUNSETSNDBUF, _INT.pack(min(sndbuf or INT_MAX, INT_MAX)))
    except OSError as error:
        if sndbuf is not None:
            raise NetError(f"TUNSETSNDBUF ioctl failed: {error.strerror}") from None


def set_offload(fd: int, offloads: int) -> bool:
    """Set which offloads the kernel may leave undone; False if it supports none."""
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)
    except OSError:
        return False
    return True


def set_header_bytes(fd: int, size: int) -> None:
    """The size of the virtio_net_hdr of each frame (tap_set_vnet_hdr_len)."""
    with contextlib.suppress(OSError):  # the interface is gone
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, _INT.pack(size))


def attach_queue(fd: int, attached: bool) -> None:
    """Have frames of the host come to this queue of several, or not (tap_fd_enable, tap_fd_disable)."""
    flags = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
    with contextlib.suppress(OSError):  # it is so already
        fcntl.ioctl(fd, TUNSETQUEUE, _IFREQ.pack(b"", flags))


def set_carrier(fd: int, carrier: bool) -> None:
    """Set the carrier of the interface; before Linux 5.0 this fails, and the interface always has carrier."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, TUNSETCARRIER, _INT.pack(carrier))


def is_up(ifname: str) -> bool | None:
    """Whether the interface is up on the host (IFF_UP); None if this network namespace has no interface of that
    name."""
    request = _IFREQ.pack(_name(ifname), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            _, flags = _IFREQ.unpack(fcntl.ioctl(control, SIOCGIFFLAGS, request))
        except OSError:
            return None
    return bool(flags & IFF_UP)


def add_to_bridge(ifname: str, bridge: str) -> None:
    """Add an interface to a Linux bridge and bring it up (main of QEMU's qemu-bridge-helper.c).

    A bridge takes the smallest MTU and the lowest MAC address of its ports. The new port must have neither, or the host
    behind the bridge would change its own.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        index = _ioctl_ifreq(control, SIOCGIFINDEX, _IFREQ_INT.pack(_name(ifname), 0))
        request = _IFREQ_INT.pack(_name(bridge), _IFREQ_INT.unpack(index)[1])
        address = bytearray(_ioctl_ifreq(control, SIOCGIFHWADDR, _IFREQ_INT.pack(_name(ifname), 0)))
        address[_HARDWARE_ADDRESS_AT] = 0xFE
        _ioctl_ifreq(control, SIOCSIFHWADDR, bytes(address))
        try:
            _, mtu = _IFREQ_INT.unpack(fcntl.ioctl(control, SIOCGIFMTU, _IFREQ_INT.pack(_name(bridge), 0)))
            with contextlib.suppress(OSError):  # larger than a tap takes
                fcntl.ioctl(control, SIOCSIFMTU, _IFREQ_INT.pack(_name(ifname), mtu))
            fcntl.ioctl(control, SIOCBRADDIF, request)
        except OSError as error:
            reason = "it is no bridge" if error.errno == errno.EOPNOTSUPP else error.strerror
            raise NetError(f"could not add {ifname} to bridge '{bridge}': {reason}") from None
        _, flags = _IFREQ.unpack(_ioctl_ifreq(control, SIOCGIFFLAGS, _IFREQ.pack(_name(ifname), 0)))
        _ioctl_ifreq(control, SIOCSIFFLAGS, _IFREQ.pack(_name(ifname), flags | IFF_UP))


def _ioctl_ifreq(control: socket.socket, request: int, ifreq: bytes) -> bytes:
    try:
        return fcntl.ioctl(control, request, ifreq)
    except OSError as error:
        name = os.fsdecode(ifreq[:IFNAMSIZ].rstrip(b"\0"))
        raise NetError(f"could not configure interface {name}: {error.strerror}") from None
