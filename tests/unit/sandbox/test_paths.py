"""Which paths options name, and which of them a client may name with `-sandbox on`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.monitor.conftest import Client

from vnic.backend import netdev_structs
from vnic.chardev.flat import FLAT_CHARDEVS
from vnic.chardev.qapi import CHARDEVS
from vnic.filter import object_structs
from vnic.machine.nics import device_structs
from vnic.monitor.schema import chardev_backend, convert_to_shape
from vnic.monitor.schema.shapes import Array, Member, Object, Union, object_of
from vnic.net.errors import NetError
from vnic.sandbox.paths import BRIDGE_HELPER, PASST, Kind, NamedPaths, Purpose, Use, uses

NAMES_A_PATH = re.compile(
    r"path|file|script|helper|folder|\bdir|netns|param$|smb|tftp|socket|sock$|pipe|log|pcap"
)
KNOWN = {
    *(
        "netdev:addr.path",
        "netdev:local.path",
        "netdev:remote.path",
        "device:attach.path",
        "chardev:addr.path",
    ),
    *("chardev:path", "object:file", "netdev:script", "netdev:downscript", "netdev:helper", "netdev:path"),
    *("netdev:netns", "netdev:key-file", "netdev:param"),
}
WITHOUT_A_FILE = {
    "device:romfile",  # the VM's, taken without effect
    *(
        "netdev:bootfile",
        "netdev:smb",
        "netdev:smbserver",
        "netdev:tftp",
        "netdev:tftp-server-name",
    ),  # refused
}


def _members(members: tuple[Member, ...] | list[Member], prefix: str = "") -> Iterator[str]:
    for member in members:
        name = f"{prefix}{member.name}"
        match member.shape:
            case Union(branches=branches):
                for branch in branches.values():
                    yield from _members(list(branch.members), f"{name}.")
            case Object(members=inner):
                yield from _members(list(inner), f"{name}.")
            case Array():
                yield name
            case _:
                yield name


def test_each_option_that_names_a_path_is_known() -> None:
    tables: dict[str, list[type[msgspec.Struct]]] = {
        "netdev": list(netdev_structs().values()),
        "device": list(device_structs().values()),
        "object": list(object_structs().values()),
        "chardev": [*CHARDEVS.values(), *FLAT_CHARDEVS.values()],
    }
    found = {
        f"{kind}:{name.replace('.data.', '.')}"
        for kind, structs in tables.items()
        for struct in structs
        for name in _members(list(object_of(struct).members))
        if NAMES_A_PATH.search(name)
    }
    assert found == KNOWN | WITHOUT_A_FILE


UNIX = {"type": "unix", "path": "/a/s"}


@pytest.mark.parametrize(
    ("kind", "tree", "found"),
    [
        ("netdev", {"type": "stream", "addr": UNIX}, [Use(Purpose.SOCKET, "addr.path", "/a/s")]),
        ("netdev", {"type": "stream", "addr": {**UNIX, "abstract": "on"}}, []),
        ("netdev", {"type": "stream", "addr": {"type": "inet", "host": "h", "port": "1"}}, []),
        (
            "netdev",
            {"type": "dgram", "local": UNIX, "remote": {"type": "unix", "path": "/b/s"}},
            [Use(Purpose.SOCKET, "local.path", "/a/s"), Use(Purpose.SOCKET, "remote.path", "/b/s")],
        ),
        ("netdev", {"type": "passt"}, [Use(Purpose.PROGRAM, "path", PASST)]),
        ("netdev", {"type": "passt", "path": "/p"}, [Use(Purpose.PROGRAM, "path", "/p")]),
        (
            "netdev",
            {"type": "passt", "param": [{"str": "--log-file=/x"}]},
            [Use(Purpose.PROGRAM, "path", PASST), Use(Purpose.ARGUMENTS, "param", "")],
        ),
        ("netdev", {"type": "user"}, [Use(Purpose.PROGRAM, "type", PASST)]),
        (
            "netdev",
            {"type": "tap", "script": "/up", "downscript": "no"},
            [Use(Purpose.PROGRAM, "script", "/up")],
        ),
        ("netdev", {"type": "bridge"}, [Use(Purpose.PROGRAM, "helper", BRIDGE_HELPER)]),
        ("netdev", {"type": "interface", "netns": "c1"}, [Use(Purpose.NAMESPACE, "netns", "c1")]),
        ("netdev", {"type": "interface", "ifname": "eth0"}, []),
        ("netdev", {"type": "tunnel", "key-file": "/k"}, [Use(Purpose.KEY, "key-file", "/k")]),
        ("device", {"attach": {"path": "/n"}}, [Use(Purpose.SOCKET, "attach.path", "/n")]),
        ("device", {"attach.path": "/n"}, [Use(Purpose.SOCKET, "attach.path", "/n")]),
        ("object", {"qom-type": "filter-dump", "file": "/d"}, [Use(Purpose.FILE, "file", "/d")]),
        ("object", {"qom-type": "netem", "file": "/d"}, []),
        ("object", {"qom-type": "libvirt", "uri": "a:///"}, [Use(Purpose.URI, "uri", "a:///")]),
        ("chardev", {"backend": "socket", "path": "/c"}, [Use(Purpose.SOCKET, "path", "/c")]),
        ("chardev", {"backend": "socket", "path": "c", "abstract": "on"}, []),
        # What is wrong in another way is for its option to refuse.
        ("netdev", {"addr": "x", "type": 3}, []),
        ("device", {"attach": {"path": 3}}, []),
    ],
)
def test_paths_of_an_option(kind: Kind, tree: dict[str, Any], found: list[Use]) -> None:
    assert list(uses(kind, tree)) == found


def named(folder: Path) -> list[Use]:
    return [
        Use(Purpose.SOCKET, "path", str(folder / "nic0.sock")),
        Use(Purpose.FILE, "file", str(folder / "d.pcap")),
        Use(Purpose.KEY, "key-file", str(folder / "key")),
        Use(Purpose.PROGRAM, "script", str(folder / "up")),
    ]


def refused(rule: NamedPaths, kind: Kind, tree: dict[str, Any]) -> str:
    with pytest.raises(NetError) as error:
        rule.check(kind, tree)
    return error.value.desc


def test_client_may_name_sockets_beside_those_of_the_command_line(tmp_path: Path) -> None:
    rule = NamedPaths(named(tmp_path))
    rule.check("device", {"attach": {"path": str(tmp_path / "nic1.sock")}})
    for path in (tmp_path / "deeper" / "s", tmp_path.parent / "s", Path("/etc/s"), tmp_path / ".." / "s"):
        text = refused(rule, "device", {"attach": {"path": str(path)}})
        assert text == (
            f"-sandbox on: Parameter 'attach.path': '{path}' is in no folder where the command line has a socket"
        )


def test_symbolic_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/run/docker.sock")
    (tmp_path / "folder").symlink_to("/etc")
    rule = NamedPaths(named(tmp_path), [str(tmp_path)])
    for name in ("link", "folder/s"):
        refused(rule, "chardev", {"path": str(tmp_path / name)})
    refused(rule, "object", {"qom-type": "filter-dump", "file": str(tmp_path / "folder" / "f")})


def test_client_may_name_only_the_files_and_programs_of_the_command_line(tmp_path: Path) -> None:
    rule = NamedPaths(named(tmp_path))
    for kind, key, tree in (
        ("object", "file", {"qom-type": "filter-dump", "file": str(tmp_path / "d.pcap")}),
        ("netdev", "key-file", {"type": "tunnel", "key-file": str(tmp_path / "key")}),
        ("netdev", "script", {"type": "tap", "script": str(tmp_path / "up")}),
    ):
        rule.check(kind, tree)  # type: ignore[arg-type]
        assert str(tmp_path / "x") in refused(rule, kind, {**tree, key: str(tmp_path / "x")})  # type: ignore[arg-type]
    refused(rule, "netdev", {"type": "passt"})
    refused(rule, "netdev", {"type": "user"})
    refused(rule, "netdev", {"type": "interface", "netns": "c1"})
    refused(rule, "object", {"qom-type": "filter-dump", "file": "d\0"})


def test_client_may_name_only_the_uris_of_the_command_line() -> None:
    """libvirt's `ext` and `ssh` start programs."""
    named = {"qom-type": "libvirt", "id": "a", "uri": "qemu:///system", "domain": "x"}
    rule = NamedPaths(uses("object", named), ["/"])
    rule.check("object", {**named, "domain": "y"})
    assert "'qemu+ext:///x?command=/y'" in refused(
        rule, "object", {**named, "uri": "qemu+ext:///x?command=/y"}
    )


def test_arguments_of_a_program_are_the_command_lines_alone(tmp_path: Path) -> None:
    passt = {"type": "passt", "path": "/p", "param": [{"str": "--log-file=/x"}]}
    rule = NamedPaths(uses("netdev", passt), ["/"])
    assert "arguments are for the command line alone" in refused(rule, "netdev", passt)


def test_folder_of_the_option_allows_sockets_and_files_at_any_depth(tmp_path: Path) -> None:
    rule = NamedPaths([], [str(tmp_path)])
    rule.check("object", {"qom-type": "filter-dump", "file": str(tmp_path / "a" / "b" / "f")})
    rule.check("chardev", {"path": str(tmp_path / "s")})
    refused(rule, "chardev", {"path": f"{tmp_path}-other/s"})
    refused(rule, "netdev", {"type": "tap", "script": str(tmp_path / "up")})


def test_options_of_qmp_are_looked_into() -> None:
    data = {"addr": {"type": "unix", "data": {"path": "/etc/s"}}, "server": True}
    options = convert_to_shape(chardev_backend(CHARDEVS), {"type": "socket", "data": data})
    assert isinstance(options, msgspec.Struct)
    with pytest.raises(NetError, match="/etc/s"):
        NamedPaths([]).check("chardev", options)


def test_no_other_program_takes_the_place_of_a_sandboxed_vnic(client: Client) -> None:
    """The keeper would start it outside of the sandbox."""
    client.machine.paths = NamedPaths([], ["/"])
    assert "the command line names no program '/bin/sh'" in client.error("vnic-upgrade", program="/bin/sh")


def test_each_monitor_command_asks(client: Client) -> None:
    client.machine.paths = NamedPaths([])
    stream = {"type": "stream", "id": "n", "addr": {"type": "unix", "path": "/etc/s"}}
    dump = {"qom-type": "filter-dump", "id": "f", "netdev": "net0", "file": "/etc/f"}
    assert "/etc/s" in client.error("netdev_add", **stream)
    assert "/etc/f" in client.error("object-add", **dump)
    text = client.hmp("object_add filter-dump,id=f,netdev=net0,file=/etc/f")
    assert "/etc/f" in text
    assert "/etc/f" in client.hmp(f"object_add {msgspec.json.encode(dump).decode()}")
    assert "/etc/c" in client.hmp("chardev-add socket,id=c,path=/etc/c,server=on")
    assert [each.name for each in client.machine.network.clients] == ["net0", "nic0"]
