"""How long a link change, a death or a cut path takes over a tunnel; false alarms, and TCP beside the kernel's VXLAN.

`vnic bench tunnel` runs it, as root: two network namespaces are the hosts, and drivers in this process the guests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from vnic.lab.bench.cable import Guest
from vnic.lab.bench.far_hosts import served
from vnic.lab.bench.native import program
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.two_hosts import ADDRESSES, TwoHosts, ip, run_command
from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.kit import find_uml
from vnic.lab.guest.uml import UmlGuest

CHANGES_PER_ROUND: Final = 20
CUTS_PER_ROUND: Final = 2
PAUSE_S: Final = 0.02
BUSY_SECONDS_PER_ROUND: Final = 10
TCP_SECONDS: Final = 2.0
TCP_TIMEOUT_S: Final = 60.0
INNER: Final = ("192.168.71.1", "192.168.72.1")
"""The far end of the guest's TCP: over the tunnel, and over the kernel's VXLAN."""

METHOD = (
    "two vnics in two network namespaces with a bridge between, interval={}; a driver in this process at each end;"
    " time until CONFIG_CHANGE is readable at the other"
)
TCP_METHOD = (
    "one User-Mode Linux guest with two NICs, by turns: eth0 on -netdev tunnel, eth1 on a tap that is bridged with a"
    " vxlan device of its host. The far end of both is the kernel's vxlan in the other namespace. One connection,"
    f" {TCP_SECONDS:g} s; the far device on the tunnel has its offloads off: veth pairs complete no inner checksums."
    " The kernel's own large frames pass the veth pairs uncut and without checksums, as between no two hosts"
)


class Pair:
    """Two vnics, each with a NIC on a tunnel to the other, and a driver at each."""

    def __init__(self, hosts: TwoHosts, stack: ExitStack, interval: str) -> None:
        self._hosts = hosts
        self._interval = interval
        self.stack = stack
        self.near = self.vnic(0)
        self.near_guest = self.guest(self.near)
        self.far = self.vnic(1)
        self.far_guest = self.guest(self.far)
        self.wait_up()

    def vnic(self, number: int) -> VnicProcess:
        """The vnic of one host, started."""
        ends = f"local={ADDRESSES[number]},remote={ADDRESSES[1 - number]}"
        netdev = f"tunnel,id=net0,{ends},vni=7,interval={self._interval}"
        nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"
        inside = self._hosts.inside(number)
        return self.stack.enter_context(VnicProcess("-netdev", netdev, "-device", nic, inside=inside))

    def guest(self, vnic: VnicProcess) -> Guest:
        guest = Guest(str(vnic.folder / "nic0.sock"))
        self.stack.callback(guest.close)
        return guest

    def wait_up(self) -> None:
        """Both links are up, and both drivers have seen it."""
        for vnic, guest in ((self.near, self.near_guest), (self.far, self.far_guest)):
            vnic.wait_link("nic0", up=True)
            vnic.wait_link("net0", up=True)
            guest.client.config_changes()
            guest.look(up=True)

    def lose_far(self, kill: Callable[[VnicProcess], None]) -> float:
        """The time until the near driver is told of a death of the far side, in µs; the far side is started again."""
        time.sleep(PAUSE_S)
        self.near_guest.client.config_changes()
        started = time.perf_counter()
        kill(self.far)
        lost = self.near_guest.wait_told() - started
        self.near_guest.look(up=False)
        self.far_guest.close()
        self.far.process.wait()
        self.far = self.vnic(1)
        self.far_guest = self.guest(self.far)
        self.wait_up()
        return lost * 1e6


def measure(rounds: int) -> Iterator[Row]:
    if os.geteuid() != 0:
        raise Missing("only root can make network namespaces")
    with TwoHosts().made() as hosts:
        with ExitStack() as stack:
            pair = Pair(hosts, stack, "10")
            yield from _changes(pair, rounds)
            yield from _deaths(pair, rounds)
            yield from _cuts(hosts, pair, rounds, "10", "at most 50 000")
            yield _false_alarms(pair, rounds)
        with ExitStack() as stack:
            yield from _cuts(hosts, Pair(hosts, stack, "3.3"), rounds, "3.3", "at most 15 000")
        yield from _tcp(hosts, rounds)


def _changes(pair: Pair, rounds: int) -> Iterator[Row]:
    taken: list[float] = []
    for change in range(2 * rounds * CHANGES_PER_ROUND):
        up = bool(change % 2)
        time.sleep(PAUSE_S)
        word = b"true" if up else b"false"
        started = time.perf_counter()
        pair.near.qmp.send(b'{"execute":"set_link","arguments":{"name":"nic0","up":' + word + b"}}\n")
        taken.append((pair.far_guest.wait_told() - started) * 1e6)
        pair.near.reply()
        pair.far_guest.look(up)
        pair.near_guest.look(up)
    yield row(
        "set_link off → far guest's interrupt", "µs", taken[::2], METHOD.format(10), "median at most 2000"
    )
    yield row("set_link on → far guest's interrupt", "µs", taken[1::2], METHOD.format(10))


def _deaths(pair: Pair, rounds: int) -> Iterator[Row]:
    told = [pair.lose_far(lambda far: far.process.kill()) for _ in range(rounds)]
    yield row(
        "far vnic killed → guest's interrupt", "µs", told, "SIGKILL of the far vnic alone", "at most 5000"
    )
    whole = [pair.lose_far(_kill_all) for _ in range(rounds)]
    method = "SIGKILL of the far vnic-wire and vnic; the host of both lives, and its kernel answers (ICMP)"
    yield row("far side killed → guest's interrupt", "µs", whole, method, "at most 50 000")


def _kill_all(far: VnicProcess) -> None:
    for child in _children(far.process.pid):
        os.kill(child, signal.SIGKILL)
    far.process.kill()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cuts(hosts: TwoHosts, pair: Pair, rounds: int, interval: str, target: str) -> Iterator[Row]:
    taken: list[float] = []
    for _ in range(rounds * CUTS_PER_ROUND):
        time.sleep(PAUSE_S)
        for guest in (pair.near_guest, pair.far_guest):
            guest.client.config_changes()
        started = time.perf_counter()
        hosts.set_path(False)
        taken.append((pair.near_guest.wait_told() - started) * 1e6)
        pair.far_guest.wait_told()
        pair.near_guest.look(up=False)
        hosts.set_path(True)
        pair.wait_up()
    method = f"{METHOD.format(interval)}; the far end's link is set down where it meets the bridge"
    yield row(f"path cut, interval={interval} → guest's interrupt", "µs", taken, method, target)


def _false_alarms(pair: Pair, rounds: int) -> Row:
    seconds = rounds * BUSY_SECONDS_PER_ROUND
    before = _downs(pair)
    count = os.cpu_count() or 1
    busy = [multiprocessing.get_context("fork").Process(target=_spin, daemon=True) for _ in range(count)]
    for process in busy:
        process.start()
    try:
        time.sleep(seconds)
    finally:
        for process in busy:
            process.kill()
            process.join()
    method = (
        f"interval=10, {seconds} s, {count} busy loops on {count} processors; losses of both links together"
    )
    return row("false alarms", "losses", [float(_downs(pair) - before)], method, "0")


def _spin() -> None:
    while True:
        pass


def _downs(pair: Pair) -> int:
    total = 0
    for vnic in (pair.near, pair.far):
        downs = vnic.link("net0")["carrier-down-changes"]
        assert isinstance(downs, int)
        total += downs
    return total


# -- TCP --------------------------------------------------------------------------------------------------------------


def _tcp(hosts: TwoHosts, rounds: int) -> Iterator[Row]:
    kit = find_uml()
    if kit is None:
        raise Missing("User-Mode Linux is not here (apt-get install user-mode-linux busybox-static)")
    for number in (1, 2):
        _vxlan(hosts, 1, number, f"vx{number}")
        ip("-n", hosts.names[1], "addr", "add", f"{INNER[number - 1]}/24", "dev", f"vx{number}")
    _vxlan(hosts, 0, 2, "vx2")
    # A veth pair leaves the inner checksum to hardware that is not there: only a kernel that receives it knows.
    run_command(*hosts.inside(1), "ethtool", "-K", "vx1", "tx", "off")
    with _two_ways(hosts) as vnic:
        sockets = [vnic.folder / f"nic{index}.sock" for index in range(2)]
        try:
            with UmlGuest(sockets, kit=kit, files={"/flow": program("flow")}) as guest:
                for index, inner in enumerate(INNER):
                    if not guest.wait_carrier(True, f"eth{index}"):
                        raise Missing(f"eth{index} of the guest has no carrier")
                    guest.set_address(f"{inner[:-1]}2/24", f"eth{index}")
                    if guest.ping(inner) is None:
                        raise Missing(f"eth{index} of the guest does not reach the far host")
                vnic.wait_on_the_wire("nic0", "nic1")
                found: dict[tuple[str, int], list[float]] = {}
                for _ in range(rounds):
                    for index in range(2):
                        for direction in ("send", "receive"):
                            found.setdefault((direction, index), []).append(
                                _gbit(hosts, guest, index, direction)
                            )
        except GuestError as error:
            raise Missing(str(error)) from error
    for direction, words in (("send", "TCP to the far host"), ("receive", "TCP from the far host")):
        ours, theirs = found[direction, 0], found[direction, 1]
        yield row(f"{words}, tunnel", "Gbit/s", ours, TCP_METHOD, digits=2)
        yield row(f"{words}, kernel's VXLAN", "Gbit/s", theirs, TCP_METHOD, digits=2)
        ratios = [one / two for one, two in zip(ours, theirs, strict=True)]
        yield row(f"{words}, tunnel / kernel", "ratio", ratios, TCP_METHOD, "at least 0.8", digits=2)


def _vxlan(hosts: TwoHosts, number: int, vni: int, name: str) -> None:
    """A vxlan device. Those of VNI 2 have a port of their own: vnic has 4789 at one host."""
    port = "4789" if vni == 1 else "4790"
    ends = ("local", ADDRESSES[number], "remote", ADDRESSES[1 - number], "dstport", port)
    ip("-n", hosts.names[number], "link", "add", name, "type", "vxlan", "id", str(vni), *ends)
    ip("-n", hosts.names[number], "link", "set", name, "up")


@contextmanager
def _two_ways(hosts: TwoHosts) -> Iterator[VnicProcess]:
    """A vnic at the first host with nic0 on a tunnel and nic1 on a tap that is bridged with vx2."""
    options = [
        *("-netdev", f"tunnel,id=net0,local={ADDRESSES[0]},remote={ADDRESSES[1]},vni=1,ccm=off"),
        *("-netdev", "tap,id=net1,ifname=tap0"),
    ]
    for index in range(2):
        where = f"attach.type=vhost-user,attach.path=@/nic{index}.sock"
        options += ["-device", f"virtio-net,id=nic{index},netdev=net{index},mtu=1450,{where}"]
    with VnicProcess(*options, inside=hosts.inside(0)) as vnic:
        ip("-n", hosts.names[0], "link", "add", "br0", "type", "bridge")
        for name in ("tap0", "vx2"):
            ip("-n", hosts.names[0], "link", "set", name, "master", "br0", "up")
        ip("-n", hosts.names[0], "link", "set", "br0", "up")
        yield vnic


def _gbit(hosts: TwoHosts, guest: UmlGuest, index: int, direction: str) -> float:
    address = INNER[index]
    listener = hosts.called_in(1, lambda: socket.create_server((address, 0)))
    with served(listener, TCP_SECONDS if direction == "receive" else 0.0) as port:
        command = f"/flow {direction} {address} {port} {TCP_SECONDS:g}"
        sent, ns = map(int, guest.run(command, timeout=TCP_TIMEOUT_S).split())
    return 8 * sent / ns
