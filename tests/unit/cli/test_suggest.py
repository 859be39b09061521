"""Misspelt names: what the command line adds to QEMU's text."""

from __future__ import annotations

import pytest

from vnic.backend import netdev_structs
from vnic.cli.suggest import suggestion
from vnic.filter import object_structs
from vnic.machine.nics import NOT_BUILT, device_structs, unknown_property
from vnic.monitor.schema import (
    convert_to_shape,
    device_options,
    netdev_options,
    object_options,
)
from vnic.monitor.schema.shapes import Union
from vnic.net.errors import NetError
from vnic.protocol import keyval

NETDEV = netdev_options(netdev_structs())
DEVICE = device_options(device_structs(), NOT_BUILT)
OBJECT = object_options(object_structs())


@pytest.mark.parametrize(
    ("shape", "implied", "text", "added"),
    [
        (NETDEV, "type", "hubprot,id=a", " (did you mean 'hubport'?)"),
        (NETDEV, "type", "user,id=a,restirct=on", " (did you mean 'restrict'?)"),
        (NETDEV, "type", "nothing-like-it,id=a", ""),
        (NETDEV, "type", "stream,id=a,addr.type=unxi,addr.path=s", " (did you mean 'unix'?)"),
        (DEVICE, "driver", "virtio-nett", " (did you mean 'virtio-net'?)"),
        (DEVICE, "driver", "virtio-net,nedtev=a", " (did you mean 'netdev'?)"),
        (
            DEVICE,
            "driver",
            "e1000,attach.type=vhost-user,attach.path=s",
            " (e1000 takes only 'vfio-user')",
        ),
        (OBJECT, "qom-type", "filter-dmup,id=a,netdev=n", " (did you mean 'filter-dump'?)"),
        (DEVICE, "driver", "rocker", ""),
    ],
)
def test_misspelt_names_get_suggestions(shape: Union, implied: str, text: str, added: str) -> None:
    tree, _ = keyval.parse(text, implied)
    with pytest.raises(NetError) as refused:
        convert_to_shape(shape, tree, strings=True)
    assert suggestion(refused.value.desc, shape, tree) == added


def test_a_property_that_is_the_vms_has_its_own_hint() -> None:
    desc = unknown_property("virtio-net", "failover").desc
    assert suggestion(desc, DEVICE, {"driver": "virtio-net"}) == ""
