"""Tests of the registry: every type has a tagged Struct, and types that are not built are refused in QEMU's words."""

from __future__ import annotations

import pytest
from msgspec import inspect
from tests.unit.backend.helpers import Lab, run

from vnic.backend import (
    NETDEVS,
    NOT_BUILT,
    netdev_structs,
    netdev_type,
)
from vnic.backend.options import EchoOptions, HubPortOptions
from vnic.net.errors import NetError

QEMU = {
    *(
        "none",
        "nic",
        "user",
        "tap",
        "l2tpv3",
        "socket",
        "stream",
        "dgram",
        "vde",
        "bridge",
        "hubport",
        "netmap",
    ),
    *("vhost-user", "vhost-vdpa", "passt", "af-xdp", "vmnet-host", "vmnet-shared", "vmnet-bridged"),
}
"""NetClientDriver of qapi/net.json."""


def test_qemu_drivers_are_built_or_refused_by_name() -> None:
    assert set(NETDEVS) | NOT_BUILT == {*QEMU, "cable", "echo", "interface", "tunnel"}
    assert not set(NETDEVS) & NOT_BUILT


@pytest.mark.parametrize("name", NETDEVS)
def test_options_are_tagged_structs(name: str) -> None:
    struct = netdev_structs()[name]
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    assert (info.tag_field, info.tag) == ("type", name)
    fields = {field.encode_name: field for field in info.fields}
    assert fields["id"].required
    assert fields["link"].default is True
    assert all(field.encode_name == field.encode_name.lower() for field in info.fields)


def test_unknown_type_is_refused() -> None:
    with pytest.raises(NetError, match=r"^network backend 'vde' is not compiled into this binary$"):
        netdev_type("vde")
    with pytest.raises(NetError, match=r"^Parameter 'type' does not accept value 'bogus'$"):
        netdev_type("bogus")


def test_link_off_sets_operator_hold_and_ids_are_checked() -> None:
    async def main() -> None:
        async with Lab() as lab:
            _, nic, guest = lab.wire(EchoOptions(id="e0", link=False))
            assert lab.why("e0") == "link=off when e0 was created"
            assert not nic.link_up
            lab.network.set_link("e0", True, "test")
            assert guest.link == [True]
            with pytest.raises(NetError, match="Duplicate ID 'e0'"):
                lab.add(HubPortOptions(id="e0", hubid=0))
            with pytest.raises(NetError, match="Parameter 'id' expects an identifier"):
                lab.add(HubPortOptions(id="0e", hubid=0))

    run(main())
