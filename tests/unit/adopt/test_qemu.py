"""Tests of `-object qemu` with a played QEMU: its NICs, their links, what happens to it, what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.adopt.lab import AdoptLab, PlayedNic, run, until

from vnic.adopt.options import QemuOptions
from vnic.filter import object_add, object_del
from vnic.net import qom
from vnic.net.errors import NetError
from vnic.net.records import HoldKind

USER = "hn0: index=0,type=user,net=10.0.2.0,restrict=off"
STREAM = "st0: index=0,type=stream,unix:st.sock"


def test_nics_of_a_running_vm_are_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted(
                "vm1", PlayedNic("net0", netdev=USER), PlayedNic("e1000.0", "e1000", "52:54:00:12:34:57")
            )
            entry = lab.entry("vm1/net0")
            assert (entry.model, entry.mac, entry.link) == ("virtio-net-pci", "52:54:00:12:34:56", "up")
            assert entry.assumed
            assert (entry.datapath, entry.peer) == ("elsewhere", None)
            assert entry.vm is not None
            assert entry.vm.netdev == "hn0 (user)"
            assert entry.vm.text == "QEMU 11.1.3, running"
            assert entry.guest.attached
            assert (entry.guest.seen, entry.guest.link_shown_by) == ("unknown", "hypervisor")
            assert lab.client("vm1/e1000.0").model == "e1000"
            assert "set_link" not in [name for name, _ in qemu.log], "a VM is adopted as it is"
            assert "vm1/net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56" in lab.info()

    run(main())


def test_links_are_set_in_order_and_the_newest_state_wins(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted("vm1", PlayedNic("net0"))
            nic = qemu.nics["net0"]
            lab.set("vm1/net0", False)
            await until(lambda: nic.set_to)
            await until(lambda: not lab.entry("vm1/net0").assumed)
            assert lab.entry("vm1/net0").last_change.notified_us is not None
            qemu.deaf.add("set_link")
            lab.set("vm1/net0", True)
            await until(lambda: qemu.unanswered)
            for up in (False, True, False):
                lab.set("vm1/net0", up)
            qemu.answer()
            await until(lambda: nic.set_to == [False, True, False])
            assert not nic.link

    run(main())


def test_up_is_told_to_a_vm_whose_link_was_assumed(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            nic = (await lab.adopted("vm1", PlayedNic("net0", link=False))).nics["net0"]
            lab.set("vm1/net0", True)
            await until(lambda: nic.link)
            await until(lambda: not lab.entry("vm1/net0").assumed)

    run(main())


def test_killed_qemu_gets_its_link_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted("vm1", PlayedNic("net0"), PlayedNic("net1", mac="52:54:00:12:34:57"))
            lab.set("vm1/net0", False)
            await until(lambda: not qemu.nics["net0"].link)
            qemu.kill()
            await until(lambda: not lab.client("vm1/net0").guest.attached)
            entry = lab.entry("vm1/net0")
            assert (entry.link, [hold.kind for hold in entry.holds]) == ("down", ["operator"])
            assert entry.vm is not None
            assert entry.vm.text.startswith("not there: ")
            lab.set("vm1/net1", False)
            lab.set("vm1/net1", True)
            new = await lab.qemu(
                "vm1",
                PlayedNic("net0"),
                PlayedNic("net1", mac="52:54:00:12:34:57"),
                status="prelaunch",
            )
            await until(lambda: not new.nics["net0"].link and new.nics["net1"].set_to == [True])
            assert "cont" not in [name for name, _ in new.log]
            assert lab.entry("vm1/net0").vm == lab.entry("vm1/net0").vm
            await until(lambda: lab.client("vm1/net0").guest.attached)

    run(main())


def test_vm_may_come_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            vm = lab.adopt("vm1")
            await until(lambda: "No such file or directory" in vm.text)
            assert qom.get(lab.network, "vm1", "there") is False
            await lab.qemu("vm1", PlayedNic("net0"))
            await until(lambda: vm.there)
            assert qom.get(lab.network, "vm1", "status") == "QEMU 11.1.3, running"
            assert qom.get(lab.network, "vm1", "nics") == "vm1/net0"

    run(main())


def test_nics_are_plugged_and_unplugged(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted("vm1", PlayedNic("net0"), PlayedNic("net1", mac="52:54:00:12:34:57"))
            qemu.unplug("net1")
            await until(lambda: lab.network.find_nic("vm1/net1") is None)
            assert [each["device"] for each in lab.named("DEVICE_DELETED")] == ["vm1/net1"]
            qemu.nics["net2"] = PlayedNic("net2", mac="52:54:00:12:34:58")
            qemu.emit("ACPI_DEVICE_OST", info={})
            await until(lambda: lab.network.find_nic("vm1/net2") is not None)
            assert lab.client("vm1/net2").guest.attached

    run(main())


def test_netdevs_of_the_vm_hold_its_nics(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            vhost = "vu0: index=0,type=vhost-user,vhost-user0 to c0"
            qemu = await lab.adopted(
                "vm1",
                PlayedNic("net0", netdev=STREAM),
                PlayedNic("net1", mac="52:54:00:12:34:57", netdev=vhost),
                PlayedNic("net2", mac="52:54:00:12:34:58", netdev="st1: index=0,type=stream,"),
            )
            assert lab.client("vm1/net0").link_up
            assert lab.why("vm1/net2") == "stream netdev st1 of the VM is not connected"
            await until(lambda: not qemu.nics["net2"].link)
            qemu.emit("NETDEV_STREAM_DISCONNECTED", netdev_id="st0")
            await until(lambda: not qemu.nics["net0"].link)
            assert lab.why("vm1/net0") == "stream netdev st0 of the VM is not connected"
            qemu.emit("NETDEV_STREAM_CONNECTED", netdev_id="st0", addr={})
            await until(lambda: qemu.nics["net0"].link)
            # QEMU sets the link of a vhost-user NIC by itself, and forgets set_link then.
            lab.set("vm1/net1", False)
            await until(lambda: qemu.nics["net1"].set_to == [False])
            qemu.nics["net1"].link = True
            qemu.emit("NETDEV_VHOST_USER_CONNECTED", netdev_id="vu0", chardev_id="c0")
            await until(lambda: qemu.nics["net1"].set_to == [False, False])
            qemu.emit("NETDEV_VHOST_USER_DISCONNECTED", netdev_id="vu0")
            await until(lambda: HoldKind.DISCONNECTED in lab.client("vm1/net1").holds)

    run(main())


@pytest.mark.parametrize("info", ["", "listening", "connecting", "error: Connection refused"])
def test_stream_without_a_peer_holds_its_nic(tmp_path: Path, info: str) -> None:
    """Also that of a NIC which is plugged in later."""

    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            stream = f"st0: index=0,type=stream,{info}"
            qemu = await lab.adopted("vm1", PlayedNic("net0", netdev=stream))
            assert lab.why("vm1/net0") == "stream netdev st0 of the VM is not connected"
            qemu.nics["net1"] = PlayedNic(
                "net1", mac="52:54:00:12:34:57", netdev=stream.replace("st0", "st1")
            )
            qemu.emit("ACPI_DEVICE_OST", info={})
            await until(lambda: lab.network.find_nic("vm1/net1") is not None)
            assert lab.why("vm1/net1") == "stream netdev st1 of the VM is not connected"

    run(main())


def test_vhost_user_netdev_without_back_end_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.qemu(
                "vm1", PlayedNic("net0", netdev="vu0: index=0,type=vhost-user,vhost-user to c0")
            )
            qemu.chardevs = [{"label": "c0", "filename": "disconnected:unix:vu.sock", "frontend-open": True}]
            lab.adopt("vm1")
            await until(lambda: lab.network.find_nic("vm1/net0") is not None)
            assert lab.why("vm1/net0") == "vhost-user netdev vu0 of the VM is not connected"

    run(main())


def test_refused_set_link_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted("vm1", PlayedNic("net0"))
            qemu.refusals["set_link"] = "no way\n"
            lab.set("vm1/net0", False)
            await until(lambda: lab.trouble("vm1/net0"))
            assert lab.trouble("vm1/net0") == "set_link was refused: no way\N{REPLACEMENT CHARACTER}"
            assert len(caplog.messages) == 1
            assert lab.entry("vm1/net0").last_change.notified_us is None
            qemu.refusals.clear()
            await until(lambda: not qemu.nics["net0"].link)
            await until(lambda: lab.trouble("vm1/net0") is None)

    run(main())


def test_object_del_leaves_the_vm_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.adopted("vm1", PlayedNic("net0"))
            lab.set("vm1/net0", False)
            await until(lambda: qemu.nics["net0"].set_to == [False])
            await until(lambda: not lab.entry("vm1/net0").assumed)
            object_del(lab.context, "vm1")
            assert lab.network.find_nic("vm1/net0") is None
            await until(lambda: not qemu.clients)
            assert qemu.nics["net0"].set_to == [False]
            assert "vm1/net0: the link of net0 stays down in the VM" in caplog.text
            lab.adopt("vm1")
            await until(lambda: lab.network.find_nic("vm1/net0") is not None)

    run(main())


def test_bad_options_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            for path in ("", "x" * 200, "a\0b"):
                with pytest.raises(NetError, match=r"^UNIX socket path"):
                    object_add(lab.context, QemuOptions(id="vm1", qmp=path))
                with pytest.raises(NetError, match=r"^UNIX socket path"):
                    object_add(lab.context, QemuOptions(id="vm1", qmp="a.sock", qga=path))
            lab.adopt("vm1")
            with pytest.raises(NetError, match=r"^attempt to add duplicate property 'vm1'"):
                object_add(lab.context, QemuOptions(id="vm1", qmp="other.sock"))
            with pytest.raises(NetError, match=r"^Parameter 'id' expects an identifier"):
                object_add(lab.context, QemuOptions(id="vm/1", qmp="other.sock"))

    run(main())


@pytest.mark.parametrize("in_turn", [True, False])
def test_monitor_in_use_is_waited_for(tmp_path: Path, in_turn: bool) -> None:
    async def main() -> None:
        async with AdoptLab(tmp_path) as lab:
            qemu = await lab.qemu("vm1", PlayedNic("net0"))
            qemu.greets = False
            vm = lab.adopt("vm1")
            await until(lambda: "another client may use this monitor" in vm.text)
            qemu.greets = True
            if in_turn:
                qemu.greet(qemu.clients[0])
            else:
                qemu.kill()
                await lab.qemu("vm1", PlayedNic("net0"))
            await until(lambda: vm.there)

    run(main())
