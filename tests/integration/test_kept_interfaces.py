"""tap, bridge and interface in a process that is killed, against the kernel: the host sees nothing of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.fakes.kept_netdev import KeptLab
from tests.integration.namespace import HOST, frame, in_namespace, ip, packet_socket, up

from vnic.backend.options import BridgeOptions, InterfaceOptions, TapOptions
from vnic.net.records import HoldKind


def killed(test: Callable[[KeptLab], None]) -> None:
    """Run it in a network namespace of its own; in a thread, since each process of a KeptLab has a loop of its own."""

    async def main() -> None:
        def body() -> None:
            with KeptLab() as lab:
                test(lab)

        await asyncio.to_thread(body)

    in_namespace(main)


def index_of(name: str) -> int:
    return socket.if_nametoindex(name)


def carrier(name: str) -> bool:
    return "LOWER_UP" in ip("link", "show", name)


def carrier_changes(name: str) -> int:
    changes: int = json.loads(ip("-j", "-s", "-s", "link", "show", name))[0]["stats64"]["tx"][
        "carrier_changes"
    ]
    return changes


def is_up(name: str) -> bool:
    return ",UP" in ip("link", "show", name)


def assert_frames_pass(lab: KeptLab, ifname: str, number: int) -> None:
    """Both ways, and those that came while nobody read."""
    guest = lab.guest()
    with packet_socket(ifname) as host:
        sent = frame(bytes([number]) * 100)
        host.send(sent)
        lab.until(lambda: sent in guest.frames)
        assert guest.frames.count(sent) == 1
        back = frame(bytes([number + 100]) * 100, target=HOST)
        lab.client("nic0").send(0, back)
        lab.until(lambda: back in received(host))


def received(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(70000))
        except BlockingIOError:
            return found


def _tap(lab: KeptLab) -> None:
    lab.add(TapOptions(id="net0", ifname="vt0"))
    lab.nic("nic0", "net0")
    up("vt0")
    lab.until(lambda: not lab.client("net0").holds)
    index, changes = index_of("vt0"), carrier_changes("vt0")
    for number in range(3):
        assert_frames_pass(lab, "vt0", number)
        lab.kill()
        assert lab.anew == []
        assert index_of("vt0") == index
    with packet_socket("vt0") as host:
        lab.turn()
        host.send(frame(b"while nobody reads" * 5))
        lab.kill()
        lab.until(lambda: frame(b"while nobody reads" * 5) in lab.guest().frames)
    assert carrier_changes("vt0") == changes
    ip("link", "set", "vt0", "down")
    lab.until(lambda: HoldKind.UPLINK in lab.client("net0").holds)
    lab.turn()
    lab.kill()
    assert HoldKind.UPLINK in lab.client("net0").holds
    up("vt0")
    lab.until(lambda: not lab.client("net0").holds)


def test_tap_stays_with_its_carrier() -> None:
    killed(_tap)


def _carrier(lab: KeptLab) -> None:
    """The process was killed after it had set the carrier, and before that was kept."""
    lab.add(TapOptions(id="net0", ifname="vt0"))
    lab.nic("nic0", "net0")
    up("vt0")
    lab.until(lambda: carrier("vt0"))
    lab.process.keep.commit()
    record = lab.netdev("net0").save_kept()
    lab.netdev("net0").save_kept = lambda: record
    lab.network.set_link("net0", False, "test")
    assert not carrier("vt0")
    client = lab.client("net0")
    client.holds.clear()  # as the record has it
    lab.kill()
    lab.until(lambda: carrier("vt0"))


def test_carrier_that_was_not_kept_is_set_again() -> None:
    killed(_carrier)


def _script(lab: KeptLab) -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    done = folder / f"vnic-script-{os.getpid()}"
    script = folder / f"vnic-script-{os.getpid()}.sh"
    script.write_text(f"#!/bin/sh\nsleep 1\ntouch {done}\n")
    script.chmod(0o755)
    try:
        lab.add(TapOptions(id="net0", ifname="vt0", script=str(script)))
        lab.turn()
        lab.kill()
        assert "is running" in lab.client("net0").holds[HoldKind.DISCONNECTED].text
        assert not done.exists()
        lab.until(lambda: HoldKind.DISCONNECTED not in lab.client("net0").holds)
        assert done.exists()
    finally:
        script.unlink()
        done.unlink(missing_ok=True)


def test_network_script_that_runs_is_waited_for() -> None:
    killed(_script)


def _gone(lab: KeptLab) -> None:
    lab.add(TapOptions(id="net0", ifname="vt0"))
    lab.nic("nic0", "net0")
    lab.turn()
    ip("link", "del", "vt0")
    lab.until(lambda: "is gone" in str(lab.client("net0").holds))
    lab.turn()
    lab.kill()
    assert "is gone" in str(lab.client("net0").holds)
    ip("tuntap", "add", "vt0", "mode", "tap")
    up("vt0")
    lab.until(lambda: not lab.client("net0").holds)
    assert_frames_pass(lab, "vt0", 1)


def test_tap_that_is_gone_is_awaited_on() -> None:
    killed(_gone)


def _bridge(lab: KeptLab) -> None:
    ip("link", "add", "br7", "type", "bridge")
    up("br7")
    lab.add(BridgeOptions(id="net0", br="br7"))
    lab.nic("nic0", "net0")
    name = lab.netdev("net0").ifname
    up(name)
    lab.until(lambda: not lab.client("net0").holds)
    lab.turn()
    lab.kill()
    assert lab.anew == []
    assert "master br7 " in ip("link", "show", name)
    assert_frames_pass(lab, name, 1)
    assert lab.netdev("net0").info_text(0) == f"ifname={name},br=br7"


def test_bridge_port_stays() -> None:
    killed(_bridge)


def _interface(lab: KeptLab) -> None:
    ip("link", "add", "va", "type", "veth", "peer", "name", "vb")
    up("va")
    up("vb")
    lab.add(InterfaceOptions(id="net0", ifname="va", propagate=True))
    lab.nic("nic0", "net0")
    lab.until(lambda: not lab.client("net0").holds and carrier("vb"))
    lab.turn()
    for number in range(2):
        assert_frames_pass(lab, "vb", number)
        lab.kill()
        assert lab.anew == []
        assert not lab.client("net0").holds
    assert carrier("vb")
    lab.network.set_link("net0", False, "test")  # the interface is set down for it
    lab.until(lambda: not is_up("va"))
    lab.until(lambda: lab.netdev("net0").save().set_down)
    lab.turn()
    lab.kill()
    time.sleep(0.05)
    lab.turn()
    assert not is_up("va")
    assert set(lab.client("net0").holds) == {HoldKind.OPERATOR}
    lab.network.set_link("net0", True, "test")
    lab.until(lambda: is_up("va") and not lab.client("net0").holds)
    lab.network.set_link("net0", False, "test")
    lab.until(lambda: lab.netdev("net0").save().set_down and not is_up("va"))
    lab.turn()
    lab.kill()
    lab.network.delete_netdev("net0", "test")
    lab.until(lambda: is_up("va"))  # as it was found


def test_interface_that_was_set_down_is_set_up_again() -> None:
    killed(_interface)
