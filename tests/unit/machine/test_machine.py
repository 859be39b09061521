"""The machine: what is created is served, what fails leaves nothing, and what ends does so in order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec
import pytest
from tests.fakes.events import as_sent

from vnic.backend import netdev_structs
from vnic.machine import Machine
from vnic.machine.builder import PluggedNic
from vnic.machine.nics import device_structs
from vnic.monitor.interfaces import RunState, ShutdownCause
from vnic.monitor.schema import (
    convert_to_shape,
    device_options,
    netdev_options,
    object_options,
)
from vnic.net.client import Endpoint
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.fault_info import FaultShape, FaultWords
from vnic.net.filters import Direction
from vnic.net.names import default_mac
from vnic.net.netem.words import NetemWords
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net import features as f

NO_X = "Failed to bind socket to /no/x: No such file or directory"

Told = list[tuple[str, dict[str, object]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def sockets_in(folder: Path) -> list[str]:
    """The names in a folder, without the locks beside them."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def live(
    scenario: Callable[[Machine], Awaitable[None]], *, paused: bool = False, inherited: Collection[int] = ()
) -> Told:
    """Run a scenario on a machine, close that, and return all events."""
    told: Told = []

    async def main() -> None:
        machine = Machine(asyncio.get_running_loop(), "test", paused=paused, inherited=inherited)
        machine.network.subscribe(lambda name, data: told.append((name, as_sent(data))))
        try:
            await scenario(machine)
        finally:
            await machine.close()

    asyncio.run(main())
    return told


def deleted(told: Told) -> Told:
    """The DEVICE_DELETED events, without those of the link of a NIC that goes."""
    return [each for each in told if each[0] == "DEVICE_DELETED"]


def netdev(**options: object) -> msgspec.Struct:
    struct = convert_to_shape(netdev_options(netdev_structs()), options)
    assert isinstance(struct, msgspec.Struct)
    return struct


def nic(
    folder: Path, name: object = "nic0", driver: object = "virtio-net", **options: object
) -> msgspec.Struct:
    kind = "vhost-user" if driver == "virtio-net" else "vfio-user"
    attach = {"type": kind, "path": str(folder / f"{name}.sock")}
    given = {"driver": driver, "attach": attach, **({"id": name} if name else {}), **options}
    struct = convert_to_shape(device_options(device_structs()), given)
    assert isinstance(struct, msgspec.Struct)
    return struct


def names(machine: Machine) -> list[str]:
    return [client.name for client in machine.network.clients]


def test_machine_lists_what_it_can_create(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        assert machine.name == "test"
        assert set(machine.netdev_types) >= {"echo", "stream", "hubport"}
        assert set(machine.device_types) >= {
            *("virtio-net", "virtio-net-pci"),
            *("e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em"),
            "pcnet",
        }
        assert set(machine.chardev_types) == {"socket", "stdio", "null"}

    live(scenario)


@pytest.mark.parametrize("driver", ["virtio-net", "e1000", "e1000-82545em", "pcnet"])
def test_nic_is_served_until_it_is_deleted(folder: Path, driver: str) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder, driver=driver))
        assert sockets_in(folder) == ["nic0.sock"]
        machine.device_del("nic0", "test")
        await asyncio.sleep(0.01)
        assert os.listdir(folder) == []
        assert names(machine) == []
        machine.device_add(nic(folder, driver=driver))

    told = live(scenario)
    assert [name for name, _ in told] == ["LINK_HOLDS_CHANGED", "DEVICE_DELETED"]
    assert told[-1] == ("DEVICE_DELETED", {"device": "nic0", "path": "/machine/peripheral/nic0"})
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("options", "desc"),
    [
        ({"netdev": "zz"}, "Property 'virtio-net-device.netdev' can't find value 'zz'"),
        ({"mac": "52:54"}, "Property 'virtio-net-device.mac' doesn't take value '52:54'"),
        ({"duplex": "both"}, "'duplex' must be 'half' or 'full'"),
        ({"mtu": 1500, "host_mtu": 9000}, "Parameters 'mtu' and 'host_mtu' are the same thing and differ"),
        ({"rx_queue_size": 300}, "Invalid rx_queue_size (= 300), must be a power of 2 between 256 and 1024."),
        ({"tx_queue_size": 2048}, "Invalid tx_queue_size (= 2048), must be a power of 2 between 256 and 1024."),
        ({"vectors": 3}, "Property 'virtio-net.vectors' is the VM's affair with attach.type=vhost-user"),
        ({"msix": False}, "Property 'virtio-net.msix' is the VM's affair with attach.type=vhost-user"),
        ({"attach": {"type": "vhost-user", "path": "/no/x"}}, NO_X),
        ({"attach": {"type": "vhost-user", "path": ""}}, "UNIX socket path is empty"),
        (
            {"attach": {"type": "vfio-user", "path": "x", "server": False}},
            "Parameter 'attach.server' has to be on: a vfio-user device listens, the VM connects",
        ),
        ({"id": "0x"}, "Invalid qdev ID '0x'"),
    ],
)  # fmt: skip
def test_refused_nic_leaves_nothing(folder: Path, options: dict[str, object], desc: str) -> None:
    async def scenario(machine: Machine) -> None:
        with pytest.raises(NetError) as refused:
            machine.device_add(nic(folder, **options))
        assert refused.value.desc == desc
        assert names(machine) == []
        assert os.listdir(folder) == []

    assert live(scenario) == []


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"disable-legacy": "on", "disable-modern": False}, None),
        ({"disable-legacy": "auto"}, None),
        ({"disable-legacy": "off"}, "disable-legacy"),
        ({"disable-legacy": "on", "disable-modern": "on"}, "disable-modern"),
    ],
)
def test_a_card_that_is_not_modern_is_refused_by_name(
    folder: Path, options: dict[str, object], key: str | None
) -> None:
    """QEMU's properties may stand in a command line that is moved over, as long as they ask for what there is."""

    async def scenario(machine: Machine) -> None:
        card = nic(folder, driver="virtio-net-pci", **options)
        if key is None:
            machine.device_add(card)
            return
        with pytest.raises(NetError) as refused:
            machine.device_add(card)
        assert refused.value.desc == (
            f"Property 'virtio-net-pci.{key}': legacy and transitional devices are not built into vnic"
        )
        assert names(machine) == []

    live(scenario)


def test_features_are_switched_by_qemu_s_properties(folder: Path) -> None:
    """As DPDK's and Open vSwitch's instructions have them."""
    how_to = dict.fromkeys(("csum", "gso", "guest_tso4", "guest_tso6", "guest_ecn", "mrg_rxbuf"), "off")

    async def scenario(machine: Machine) -> None:
        for driver in ("virtio-net", "virtio-net-pci"):
            machine.device_add(nic(folder, driver, driver, **how_to))
            device = next(each.endpoint for each in machine.network.nics if each.name == driver)
            assert isinstance(device, VirtioNet)
            assert not device.offer_features() & (f.CSUM | f.GUEST_TSO4 | f.MRG_RXBUF)
            assert device.offer_features() & f.STATUS

    live(scenario)


@pytest.mark.parametrize("name", ["gso", "packed", "rss", "host_ufo", "iommu_platform"])
def test_a_feature_that_is_not_built_is_refused_by_name(folder: Path, name: str) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder, "off", "virtio-net-pci", **{name: False}))
        with pytest.raises(NetError) as refused:
            machine.device_add(nic(folder, "on", "virtio-net-pci", **{name: True}))
        assert refused.value.desc == (
            f"Property 'virtio-net-pci.{name}': vnic does not have this feature, so that it has to be off"
        )

    live(scenario)


def test_a_nic_without_a_socket_is_told_how_to_get_one(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        for driver, kind in (
            ("virtio-net", "vhost-user"),
            ("virtio-net-pci", "vfio-user"),
            ("e1000", "vfio-user"),
        ):
            options = convert_to_shape(device_options(device_structs()), {"driver": driver})
            assert isinstance(options, msgspec.Struct)
            with pytest.raises(NetError, match=f"as attach.type={kind},attach.path=nic0.sock"):
                machine.device_add(options)

    live(scenario)


def test_ids_are_unique_among_nics_and_a_freed_one_is_free(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder))
        with pytest.raises(NetError, match="Duplicate device ID 'nic0'"):
            machine.device_add(nic(folder))
        assert sockets_in(folder) == ["nic0.sock"], "the first one's socket is untouched"
        machine.netdev_add(netdev(type="echo", id="nic0"))  # QEMU allows a netdev of the same name
        with pytest.raises(DeviceNotFound):
            machine.device_del("nic1", "test")
        machine.device_del("nic0", "test")
        await asyncio.sleep(0.01)
        machine.device_add(nic(folder))

    live(scenario)


def test_faults_end_with_their_nic(folder: Path) -> None:
    """Impairments are the netdev's, and stay."""

    async def scenario(machine: Machine) -> None:
        machine.netdev_add(netdev(type="echo", id="net0"))
        machine.device_add(nic(folder, netdev="net0"))
        machine.link_impair("nic0", Direction.TX, NetemWords(delay="1ms"), "test", clear=False)
        machine.link_fault("nic0", FaultShape.DEAD, FaultWords(), "test")
        machine.link_fault("nic0", FaultShape.SLOW_UP, FaultWords(delay_ms=5), "test")
        assert [each.shape for each in machine.faults(None)] == ["dead", "slow-up"]
        machine.device_del("nic0", "test")
        await asyncio.sleep(0.01)
        assert machine.faults(None) == []
        found = machine.impairments(None)
        assert isinstance(found, list)
        assert [each.id for each in found] == ["nic0-netem-tx"]

    live(scenario)


def test_nics_without_an_id_are_numbered(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        for number in range(2):
            path = {"type": "vhost-user", "path": str(folder / str(number))}
            machine.device_add(nic(folder, None, attach=path))
        assert names(machine) == ["virtio-net.0", "virtio-net.1"]
        machine.device_del("virtio-net.0", "test")
        machine.device_del("/machine/peripheral-anon/virtio-net.1", "test")
        await asyncio.sleep(0.01)

    assert deleted(live(scenario)) == [
        ("DEVICE_DELETED", {"device": name, "path": f"/machine/peripheral-anon/{name}"})
        for name in ("virtio-net.0", "virtio-net.1")
    ]


def test_default_macs_fill_the_gaps(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder, "a"))
        machine.device_add(nic(folder, "b", mac="52:54:00:12:34:57"))
        machine.device_add(nic(folder, "c"))
        assert [each.mac[-1] for each in machine.network.nics] == [0x56, 0x57, 0x58]
        machine.device_del("a", "test")
        await asyncio.sleep(0.01)
        machine.device_add(nic(folder, "d"))
        assert [each.mac[-1] for each in machine.network.nics] == [0x57, 0x58, 0x56]

    live(scenario)


def test_default_macs_go_on_where_qemu_repeats_the_last() -> None:
    assert default_mac(0) == bytes.fromhex("525400123456")
    assert default_mac(168) == bytes.fromhex("5254001234fe"), "QEMU's last that is the NIC's own"
    assert default_mac(169) == bytes.fromhex("5254001234ff")
    assert default_mac(170) == bytes.fromhex("525400123500")
    assert len({default_mac(index) for index in range(70000)}) == 70000


def test_the_hubs_are_in_info_network(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.netdev_add(netdev(type="hubport", id="h0", hubid=1))
        assert "".join(machine.topology().info_network()) == "hub 1\n \\ h0\n"

    live(scenario)


def test_filter_is_added_and_deleted(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        given = {"qom-type": "filter-dump", "id": "d0", "netdev": "net0", "file": str(folder / "dump")}
        options = convert_to_shape(object_options(machine.object_types), given)
        assert isinstance(options, msgspec.Struct)
        with pytest.raises(NetError, match="Parameter 'netdev' expects a network backend id"):
            machine.object_add(options)
        machine.netdev_add(netdev(type="echo", id="net0"))
        machine.object_add(options)
        assert "d0: type=filter-dump" in "".join(machine.topology().info_network())
        machine.object_del("d0", "test")
        assert "d0" not in "".join(machine.topology().info_network())
        with pytest.raises(NetError, match="object 'd0' not found"):
            machine.object_del("d0", "test")
        machine.object_add(options)

    live(scenario)


# -- run state --------------------------------------------------------------------------------------------------------


def test_paused_machine_serves_no_client_before_cont(folder: Path) -> None:
    states: list[RunState] = []

    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder))
        states.append(machine.runstate)
        assert os.listdir(folder) == []
        machine.cont()
        machine.cont()
        states.append(machine.runstate)
        assert sockets_in(folder) == ["nic0.sock"]
        machine.stop()
        machine.stop()
        machine.device_add(nic(folder, "nic1"))
        assert sockets_in(folder) == ["nic0.sock"]
        machine.cont()
        assert sockets_in(folder) == ["nic0.sock", "nic1.sock"]

    assert [name for name, _ in live(scenario, paused=True)] == ["RESUME", "STOP", "RESUME"]
    assert states == [RunState.PRELAUNCH, RunState.RUNNING]


def test_cont_serves_each_nic_whose_socket_opens(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder, "bad", attach={"type": "vhost-user", "path": "/no/x"}))
        machine.device_add(nic(folder))
        with pytest.raises(NetError, match="bad: Failed to bind socket to /no/x"):
            machine.cont()
        assert sockets_in(folder) == ["nic0.sock"]

    live(scenario, paused=True)


def test_quit_emits_one_event_and_ends_a_turn_later() -> None:
    async def scenario(machine: Machine) -> None:
        waiting = asyncio.ensure_future(machine.wait_quit())
        machine.quit(ShutdownCause.HOST_QMP_QUIT)
        machine.quit(ShutdownCause.HOST_SIGNAL)
        assert not waiting.done()
        await waiting
        assert machine.runstate is RunState.SHUTDOWN

    assert live(scenario) == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]


# -- the end ----------------------------------------------------------------------------------------------------------


class SlowAttachment:
    """Takes its time to let its VM go; records when it was asked."""

    def __init__(
        self, log: list[str], machine: Machine, seconds: float | None, asked: asyncio.Event | None = None
    ) -> None:
        self.asked = asked or asyncio.Event()
        self.log = log
        self.machine = machine
        self.seconds = seconds

    device_handles = None

    def start(self) -> None:
        self.log.append("start")

    def restore(self) -> bool:
        return False

    def drop_vm(self) -> None: ...

    def go_on(self) -> None: ...

    def guest_memory(self) -> None:
        return None

    def check_memory(self) -> None:
        pass

    def close(self, done: Callable[[], None] | None = None) -> None:
        self.asked.set()
        self.log.append(f"close with {', '.join(names(self.machine))}")
        if done is not None and self.seconds is not None:
            asyncio.get_running_loop().call_later(self.seconds, done)


def put_slow(machine: Machine, log: list[str], seconds: float | None) -> PluggedNic:
    """Replace the attachment of nic0."""
    plugged = machine.plugged("nic0")
    plugged.attachment.close()
    plugged.attachment = SlowAttachment(log, machine, seconds)
    return plugged


def test_back_ends_end_first_then_vms_are_let_go_then_nics(folder: Path) -> None:
    log: list[str] = []

    async def scenario(machine: Machine) -> None:
        machine.netdev_add(netdev(type="echo", id="net0"))
        machine.device_add(nic(folder, netdev="net0"))
        put_slow(machine, log, 0.01)
        await machine.close()
        assert names(machine) == []

    told = live(scenario)
    assert log[0] == "close with nic0", "the netdev was gone, the NIC still there"
    (change,) = told
    assert change[0] == "LINK_CHANGED"
    assert (change[1]["name"], change[1]["link"]) == ("nic0", "down")


def test_unresponsive_vm_does_not_delay_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vnic.machine.core.CLOSE_TIMEOUT_S", 0.05)

    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder))
        put_slow(machine, [], None)

    live(scenario)
    assert caplog.messages == ["ending without waiting for the VM of nic0"]


def test_machine_ends_while_a_nic_is_leaving(folder: Path) -> None:
    log: list[str] = []

    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder))
        put_slow(machine, log, 0.02)
        machine.device_del("nic0", "test")
        with pytest.raises(NetError, match="Device nic0 is already in the process of unplug"):
            machine.device_del("nic0", "test")

    assert len(deleted(live(scenario))) <= 1


@pytest.mark.parametrize("name", ["nic0", "net0"])
def test_set_link_does_not_bring_up_a_leaving_nic(folder: Path, name: str) -> None:
    async def scenario(machine: Machine) -> None:
        machine.netdev_add(netdev(type="echo", id="net0"))
        machine.device_add(nic(folder, netdev="net0"))
        put_slow(machine, [], 0.01)
        machine.device_del("nic0", "test")
        machine.network.set_link(name, False, "test")
        machine.network.set_link(name, True, "test")
        up, down = machine.network.query_links()
        assert (up.name, up.link, down.name, down.link) == ("net0", "up", "nic0", "down")

    live(scenario)


@pytest.mark.parametrize("sees", [True, False])
def test_guest_has_time_to_see_its_link_go_down(
    folder: Path, sees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    grace_s = 3600 if sees else 0.05  # it has to be let go because it saw; or because it did not
    monkeypatch.setattr("vnic.machine.nic_table.GRACE_S", grace_s)

    async def scenario(machine: Machine) -> None:
        machine.netdev_add(netdev(type="echo", id="net0"))
        machine.device_add(nic(folder, netdev="net0"))
        plugged = put_slow(machine, log, 0)
        client, closed = plugged.nic, asyncio.Event()
        plugged.attachment = SlowAttachment(log, machine, 0, closed)
        client.report.guest_attached()
        client.report.driver_ok(True)
        client.report.seen(True)
        started = asyncio.get_running_loop().time()
        machine.device_del("nic0", "test")
        assert log == [], "not let go at once"
        if sees:
            client.report.seen(False)
        await closed.wait()
        assert sees or asyncio.get_running_loop().time() - started >= grace_s * 0.9

    live(scenario)


@pytest.mark.parametrize("inherited", [False, True])
def test_only_inherited_descriptors_can_be_named(inherited: bool) -> None:
    """One that the machine opened itself, the loop's own at worst, would be torn out of its hands."""
    ours, theirs = socket.socketpair()

    async def scenario(machine: Machine) -> None:
        addr = {"type": "fd", "str": str(ours.fileno())}
        if inherited:
            machine.netdev_add(netdev(type="stream", id="net0", addr=addr))
            assert ours.detach()
        with pytest.raises(NetError, match="has not been found"):
            machine.netdev_add(netdev(type="stream", id="net1", addr=addr))

    live(scenario, inherited={ours.fileno()} if inherited else ())
    ours.close()
    theirs.close()


def test_place_in_the_vm_is_taken_with_a_note(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder, bus="pcie.0", addr="0x3", bootindex=1, romfile=""))

    live(scenario)
    assert (
        "nic0: bus=, addr=, romfile=, bootindex= without effect: the VM's own -device takes them"
        in caplog.text
    )


def test_query_pci_lists_functions_in_their_slots(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.device_add(nic(folder, "v"))
        machine.device_add(nic(folder, "e", driver="e1000", addr="0x0.0"))
        machine.device_add(nic(folder, "p", driver="virtio-net-pci"))
        (bus,) = machine.pci_info()
        assert [(each.qdev_id, each.slot) for each in bus.devices] == [("e", 0), ("p", 1)]
        e1000, virtio = bus.devices
        assert (e1000.id.vendor, e1000.id.device, e1000.class_info.class_) == (0x8086, 0x100E, 0x0200)
        assert (virtio.id.vendor, virtio.id.device) == (0x1AF4, 0x1041)
        assert [(each.bar, each.type, each.address, each.size) for each in e1000.regions] == [
            (0, "memory", -1, 0x20000),
            (1, "io", -1, 0x40),
        ]
        assert all(region.mem_type_64 for region in virtio.regions if region.bar == 4)
        with pytest.raises(NetError, match=r"Property 'e1000\.addr' doesn't take value '0x20'"):
            machine.device_add(nic(folder, "x", driver="e1000", addr="0x20"))

    live(scenario)


def test_queue_pairs_that_vhost_user_cannot_number_are_refused(folder: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.network.add_netdev("net0", "tap", Endpoint(), queues=128)
        with pytest.raises(NetError, match="at most 127 queue pairs, not 128"):
            machine.device_add(nic(folder, netdev="net0", mq=True))
        assert names(machine) == ["net0"]

    live(scenario)
