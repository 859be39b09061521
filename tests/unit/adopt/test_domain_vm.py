"""`-object libvirt` with a libvirt that the tests play: links as the domain has them, and as vnic wants them."""

from __future__ import annotations

import pytest
from tests.fakes.fake_libvirt import FakeDomain, FakeLibvirt
from tests.unit.backend.helpers import Lab, run, until

from vnic.adopt.domain import connection, library, visitor, vm
from vnic.adopt.domain.library import LibraryMissing
from vnic.adopt.domain.options import LibvirtOptions
from vnic.filter import object_add, object_del
from vnic.net import qom
from vnic.net.errors import NetError
from vnic.net.records import HoldKind, LinkInfo

URI = "qemu:///fake-vm"


class DomainLab(Lab):
    """A network, and a libvirt with domains."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.libvirt = FakeLibvirt()
        patch.setattr(vm, "load_with_events", lambda: self.libvirt.library)

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        self.libvirt.answers.set()
        await until(lambda: URI not in connection.connections.known())

    def adopt(self, vm_id: str, domain: str) -> None:
        object_add(self.context, LibvirtOptions(id=vm_id, uri=URI, domain=domain))

    async def adopted(self, *down: str, nics: int = 2) -> FakeDomain:
        """A domain whose links `down` are down, adopted as vm1."""
        domain = self.libvirt.add("one", nics)
        for alias in down:
            domain.set_link(alias, "down")
        self.adopt("vm1", "one")
        await until(lambda: self.network.find_nic("vm1/net0"))
        return domain

    def entry(self, name: str) -> LinkInfo:
        [entry] = self.network.query_links(name)
        return entry

    def texts(self, name: str) -> list[str]:
        return [f"{hold.kind}: {hold.text} ({hold.by})" for hold in self.entry(name).holds]

    def status(self) -> object:
        return qom.get(self.network, "/objects/vm1", "status")

    def set(self, name: str, up: bool) -> None:
        self.network.set_link(name, up, "test")


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("AGAIN_S", "LOOK_S"):
        monkeypatch.setattr(visitor, name, 0.01)
    monkeypatch.setattr(visitor, "LOOK_SHARE", 1)
    monkeypatch.setattr(connection, "AGAIN_S", 0.01)
    return monkeypatch


def test_the_first_link_is_the_domains(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted("net1")
            assert [lab.entry(f"vm1/net{n}").link for n in (0, 1)] == ["up", "down"]
            assert [lab.entry(f"vm1/net{n}").assumed for n in (0, 1)] == [False, False]
            assert lab.texts("vm1/net1") == ["operator: the hypervisor has the link down (vm1)"]
            assert domain.updates == []
            assert lab.status() == "QEMU 7.2.22, libvirt 9.0.0, running"

    run(main())


def test_a_link_that_was_down_from_the_start_can_be_set_up(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted("net1")
            lab.set("vm1/net1", True)
            await until(lambda: domain.updates == ["net1 up"])
            assert lab.entry("vm1/net1").link == "up"

    run(main())


def test_another_client_is_an_operator(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted()
            domain.set_link("net0", "down")
            await until(lambda: lab.entry("vm1/net0").link == "down")
            text = "operator: another client of the hypervisor set the link down (vm1)"
            assert lab.texts("vm1/net0") == [text]
            domain.set_link("net0", "up")
            await until(lambda: lab.entry("vm1/net0").link == "up")
            assert domain.updates == []

    run(main())


def test_another_client_does_not_lift_other_holds(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted()
            lab.network.find_nic("vm1/net0").hold(HoldKind.UPLINK, "x", "x is down")  # type: ignore[union-attr]
            await until(lambda: domain.updates == ["net0 down"])
            domain.set_link("net0", "up")
            await until(lambda: domain.updates == ["net0 down", "net0 down"])
            assert lab.texts("vm1/net0") == ["uplink: x is down (x)"]

    run(main())


def test_a_domain_that_starts_anew_has_the_wanted_link(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted()
            lab.set("vm1/net0", False)
            await until(lambda: domain.updates == ["net0 down"])
            domain.stop()
            await until(lambda: lab.status() == "not there: it is shut off")
            domain.set_link("net0", "up")
            domain.start()
            await until(lambda: domain.updates == ["net0 down", "net0 down"])
            assert lab.entry("vm1/net0").link == "down"

    run(main())


def test_a_link_that_vnic_was_never_asked_for_stays_the_domains(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted("net1")
            domain.stop()
            await until(lambda: lab.status() == "not there: it is shut off")
            for alias, link in (("net0", "down"), ("net1", "up")):
                domain.set_link(alias, link)
            domain.start()
            await until(lambda: [lab.entry(f"vm1/net{n}").link for n in (0, 1)] == ["down", "up"])
            assert domain.updates == []

    run(main())


def test_what_is_wanted_while_libvirt_is_away_is_done_later(patch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted()
            lab.libvirt.die()
            await until(lambda: lab.status() == "not there: Failed to connect socket")
            lab.set("vm1/net0", False)
            lab.libvirt.refuses = None
            await until(lambda: domain.updates == ["net0 down"])

    run(main())


def test_a_hundred_domains_take_one_connection_and_one_call_for_each_change(
    patch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            patch.setattr(visitor, "LOOK_S", 60.0)
            domains = [lab.libvirt.add(f"d{n}", 1) for n in range(100)]
            for n in range(100):
                lab.adopt(f"vm{n}", f"d{n}")
            await until(lambda: all(lab.network.find_nic(f"vm{n}/net0") for n in range(100)))
            for n in range(100):
                lab.set(f"vm{n}/net0", False)
            await until(lambda: all(domain.updates for domain in domains))
            assert all(domain.updates == ["net0 down"] for domain in domains)
            assert lab.libvirt.opened == 1

    run(main())


def test_a_released_domain_keeps_its_link(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            domain = await lab.adopted("net1")
            lab.set("vm1/net0", False)
            await until(lambda: domain.updates)
            object_del(lab.context, "vm1")
            assert lab.network.find_nic("vm1/net0") is None
            await until(lambda: URI not in connection.connections.known())
            assert domain.updates == ["net0 down"]

    run(main())
    assert caplog.messages == ["vm1/net0: the link of net0 stays down in the VM"]  # net1 was down before


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        (LibvirtOptions(id="a", domain=""), "domain"),
        (LibvirtOptions(id="a", domain="x\0"), "domain"),
        (LibvirtOptions(id="a", domain="x", uri=""), "uri"),
        (LibvirtOptions(id="a", domain="x", uri="x" * 1025), "uri"),
    ],
)
def test_options_that_cannot_be_are_refused(
    patch: pytest.MonkeyPatch, options: LibvirtOptions, parameter: str
) -> None:
    async def main() -> None:
        async with DomainLab(patch) as lab:
            with pytest.raises(NetError, match=f"Parameter '{parameter}' expects"):
                object_add(lab.context, options)

    run(main())


def test_without_libvirt_python_the_object_is_refused(patch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise LibraryMissing(library.MISSING)

    async def main() -> None:
        async with DomainLab(patch) as lab:
            patch.setattr(vm, "load_with_events", load)
            with pytest.raises(NetError, match=r"pip install 'vnic\[libvirt\]'"):
                lab.adopt("vm1", "one")

    run(main())
