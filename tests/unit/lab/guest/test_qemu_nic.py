"""QEMU's options for a NIC, and the client of its monitor."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from vnic.lab.guest.errors import GuestError, GuestGone
from vnic.lab.guest.qemu_monitor import QemuMonitor
from vnic.lab.guest.qemu_nic import (
    QemuNic,
    emulated,
    vfio_user,
    vhost_user,
)


def test_a_vfio_user_nic_is_a_device_alone() -> None:
    option, text = vfio_user("/tmp/nic0.sock", x_msg_timeout=9000).named("nic0").options()
    assert option == "-device"
    assert json.loads(text) == {
        "id": "nic0",
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": "/tmp/nic0.sock"},
        "x-msg-timeout": 9000,
    }


def test_a_vhost_user_nic_has_a_netdev_and_a_chardev() -> None:
    nic = vhost_user("/tmp/a,b.sock", queues=2, mac="02:00:00:00:00:01").named("nic1")
    assert nic.name == "nic1"
    options = nic.options()
    assert options[::2] == ["-chardev", "-netdev", "-device"]
    assert options[1] == "socket,id=nic1-chardev,path=/tmp/a,,b.sock"
    assert json.loads(options[3]) == {
        "id": "nic1-netdev", "type": "vhost-user", "queues": 2, "chardev": "nic1-chardev",
    }  # fmt: skip
    assert json.loads(options[5]) == {
        "id": "nic1", "driver": "virtio-net-pci", "mq": True, "vectors": 6, "mac": "02:00:00:00:00:01",
        "netdev": "nic1-netdev",
    }  # fmt: skip


def test_a_nic_of_qemu_keeps_the_ids_that_it_has() -> None:
    nic = emulated("e1000", {"type": "hubport", "id": "h", "hubid": 0}, id="mine").named("nic0")
    assert nic.name == "mine"
    assert json.loads(nic.options()[1])["id"] == "h"
    assert json.loads(nic.options()[3]) == {"id": "mine", "driver": "e1000", "netdev": "h"}


def test_refuses_a_path_that_no_socket_can_have() -> None:
    with pytest.raises(GuestError, match="longer than 107"):
        vfio_user("/tmp/" + "x" * 108)


def test_first_name_stays_and_the_original_is_unchanged() -> None:
    nic = QemuNic({"driver": "e1000"})
    assert nic.named("a").named("b").name == "a"
    assert "id" not in nic.device


# -- the monitor ----------------------------------------------------------------------------------------------------

GREETING: dict[str, object] = {"QMP": {"version": {}, "capabilities": []}}
Serve = Callable[[list[object]], QemuMonitor]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a QEMU that answers with the given messages, each to one command, and keeps what it was told."""
    threads: list[threading.Thread] = []
    monitors: list[QemuMonitor] = []

    def start(answers: list[object]) -> QemuMonitor:
        host, end = socket.socketpair()

        def play() -> None:
            with end, end.makefile("rwb", buffering=0) as lines:
                lines.write(json.dumps(GREETING).encode() + b"\r\n")
                for answer in [[{"return": {}}], *answers]:
                    if not lines.readline():
                        return
                    assert isinstance(answer, list)
                    lines.write(b"".join(json.dumps(message).encode() + b"\r\n" for message in answer))

        threads.append(threading.Thread(target=play))
        threads[-1].start()
        monitors.append(QemuMonitor(host))
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.close()
    for thread in threads:
        thread.join()


def test_runs_commands_and_keeps_events(serve: Serve) -> None:
    first = {"event": "DEVICE_DELETED", "data": {"path": "/x"}}
    second = {"event": "DEVICE_DELETED", "data": {"device": "nic0", "path": "/y"}}
    monitor = serve([[first, {"return": 1}, second], [{"return": 2}]])
    assert monitor.execute("device_del", id="nic0") == 1
    assert monitor.wait_event("DEVICE_DELETED", device="nic0") == second
    assert monitor.events == []
    assert monitor.execute("query-status") == 2


def test_a_refusal_is_in_qemus_words(serve: Serve) -> None:
    monitor = serve([[{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}]])
    with pytest.raises(GuestError, match="refused device_del: Device 'x' not found"):
        monitor.execute("device_del", id="x")


def test_end_of_qemu_raises(serve: Serve) -> None:
    monitor = serve([])
    with pytest.raises(GuestGone):
        monitor.execute("query-status")


def test_waiting_for_an_event_ends(serve: Serve) -> None:
    monitor = serve([[{"return": 1}], [{"return": 1}]])
    monitor.execute("query-status")
    with pytest.raises(GuestError, match="in time"):
        monitor.wait_event("RESET", timeout=0.01)
