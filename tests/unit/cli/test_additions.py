"""Option strings as the JSON that QMP wants: typed, and only what was given."""

from __future__ import annotations

import pytest

from vnic.cli.additions import to_json
from vnic.cli.client import Refused


def test_netdev_string_becomes_typed_json() -> None:
    text = "stream,id=net0,server=on,addr.type=unix,addr.path=/run/a,,b"
    assert to_json(text, "type") == {
        "type": "stream",
        "id": "net0",
        "server": True,
        "addr": {"type": "unix", "path": "/run/a,b"},
    }
    numbers = to_json("stream,id=n,reconnect-ms=0x10,addr.type=inet,addr.host=h,addr.port=1", "type")
    assert numbers["reconnect-ms"] == 16


def test_a_list_of_a_repeated_key() -> None:
    assert to_json("user,id=u,hostfwd=a,hostfwd=b", "type")["hostfwd"] == [{"str": "a"}, {"str": "b"}]
    assert to_json("user,id=u,hostfwd=a", "type")["hostfwd"] == [{"str": "a"}]


def test_the_short_form_of_an_ipv6_network() -> None:
    named = {"type": "user", "id": "u", "ipv6-prefix": "fd00::"}
    assert to_json("user,id=u,ipv6-net=fd00::/56", "type") == {**named, "ipv6-prefixlen": 56}
    assert to_json("user,id=u,ipv6-net=fd00::", "type") == {**named, "ipv6-prefixlen": 64}
    for length in ("", "x"):
        with pytest.raises(Refused, match="parameter 'ipv6-net' expects a number after '/'"):
            to_json(f"user,id=u,ipv6-net=fd00::/{length}", "type")
    with pytest.raises(Refused, match="Parameter 'ipv6-net' is unexpected"):
        to_json("hubport,id=u,hubid=1,ipv6-net=fd00::", "type")


def test_device_string_becomes_typed_json() -> None:
    text = "virtio-net,id=nic0,attach.type=vhost-user,attach.path=x,attach.server=off,link=off,host_mtu=9000"
    assert to_json(text, "driver") == {
        "driver": "virtio-net",
        "id": "nic0",
        "attach": {"type": "vhost-user", "path": "x", "server": False},
        "link": False,
        "host_mtu": 9000,
    }


def test_json_is_sent_unchanged() -> None:
    assert to_json('{"type": "x", "y": 1}', "type") == {"type": "x", "y": 1}
    assert to_json("{'type': 'x'}", "type") == {"type": "x"}


@pytest.mark.parametrize(
    ("text", "implied", "desc"),
    [
        ("bogus,id=a", "type", "Parameter 'type' does not accept value 'bogus'"),
        ("echo", "type", "Parameter 'id' is missing"),
        ("stream,id=a,server", "type", "Expected '=' after parameter 'server'"),
        ("echo,id=a,b..c=1", "type", "Invalid parameter 'b..c'"),
        ("virtio-net,foo=1", "driver", "Property 'virtio-net.foo' not found"),
        ("usb-net", "driver", "'usb-net' is not built into vnic"),
        ("{", "type", "1:2: JSON parse error, premature end of input"),
        ('{"a": \udcff}', "type", "1:7: JSON parse error, stray "),
        ("", "type", "Parameter 'id' is missing"),
        ("", "driver", "Parameter 'driver' is missing"),
    ],
)
def test_wrong_strings_are_refused(text: str, implied: str, desc: str) -> None:
    with pytest.raises(Refused) as refused:
        to_json(text, implied)
    assert str(refused.value).startswith(desc)
