"""Tests of chardevs: the command line's form and QAPI's, their errors, and query-chardev."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vnic.chardev.options import NullOptions, SocketOptions, StdioOptions
from vnic.chardev.qapi import ChardevInfo, NullChardev, SocketChardev
from vnic.chardev.socket import fd_passing_options
from vnic.chardev.table import Chardevs
from vnic.monitor.schema import convert
from vnic.monitor.schema import parse_flat_chardev as parse_flat
from vnic.net.errors import NetError
from vnic.sockets.address import UnixAddress


def test_command_line_form() -> None:
    options = parse_flat({"backend": "socket", "id": "c0", "path": "/run/x", "server": "on", "wait": "off"})
    assert isinstance(options, SocketOptions)
    assert options == SocketOptions(id="c0", addr=UnixAddress(path="/run/x"), server=True, wait=False)
    assert isinstance(parse_flat({"backend": "stdio", "id": "c1"}), StdioOptions)
    assert isinstance(parse_flat({"backend": "null", "id": "c2"}), NullOptions)


@pytest.mark.parametrize(
    ("tree", "desc"),
    [
        ({"backend": "bogus", "id": "x"}, "'bogus' is not a valid char driver name"),
        ({"backend": "socket", "path": "x"}, "chardev: no id specified"),
        ({"id": "x"}, 'chardev: "x" missing backend'),
        ({"backend": "socket", "id": "x", "foo": "1"}, "Invalid parameter 'foo'"),
        ({"backend": "socket", "id": "x", "server": "maybe"}, "Parameter 'server' expects 'on' or 'off'"),
    ],
)
def test_bad_options_are_refused_with_qemus_texts(tree: dict[str, object], desc: str) -> None:
    with pytest.raises(NetError) as refused:
        parse_flat(tree)
    assert refused.value.desc == desc


@pytest.mark.parametrize(
    ("addr", "filename"),
    [
        ({"type": "unix", "data": {"path": "/run/x"}}, "unix:/run/x,server=on"),
        ({"type": "inet", "data": {"host": "127.0.0.1", "port": "5"}}, "tcp:127.0.0.1:5,server=on"),
        ({"type": "inet", "data": {"host": "::1", "port": "5"}}, "tcp:::1:5,server=on"),
        (
            {"type": "unix", "data": {"path": "x", "abstract": True}},
            "unix:x,abstract=on,tight=on,server=on",
        ),
        ({"type": "fd", "data": {"str": "7"}}, "fd:7,server=on"),
    ],
)
def test_qapi_form(addr: dict[str, object], filename: str) -> None:
    chardevs = Chardevs()
    chardev = chardevs.add(convert(SocketChardev, {"addr": addr}).options("c0"))
    assert chardevs.info() == [ChardevInfo("c0", f"disconnected:{filename}", False)]
    chardev.claim("a monitor")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        chardev.set_connected(ours)
    connected = "unix:,server=on" if filename.startswith("fd:") else filename
    assert chardevs.info() == [ChardevInfo("c0", connected, True)]
    chardev.set_connected(None)
    assert chardevs.info() == [ChardevInfo("c0", f"disconnected:{filename}", True)]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param("127.0.0.1", "127.0.0.1", marks=pytest.mark.needs("loopback")),
        pytest.param("::1", "[::1]", marks=pytest.mark.needs("ipv6")),
    ],
)
def test_tcp_connection_shows_both_ends(host: str, name: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection((host, port)) as calling, listening.accept()[0] as called:
            caller = calling.getsockname()[1]
            for server, sock, ends in (("on", called, (port, caller)), ("off", calling, (caller, port))):
                chardevs = Chardevs()
                flat: dict[str, object] = {
                    "backend": "socket",
                    "id": "c0",
                    "host": "x",
                    "port": "5",
                    "server": server,
                }
                chardevs.add(parse_flat(flat)).set_connected(sock)
                on = ",server=on" if server == "on" else ""
                assert chardevs.info()[0].filename == f"tcp:{name}:{ends[0]}{on} <-> {name}:{ends[1]}"


def test_second_user_is_refused() -> None:
    chardevs = Chardevs()
    chardev = chardevs.add(parse_flat({"backend": "socket", "id": "c0", "path": "x"}))
    chardev.claim("net0")
    with pytest.raises(NetError, match="chardev 'c0' is already in use"):
        chardev.claim("net1")
    with pytest.raises(NetError, match="Chardev 'c0' is busy"):
        chardevs.remove("c0")
    chardev.release()
    chardevs.remove("c0")
    with pytest.raises(NetError, match="Chardev 'c0' not found"):
        chardevs.remove("c0")
    with pytest.raises(NetError, match='chardev "c0" not found'):
        chardevs.find("c0")


def test_label_is_a_unique_identifier() -> None:
    chardevs = Chardevs()
    chardevs.add(NullOptions(id="c0"))
    with pytest.raises(NetError, match="Chardev with id 'c0' already exists"):
        chardevs.add(NullOptions(id="c0"))
    with pytest.raises(NetError, match="Parameter 'id' expects an identifier"):
        chardevs.add(NullOptions(id="0"))
    assert chardevs.add_qapi("0", NullChardev()).label == "0", "QMP's need not be"
    with pytest.raises(NetError, match="Chardev with id '0' already exists"):
        chardevs.add_qapi("0", NullChardev())


def test_server_listens_as_long_as_it_exists(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    chardevs = Chardevs()
    chardevs.add_qapi("c0", convert(SocketChardev, {"addr": {"type": "unix", "data": {"path": path}}}))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
    with pytest.raises(NetError, match=r"^Failed to add chardev 'c1': Failed to bind socket to .*/s: "):
        chardevs.add_qapi("c1", convert(SocketChardev, {"addr": {"type": "unix", "data": {"path": path}}}))
    assert [each.label for each in chardevs] == ["c0"]
    chardevs.remove("c0")
    assert not os.path.exists(path)


@pytest.mark.needs("loopback")
def test_query_chardev_shows_port_chosen_by_kernel() -> None:
    chardevs = Chardevs()
    options = parse_flat(
        {"backend": "socket", "id": "c0", "host": "", "port": "0", "server": "on", "ipv4": "on"}
    )
    chardevs.add(options, listens=True)
    (info,) = chardevs.info()
    host, port = info.filename.removeprefix("disconnected:tcp:").removesuffix(",server=on").split(":")
    assert (host, int(port) > 0) == ("0.0.0.0", True)
    socket.create_connection(("127.0.0.1", int(port))).close()
    chardevs.close()


def test_name_lookup_does_not_block() -> None:
    chardevs = Chardevs()
    flat = {"backend": "socket", "id": "c0", "host": "no.such.host.invalid", "port": "5", "server": "on"}
    assert chardevs.add(parse_flat(dict(flat)), listens=True).listener is None


def test_chardev_add_error_names_chardev() -> None:
    far_off = {"addr": {"type": "unix", "data": {"path": "x" * 108}}}
    with pytest.raises(NetError, match=r"Failed to add chardev 'c0': UNIX socket path 'x+' is too long"):
        Chardevs().add_qapi("c0", convert(SocketChardev, far_off))


def test_second_stdio_is_refused() -> None:
    chardevs = Chardevs()
    chardevs.add(StdioOptions(id="c0"))
    with pytest.raises(NetError, match="cannot use stdio by multiple character devices"):
        chardevs.add(StdioOptions(id="c1"))


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"path": "x", "host": "y", "port": "1"}, "None or one of 'path', 'fd' or 'host' option required."),
        ({"path": "x" * 108}, "is too long"),
        ({"path": ""}, "UNIX socket path is empty"),
        ({"fd": "7", "reconnect-ms": "5"}, "'reconnect-ms' option is incompatible with 'fd' address type"),
        ({"fd": "7", "telnet": "on"}, "'telnet' option is incompatible with 'fd' address type"),
        ({}, "is needed"),
        ({"path": "x", "server": "on", "reconnect-ms": "5"}, "'reconnect-ms' option is incompatible"),
    ],
)
def test_contradicting_options_are_refused(tree: dict[str, object], text: str) -> None:
    with pytest.raises(NetError, match=text):
        Chardevs().add(parse_flat({"backend": "socket", "id": "c0", **tree}))


@pytest.mark.needs("loopback")
def test_next_port_of_range_is_used() -> None:
    ports = consecutive_ports()
    chardevs = Chardevs()
    for label, port in zip(("c0", "c1"), ports, strict=True):
        inet = {"host": "127.0.0.1", "port": str(ports[0]), "to": ports[1], "numeric": True}
        backend = convert(SocketChardev, {"addr": {"type": "inet", "data": inet}})
        name = f"disconnected:tcp:127.0.0.1:{port},server=on"
        assert chardevs.add_qapi(label, backend).filename == name
    with pytest.raises(NetError, match="Failed to find an available port: Address already in use"):
        chardevs.add_qapi("c2", backend)
    chardevs.close()


def consecutive_ports() -> tuple[int, int]:
    """Two free ports with consecutive numbers."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port, port + 1


@pytest.mark.needs("loopback")
def test_passed_tcp_socket_passes_no_descriptors() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    chardevs = Chardevs(lambda _: listening.detach())
    chardev = chardevs.add(
        parse_flat({"backend": "socket", "id": "c0", "fd": "s", "server": "on"}), listens=True
    )
    assert chardev.filename.startswith("disconnected:tcp:127.0.0.1:")
    with pytest.raises(NetError, match='chardev "c0" does not support FD passing'):
        fd_passing_options(chardev)
    chardevs.close()


def test_passed_socket_must_be_a_stream() -> None:
    chardevs = Chardevs(lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())
    with pytest.raises(NetError, match=r"File descriptor '[0-9]+' is not a stream socket"):
        chardevs.add(parse_flat({"backend": "socket", "id": "c0", "fd": "s"}), listens=True)
