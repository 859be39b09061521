"""The real passt behind `user`: a kernel plugged into it fetches a file by HTTP, and is reached from the host.

The guest is a network namespace with a tap of ours as its card: guest kernel - tap - hub - user - passt - host.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.integration.namespace import in_namespace, ip, run
from tests.processes import is_alive
from tests.unit.backend.helpers import Lab, until

from vnic.backend.options import (
    HubPortOptions,
    PasstOptions,
    String,
    TapOptions,
    UserOptions,
)
from vnic.lab.guest.passt_kit import find_passt
from vnic.net.client import NetClient

FETCH = """
import hashlib, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
    print(hashlib.sha256(answer.read()).hexdigest())
"""
SERVE = """
import functools, http.server, socketserver, sys
class Server(socketserver.ThreadingTCPServer):  # http.server's own looks its name up, in a network without a DNS
    allow_reuse_address = True
Server((sys.argv[1], int(sys.argv[2])), functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=sys.argv[3])).serve_forever()
"""
CONNECT = """
import socket, sys, time
for _ in range(1200):
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
        break
    except OSError:
        time.sleep(0.05)
else:
    sys.exit("nobody listens")
"""
"""Waits until somebody listens."""


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def beside_the_loop(*words: str) -> str:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: run(*words))


async def fetched(*words: str) -> str:
    """What a download prints. passt was seen to end a connection in the middle of one, rarely: two more tries."""
    for _ in range(2):
        try:
            return await beside_the_loop(*words)
        except AssertionError as error:
            if "IncompleteRead" not in str(error):
                raise
    return await beside_the_loop(*words)


def make_host() -> None:
    """passt wants a host with a default route to show to its guest."""
    ip("link", "add", "ext0", "type", "veth", "peer", "name", "ext1")
    ip("addr", "add", "192.0.2.10/24", "dev", "ext0")
    ip("link", "set", "ext0", "up")
    ip("link", "set", "ext1", "up")
    ip("route", "add", "default", "via", "192.0.2.1")


@asynccontextmanager
async def guest_kernel(lab: Lab, user: UserOptions) -> AsyncIterator[tuple[NetClient, list[str]]]:
    """The netdev of `user` and the words that run a command in the guest behind it."""
    netdev = lab.add(user)
    lab.add(HubPortOptions(id="h0", hubid=0, netdev=user.id))
    lab.add(TapOptions(id="card", ifname="card0"))
    lab.add(HubPortOptions(id="h1", hubid=0, netdev="card"))
    with process("unshare", "--net", "sleep", "1000") as child:
        own = os.stat("/proc/self/ns/net").st_ino
        await until(lambda: os.stat(f"/proc/{child.pid}/ns/net").st_ino != own)
        ip("link", "set", "card0", "netns", str(child.pid))
        inside = ["nsenter", f"--net=/proc/{child.pid}/ns/net"]
        run(*inside, "ip", "link", "set", "lo", "up")
        run(*inside, "ip", "addr", "add", "10.0.2.15/24", "dev", "card0")
        run(*inside, "ip", "link", "set", "card0", "up")
        run(*inside, "ip", "route", "add", "default", "via", "10.0.2.2")
        await until(lambda: not netdev.holds)
        yield netdev, inside


async def _http(directory: Path) -> None:
    make_host()
    content = os.urandom(5_000_000)
    (directory / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    server = (sys.executable, "-c", SERVE)
    user = UserOptions(id="net0", hostfwd=[String(text="tcp:127.0.0.1:8022-:8023")])
    with process(*server, "127.0.0.1", "8080", str(directory)):
        await beside_the_loop(sys.executable, "-c", CONNECT, "127.0.0.1", "8080")
        async with Lab() as lab, guest_kernel(lab, user) as (_, inside):
            # passt learns the guest's MAC address from what the guest sends.
            await beside_the_loop(*inside, sys.executable, "-c", CONNECT, "10.0.2.2", "8080")
            with process(*inside, *server, "10.0.2.15", "8023", str(directory)):
                listening = (*inside, sys.executable, "-c", CONNECT, "10.0.2.15", "8023")
                await beside_the_loop(*listening)
                mirror = (sys.executable, "-c", FETCH, "http://127.0.0.1:8022/file")
                assert (await fetched(*mirror)).strip() == expected
            # Last, because Debian 12's passt can be left in an endless loop by it: it drops what a busy machine has no
            # room for, and then does not get over the FIN that the guest repeats.
            fetch = (*inside, sys.executable, "-c", FETCH)
            assert (await fetched(*fetch, "http://10.0.2.2:8080/file")).strip() == expected


@pytest.fixture(
    params=[
        pytest.param("installed", marks=pytest.mark.needs("passt")),
        pytest.param("newer", marks=pytest.mark.needs("newer-passt")),
    ]
)
def generation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passt of this machine, and that of 2025."""
    if request.param == "newer":
        kit = find_passt()
        assert kit is not None
        monkeypatch.setenv("PATH", f"{kit.program.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("generation")
def test_a_guest_fetches_a_file_and_is_reached(tmp_path: Path) -> None:
    in_namespace(_http, tmp_path)


async def _restart(directory: Path) -> None:
    make_host()
    (directory / "file").write_text("here")
    expected = hashlib.sha256(b"here").hexdigest()
    with process(sys.executable, "-c", SERVE, "127.0.0.1", "8080", str(directory)):
        await beside_the_loop(sys.executable, "-c", CONNECT, "127.0.0.1", "8080")
        async with Lab() as lab, guest_kernel(lab, UserOptions(id="net0")) as (netdev, inside):
            os.kill(_pid(lab), signal.SIGKILL)
            await until(lambda: netdev.link_down)
            assert lab.why_last_down("net0").endswith("; it is started again")
            await until(lambda: not netdev.link_down)
            fetch = (*inside, sys.executable, "-c", FETCH, "http://10.0.2.2:8080/file")
            assert (await beside_the_loop(*fetch)).strip() == expected
            pid = _pid(lab)
        await until(lambda: not is_alive(pid))


def _pid(lab: Lab) -> int:
    """The journal says it: `passt serves as pid N`."""
    changes = lab.network.journal.select("net0", None, None)
    return int(
        next(change.cause.text for change in reversed(changes) if change.link == "up").rpartition(" ")[2]
    )


@pytest.mark.usefixtures("generation")
def test_killed_passt_is_started_again(tmp_path: Path) -> None:
    in_namespace(_restart, tmp_path)


async def _too_old() -> None:
    make_host()
    async with Lab() as lab:
        lab.add(PasstOptions(id="net0", vhost_user=True))
        await until(lambda: lab.why("net0") != "starting passt")
        text = lab.why("net0")
        assert text == "passt does not know --vhost-user: the one that is installed is too old"


@pytest.mark.needs("passt")
def test_a_passt_without_vhost_user_is_refused_by_name() -> None:
    if (
        "--vhost-user"
        not in subprocess.run(["passt", "--help"], capture_output=True, text=True, check=False).stdout
    ):
        in_namespace(_too_old)
