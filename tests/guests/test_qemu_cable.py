"""A User-Mode Linux over vhost-user and a QEMU guest's e1000 over vfio-user, joined by a cable."""

from __future__ import annotations

from tests.guests.lab import nic, uml, vnic_run
from tests.guests.qemu_lab import interface, pci_nic, qemu, wait_detached

CABLE = ["-netdev", "cable,id=a,cable=c0,follow=operator+attached+admin", "-netdev", "cable,id=b,cable=c0"]


def test_each_end_is_seen_at_the_other() -> None:
    options = [*CABLE, *nic("small", "a"), *pci_nic("big", "e1000", "b")]
    with vnic_run("-name", "pair", *options) as running, uml(running, "small") as small:
        with qemu(running, "big") as big:
            name = interface(running, big, "big")
            big.set_address("10.0.2.2/24", name)
            small.set_address("10.0.2.15/24")
            assert small.wait_carrier(True)
            assert big.wait_carrier(True, name)
            assert small.ping("10.0.2.2") is not None
            for pulled in ("small", "big"):
                running.qmp.set_link(pulled, False)
                assert small.wait_carrier(False)
                assert big.wait_carrier(False, name)
                running.qmp.set_link(pulled, True)
                assert small.wait_carrier(True)
                assert big.wait_carrier(True, name)
            big.run(f"ip link set {name} down")
            assert small.wait_carrier(False)
            [hold] = running.qmp.link("small")["holds"]
            assert hold["text"] == "big at the other end of cable c0: its guest has the interface down"
            assert running.qmp.link("big")["link"] == "up"
            big.run(f"ip link set {name} up")
            assert small.wait_carrier(True)
            assert small.ping("10.0.2.2") is not None
            small.kill()
            assert big.wait_carrier(False, name)
        wait_detached(running, "big")
        assert running.qmp.link("small")["holds"][0]["kind"] == "far-end"


def test_end_of_either_guest_or_its_driver_is_seen_at_the_other() -> None:
    cable = ["-netdev", "cable,id=a,cable=c0", "-netdev", "cable,id=b,cable=c0"]
    options = [*cable, *nic("small", "a"), *pci_nic("big", "virtio-net-pci", "b")]
    with vnic_run("-name", "pair", *options) as running, uml(running, "small") as small:

        def reason(name: str) -> str:
            [hold] = running.qmp.link(name)["holds"]
            assert hold["kind"] == "far-end"
            return str(hold["text"].partition(" at the other end of cable c0")[2])

        with qemu(running, "big") as big:
            name = interface(running, big, "big")
            assert small.wait_carrier(True)
            device = big.run(f"basename $(readlink /sys/class/net/{name}/device)")
            driver = "/sys/bus/virtio/drivers/virtio_net"
            big.run(f"echo {device} >{driver}/unbind")
            assert small.wait_carrier(False)
            assert reason("small") == ": its driver is not ready"
            big.run(f"echo {device} >{driver}/bind")
            assert small.wait_carrier(True)
            device = small.run("basename $(readlink /sys/class/net/eth0/device)")
            small.run(f"echo {device} >{driver}/unbind")
            name = interface(running, big, "big")
            big.run(f"ip link set {name} up")
            assert big.wait_carrier(False, name)
            assert reason("big") == ": its driver is not ready"
            small.run(f"echo {device} >{driver}/bind; ip link set eth0 up")
            assert big.wait_carrier(True, name)
            big.start("poweroff -f")
            assert small.wait_carrier(False)
            wait_detached(running, "big")
            assert reason("small") == ": its VM is not attached"
        with qemu(running, "big") as big:
            assert small.wait_carrier(True)
            big.kill()
            assert small.wait_carrier(False)
            assert reason("small") == ": its VM is not attached"
