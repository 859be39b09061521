"""Filters of a running vnic: made by -object, QMP and HMP; tshark and QEMU's filters understand them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient
from tests.integration.process import PATIENCE_S, Place, Running, wait_for
from tests.needs import need

FRAMES = [
    b"\xff" * 6 + bytes((0x52, 0x54, 0, 0, 0, n)) + b"\x88\xb5" + bytes([n]) * (46 + 97 * n)
    for n in range(15)
]


def dgram(name: str, local: str, remote: str) -> str:
    """The netdev, as vnic and QEMU take it."""
    return f"dgram,id={name},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"


class Cable:
    """A vnic whose netdev `left` is wired to the netdev `right` by a hub, and the far ends of both."""

    def __init__(self, place: Place) -> None:
        self.options: list[str] = []
        for name, hub_port in (("left", "hl"), ("right", "hr")):
            path = place.path(name)
            self.options += [
                *("-netdev", dgram(name, f"{path}.vnic", path)),
                *("-netdev", f"hubport,id={hub_port},hubid=0,netdev={name}"),
            ]
        self.left, self.right = (_bound(place.path(name)) for name in ("left", "right"))

    def send(self, *frames: bytes, from_right: bool = False) -> None:
        sock = self.right if from_right else self.left
        for frame in frames:
            sock.sendto(frame, f"{sock.getsockname()}.vnic")

    def close(self) -> None:
        self.left.close()
        self.right.close()


def _bound(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.settimeout(PATIENCE_S)
    return sock


def received(sock: socket.socket, count: int) -> list[bytes]:
    return [sock.recv(1 << 16) for _ in range(count)]


@pytest.fixture
def cable(place: Place) -> Iterator[Cable]:
    with closing(Cable(place)) as made:
        yield made


def ask(running: Running, *requests: tuple[str, dict[str, object]]) -> list[Any]:
    """The returns of QMP requests; of one that is refused its class and text."""

    async def main() -> list[Any]:
        client = QMPClient("test")
        await asyncio.wait_for(client.connect(running.qmp_path), PATIENCE_S)
        answers: list[Any] = []
        try:
            for command, arguments in requests:
                try:
                    answers.append(await asyncio.wait_for(client.execute(command, arguments), PATIENCE_S))
                except ExecuteError as error:
                    answers.append((error.error_class, str(error)))
        finally:
            await client.disconnect()
        return answers

    return asyncio.run(main())


def hmp(running: Running, *lines: str) -> list[str]:
    requests: list[tuple[str, dict[str, object]]] = [
        ("human-monitor-command", {"command-line": line}) for line in lines
    ]
    return ask(running, *requests)


def filters(running: Running) -> list[str]:
    """The lines of the filters in `info network`."""
    (text,) = hmp(running, "info network")
    return [line.removeprefix("  - ") for line in text.split("\r\n") if line.startswith("  - ")]


def tshark(file: Path, *fields: str) -> list[list[str]]:
    """The fields of each frame."""
    need("tshark")
    words = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", str(file), "-T", "fields", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_tshark_reads_a_dump_that_is_still_written(place: Place, cable: Cable) -> None:
    both, cut = place.folder / "both.pcap", place.folder / "cut.pcap"
    options = [
        *("-object", f"filter-dump,id=d0,netdev=left,file={both}"),
        "-object",
        json.dumps(
            {
                "qom-type": "filter-dump",
                "id": "d1",
                "netdev": "left",
                "file": str(cut),
                "maxlen": 64,
                "queue": "rx",
            }
        ),
    ]
    with place.run(*cable.options, *options) as running:
        cable.send(*FRAMES)
        assert received(cable.right, len(FRAMES)) == FRAMES
        cable.send(FRAMES[3], from_right=True)
        assert received(cable.left, 1) == [FRAMES[3]]
        seen = tshark(both, "frame.len", "frame.cap_len", "eth.src", "eth.type")
        assert seen == [
            [str(len(each)), str(len(each)), each[6:12].hex(":"), "0x88b5"] for each in [*FRAMES, FRAMES[3]]
        ]
        assert tshark(cut, "frame.len", "frame.cap_len") == [[str(len(FRAMES[3])), "64"]]
        assert filters(running) == [
            f"d0: type=filter-dump,file={both},maxlen=65536,"
            "position=tail,status=on,insert=behind,netdev=left,queue=all",
            f"d1: type=filter-dump,file={cut},maxlen=64,"
            "position=tail,status=on,insert=behind,netdev=left,queue=rx",
        ]


def test_qmp_adds_and_removes_filters(place: Place, cable: Cable) -> None:
    slow: dict[str, object] = {
        "qom-type": "filter-buffer",
        "id": "f0",
        "netdev": "right",
        "interval": 100_000,
    }
    with place.run(*cable.options) as running:
        assert ask(
            running,
            ("object-add", slow),
            ("object-add", slow),
            ("object-add", {**slow, "id": "f1", "interval": "10"}),
            ("object-add", {**slow, "id": "f1", "interval": 0}),
            ("object-add", {**slow, "id": "f1", "queue": "up"}),
            ("object-add", {**slow, "id": "f1", "status": True}),
            ("object-add", {**slow, "id": "f1", "insert": "beside"}),
            ("object-add", {**slow, "id": "f1", "netdev": "nic0"}),
            ("object-add", {"qom-type": "filter-rewriter", "id": "f1", "netdev": "right"}),
            ("object-add", {"qom-type": "filter-mirror", "id": "f1", "netdev": "right", "outdev": "zz"}),
            ("object-del", {"id": "f1"}),
        ) == [
            {},
            ("GenericError", "attempt to add duplicate property 'f0' to object (type 'container')"),
            ("GenericError", "Parameter 'interval' expects uint64"),
            ("GenericError", "Property 'filter-buffer.interval' requires a positive value"),
            ("GenericError", "Parameter 'queue' does not accept value 'up'"),
            ("GenericError", "Invalid parameter type for 'status', expected: string"),
            ("GenericError", "Parameter 'insert' does not accept value 'beside'"),
            ("GenericError", "Parameter 'netdev' expects a network backend id"),
            ("GenericError", "Parameter 'qom-type' does not accept value 'filter-rewriter'"),
            ("DeviceNotFound", "Device 'zz' not found"),
            ("GenericError", "object 'f1' not found"),
        ]
        cable.send(*FRAMES)
        assert received(cable.right, len(FRAMES)) == FRAMES, "after 100 ms at the most"
        assert ask(running, ("object-del", {"id": "f0"})) == [{}]
        assert filters(running) == []
        assert ask(running, ("object-add", slow), ("netdev_del", {"id": "right"})) == [{}, {}]
        assert ask(running, ("object-del", {"id": "f0"})) == [("GenericError", "object 'f0' not found")]


def test_filters_are_switched_off_and_on(place: Place, cable: Cable) -> None:
    slow: dict[str, object] = {"qom-type": "filter-buffer", "id": "f0", "netdev": "right"}
    slow["interval"] = 0xFFFFFFFF
    replay: dict[str, object] = {"qom-type": "filter-replay", "id": "f1", "netdev": "right"}
    status: dict[str, object] = {"path": "/objects/f0", "property": "status"}
    with place.run(*cable.options) as running:
        assert ask(running, ("object-add", slow), ("object-add", replay)) == [{}, {}]
        cable.send(FRAMES[0])
        assert ask(running, ("qom-set", {**status, "value": "off"}), ("qom-get", status)) == [{}, "off"]
        cable.send(*FRAMES[1:])
        assert received(cable.right, len(FRAMES)) == FRAMES
        assert "f0: type=filter-buffer,interval=4294967295,position=tail,status=off," in filters(running)[0]
        assert "f1: type=filter-replay,position=tail,status=on,insert=behind," in filters(running)[1]


def test_hmp_texts_are_qemus(place: Place, cable: Cable) -> None:
    with place.run(*cable.options) as running:
        assert hmp(
            running,
            "object_add filter-buffer,id=h0,netdev=left,interval=0x10",
            'object_add {"qom-type":"filter-buffer","id":"h1","netdev":"left","interval":7,"position":"head"}',
            "object_add filter-buffer,id=h0,netdev=left,interval=5",
            "object_add filter-buffer,id=h2,netdev=left,interval=5,foo",
            "object_add filter-buffer,id=h2,netdev=left",
            "object_add filter-foo,id=h2",
            "object_add {}",
            "object_add",
            "object_add filter-mirror,help",
            "object_del h0",
            "object_del h0",
        ) == [
            "",
            "",
            "Error: attempt to add duplicate property 'h0' to object (type 'container')\r\n",
            "Error: Expected '=' after parameter 'foo'\r\n",
            "Error: Parameter 'interval' is missing\r\n",
            "Error: Parameter 'qom-type' does not accept value 'filter-foo'\r\n",
            "Error: Parameter 'qom-type' is missing\r\n",
            'object_add: string expected\r\nTry "help object_add" for more information\r\n',
            "filter-mirror options:\r\n  insert=<before|behind>\r\n  netdev=<string>\r\n  outdev=<string>\r\n"
            "  position=<string>\r\n  queue=<all|rx|tx>\r\n  status=<string>\r\n  vnet_hdr_support=<bool>\r\n",
            "",
            "Error: object 'h0' not found\r\n",
        ]
        (line,) = filters(running)
        assert line.startswith("h1: type=filter-buffer,interval=7,position=head,status=on,")


@pytest.mark.parametrize(
    ("given", "desc"),
    [
        ("filter-buffer,id=a,netdev=zz,interval=5", "Parameter 'netdev' expects a network backend id"),
        ("filter-dump,id=a,netdev=left,file=no/x", "Could not open 'no/x': No such file or directory"),
        ("filter-buffer,id=a,netdev=vu,interval=5", "Vhost is not supported"),
        ("qux,id=a", "Parameter 'qom-type' does not accept value 'qux'"),
    ],
)
def test_impossible_filters_are_refused(place: Place, cable: Cable, given: str, desc: str) -> None:
    vhost = ("-chardev", "socket,id=c0,path=vu.sock,server=on", "-netdev", "vhost-user,id=vu,chardev=c0")
    done = place.command("run", *cable.options, *vhost, "-object", given)
    assert (done.returncode, done.stderr) == (1, f"vnic: -object {given}: {desc}\n")


@contextmanager
def qemu(*words: str) -> Iterator[None]:
    """A QEMU without a guest."""
    need("qemu")
    process = subprocess.Popen(
        ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", *words],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("vnet_hdr", ["off", "on"])
def test_qemus_filters_and_ours_understand_each_other(place: Place, cable: Cable, vnet_hdr: str) -> None:
    """Our mirror feeds QEMU's redirector, and QEMU's mirror ours; what they get comes out of the netdevs there."""
    options = [
        *("-chardev", f"socket,id=out,path={place.path('out')},server=on"),
        *("-chardev", f"socket,id=in,path={place.path('in')},server=on"),
        *("-object", f"filter-mirror,id=m0,netdev=left,queue=tx,outdev=out,vnet_hdr_support={vnet_hdr}"),
        *("-object", f"filter-redirector,id=r0,netdev=right,queue=rx,indev=in,vnet_hdr_support={vnet_hdr}"),
    ]
    there = place.path("there")
    theirs = [
        *("-netdev", dgram("n0", f"{there}.qemu", there)),
        *("-netdev", "hubport,id=h0,hubid=0,netdev=n0"),
        *("-netdev", "hubport,id=h1,hubid=0"),  # a hub without a second port takes nothing
        *("-chardev", f"socket,id=c0,path={place.path('out')}"),
        *("-chardev", f"socket,id=c1,path={place.path('in')}"),
        *("-object", f"filter-redirector,id=r,netdev=n0,queue=rx,indev=c0,vnet_hdr_support={vnet_hdr}"),
        *("-object", f"filter-mirror,id=m,netdev=n0,queue=tx,outdev=c1,vnet_hdr_support={vnet_hdr}"),
    ]
    with closing(_bound(there)) as far, place.run(*cable.options, *options) as running, qemu(*theirs):

        def connected() -> bool:
            (chardevs,) = ask(running, ("query-chardev", {}))
            return not any(each["filename"].startswith("disconnected") for each in chardevs)

        wait_for(connected)
        cable.send(*FRAMES)
        assert received(cable.right, len(FRAMES)) == FRAMES, "the mirror lets them pass"
        assert received(far, len(FRAMES)) == FRAMES
        for frame in FRAMES:
            far.sendto(frame, f"{there}.qemu")
        assert received(cable.right, len(FRAMES)) == FRAMES
