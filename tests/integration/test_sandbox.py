"""`-sandbox on` and `-run-with user=` of a whole vnic: what it still does, and what it cannot do any more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.browser import Browser, request
from tests.integration.namespace import in_namespace, run
from tests.integration.process import Place, Running, guest_on, wait_for
from tests.integration.qmp import Qmp
from tests.needs import need
from tests.processes import children

from vnic.lab.bench.process import VnicProcess
from vnic.sandbox import landlock

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
ECHO = ("-netdev", "echo,id=net0", "-device", NIC)
LIBVIRT = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""The line that libvirt gives each QEMU."""


def status(pid: int | str, name: str) -> str:
    """A line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def by_name(pid: int) -> dict[str, int]:
    """The children of a process by their names."""
    return {name: child for child, name in children(pid).items()}


@pytest.mark.parametrize("choice", ["on", LIBVIRT])
def test_guest_is_served_within_the_sandbox(place: Place, choice: str) -> None:
    with place.run("-sandbox", choice, *ECHO) as running, guest_on(place.path("nic0.sock")) as guest:
        pid = running.process.pid
        for task in os.listdir(f"/proc/{pid}/task"):
            assert status(f"{pid}/task/{task}", "Seccomp") == "2"
            assert status(f"{pid}/task/{task}", "NoNewPrivs") == "1"
        wait_for(guest.sees_up)
        assert place.verb("link", "set", "nic0", "down", "--wait", "20").returncode == 0
        wait_for(lambda: not guest.sees_up())
    assert "started" in place.verb("log", "--json").stdout, "the journal is written"


def test_sandbox_leaves_nothing_behind(place: Place) -> None:
    with place.run("-sandbox", "on", "-pidfile", "pid", *ECHO) as running:
        starter = by_name(running.process.pid)["vnic-starter"]
        assert "pid" in place.files()
    assert place.files() == []
    assert not Path(f"/proc/{starter}").exists()


def test_vnic_wire_is_started_again_from_within_the_sandbox() -> None:
    need("vnic-wire")
    hub = ("-netdev", "hubport,id=p0,hubid=0", "-netdev", "hubport,id=p1,hubid=0")
    nics = [
        f"virtio-net,id=nic{n},netdev=p{n},attach.type=vhost-user,attach.path=@/nic{n}.sock" for n in (0, 1)
    ]
    with VnicProcess("-sandbox", LIBVIRT, *hub, "-device", nics[0], "-device", nics[1]) as vnic:

        def wired() -> bool:
            reply = vnic.execute("query-links")
            assert isinstance(reply, dict)
            return {each["datapath"] for each in reply["return"]} == {"wire"}

        starter = by_name(vnic.process.pid)["vnic-starter"]
        with guest_on(str(vnic.folder / "nic0.sock")), guest_on(str(vnic.folder / "nic1.sock")):
            for _ in range(2):
                wait_for(wired)
                program = by_name(starter)["vnic-wire"]
                os.kill(program, signal.SIGKILL)
                wait_for(lambda: by_name(starter).get("vnic-wire") not in (None, program))  # noqa: B023
            wait_for(wired)


def test_successor_within_the_sandbox_goes_on_with_the_same_vnic_wire(place: Place) -> None:
    need("vnic-wire")
    hub = ("-netdev", "hubport,id=p0,hubid=0", "-netdev", "hubport,id=p1,hubid=0")
    nics = [
        word
        for n in (0, 1)
        for word in (
            "-device",
            f"virtio-net,id=nic{n},netdev=p{n},attach.type=vhost-user,attach.path={place.path(f'nic{n}.sock')}",
        )
    ]

    def links() -> list[dict[str, str]]:
        said = place.verb("link", "--json")
        return list(json.loads(said.stdout)) if said.returncode == 0 else []

    def wired() -> bool:
        return {each["datapath"] for each in links()} == {"wire"}

    def control() -> int | None:
        """The child of the supervisor that is sandboxed by seccomp: the one whose set-up has ended."""
        for name, pid in by_name(running.process.pid).items():
            if name not in ("vnic-starter", "vnic-wire") and status(pid, "Seccomp") == "2":
                return pid
        return None

    with (
        place.run("--keep", "-sandbox", "on", *hub, *nics) as running,
        guest_on(place.path("nic0.sock")),
        guest_on(place.path("nic1.sock")),
    ):
        wait_for(wired)
        first = control()
        assert first is not None
        program = by_name(by_name(first)["vnic-starter"])["vnic-wire"]
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: control() not in (None, first))
        wait_for(wired)
        assert Path(f"/proc/{program}/comm").read_text() == "vnic-wire\n", "it went on"
        assert by_name(running.process.pid)["vnic-wire"] == program


def _harm(place: Place) -> dict[str, list[dict[str, object]]]:
    """What a client of a `full` monitor tries, by command: paths that the command line does not name."""
    unix = {"type": "unix", "path": "/tmp/made-by-client"}
    victim = place.path("victim")
    return {
        "object-add": [
            {"qom-type": "filter-dump", "id": "e", "netdev": "net0", "file": path}
            for path in (victim, "/tmp/made-by-client", "/dev/null", place.path("vnic/vnic.qmp"), "link")
        ],
        "netdev_add": [
            {"type": "stream", "id": "e", "server": True, "addr": unix},
            {
                "type": "stream",
                "id": "e",
                "server": False,
                "addr": {"type": "unix", "path": "/run/docker.sock"},
            },
            {"type": "dgram", "id": "e", "local": unix, "remote": unix},
            {"type": "tap", "id": "e", "script": victim},
            {"type": "tap", "id": "e", "downscript": "/bin/sh"},
            {"type": "bridge", "id": "e", "helper": "/bin/sh -c x"},
            {"type": "passt", "id": "e"},
            {"type": "passt", "id": "e", "path": "/bin/sh"},
            {"type": "passt", "id": "e", "param": [{"str": "--log-file=/tmp/made-by-client"}]},
            {"type": "user", "id": "e"},
            {"type": "interface", "id": "e", "ifname": "lo", "netns": "/proc/1/ns/net"},
            {"type": "tunnel", "id": "e", "remote": "127.0.0.1", "vni": 1, "key-file": "/etc/shadow"},
        ],
        "device_add": [
            {
                "driver": "virtio-net",
                "id": "e",
                "attach": {"type": "vhost-user", "path": "/tmp/made-by-client"},
            },
            {"driver": "e1000", "id": "e", "attach.type": "vfio-user", "attach.path": "/etc/e"},
        ],
        "chardev-add": [
            {
                "id": "e",
                "backend": {
                    "type": "socket",
                    "data": {"addr": {"type": "unix", "data": {"path": path}}, "server": True},
                },
            }
            for path in ("/tmp/made-by-client", place.path("vnic/other.qmp"))
        ],
    }


def test_client_of_a_full_monitor_names_only_paths_of_the_command_line(place: Place) -> None:
    Path(place.path("victim")).write_text("as it was")
    os.symlink("/tmp/made-by-client", place.path("link"))
    options = ("-sandbox", "on", *ECHO, "-qmp", f"unix:{place.path('q')},server=on")
    process = place.start("run", *options)
    with Running(place, process, place.path("q")):
        client = Qmp(place.path("q"))
        before = (client.value("query-links"), client.value("query-chardev"), place.files())
        for command, tries in _harm(place).items():
            for arguments in tries:
                error = client.ask(command, arguments)["error"]
                assert error["desc"].startswith("-sandbox on: Parameter '"), (arguments, error)
                assert error["class"] == "GenericError"
        assert before == (client.value("query-links"), client.value("query-chardev"), place.files())
        for line in (
            "object_add filter-dump,id=e,netdev=net0,file=victim",
            "netdev_add tap,id=e,script=/bin/sh",
            "device_add virtio-net,id=e,attach.type=vhost-user,attach.path=/etc/e",
            "chardev-add socket,id=e,path=/tmp/made-by-client,server=on",
        ):
            assert "-sandbox on: Parameter" in client.hmp(line)
        # What lies beside the command line's own sockets is allowed.
        beside = {"type": "unix", "path": place.path("more.sock")}
        assert client.value("netdev_add", {"type": "stream", "id": "s", "server": True, "addr": beside}) == {}
        client.close()
    assert Path(place.path("victim")).read_text() == "as it was"
    assert not Path("/tmp/made-by-client").exists()


def test_folder_of_the_option_is_for_clients(place: Place) -> None:
    os.mkdir(place.path("dumps"))
    with place.run("-sandbox", f"on,folder={place.path('dumps')}", *ECHO):
        for name, refused in (("dumps/a.pcap", False), ("a.pcap", True)):
            said = place.verb("hmp", f"object_add filter-dump,id=f,netdev=net0,file={place.path(name)}")
            assert ("-sandbox on: Parameter 'file'" in said.stderr) is refused
            assert Path(place.path(name)).exists() is not refused


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-sandbox", "on,obsolete=allow"], "Parameter 'obsolete' expects 'deny'"),
        (["-sandbox", "on,resourcecontrol=allow"], "Parameter 'resourcecontrol' expects 'deny'"),
        (["-sandbox", "on,spawn=maybe"], "Parameter 'spawn' expects allow or deny, not 'maybe'"),
        (["-sandbox", "on,what=1"], "Invalid parameter 'what'"),
        (["-sandbox", "yes"], "Parameter 'enable' expects on or off, not 'yes'"),
        (["-sandbox", "on,spawn=deny", "-netdev", "passt,id=p"], "-netdev passt,id=p: it starts a program"),
        (["-run-with", "user=no-such-user"], "User 'no-such-user' doesn't exist (and is not <uid>:<gid>)"),
        (["-run-with", "chroot=/"], "vnic has no chroot="),
        (["-run-with", "async-teardown=on"], "vnic has no async-teardown="),
        (["-runas", "nobody"], "use -run-with user="),
    ],
)
def test_impossible_options_are_refused_in_one_line(place: Place, words: list[str], problem: str) -> None:
    done = place.command("run", *words)
    assert done.returncode != 0
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no landlock")
def test_log_is_made_anew_within_the_sandbox(place: Place) -> None:
    place.environment["VNIC_LOG"] = "info"  # at which a link change is a line
    with place.run("-sandbox", "on", "-D", "log", *ECHO):
        os.rename(place.path("log"), place.path("log.1"))
        assert place.verb("link", "set", "nic0", "down").returncode == 0
        wait_for(lambda: os.path.exists(place.path("log")))


# -- another user -----------------------------------------------------------------------------------------------------


def _let_all_read_python() -> None:
    """In this mount namespace, where the interpreter is in a folder that only root may enter."""
    prefix = Path(sys.base_prefix).resolve()
    closed = next((each for each in reversed(prefix.parents) if not each.stat().st_mode & 0o001), None)
    if closed is None:
        return
    kept = tempfile.mkdtemp(dir="/tmp")
    run("mount", "--bind", str(prefix), kept)
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", str(closed))
    prefix.mkdir(parents=True)
    run("mount", "--move", kept, str(prefix))
    os.rmdir(kept)


@contextmanager
def _place_of(uid: int, gid: int) -> Iterator[Place]:
    """A place that is this user's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="vnic-u-"))
    os.chown(folder, uid, gid)
    try:
        yield Place(folder)
    finally:
        shutil.rmtree(folder)


UID = GID = 54321


async def _another_user(sandbox: str) -> None:
    _let_all_read_python()
    with _place_of(UID, GID) as place:
        options = ("-run-with", f"user={UID}:{GID}", "-sandbox", sandbox, "-pidfile", "pid", "-D", "log")
        tap = ("-netdev", "tap,id=t0,ifname=vt0")
        with place.run(*options, *tap, *ECHO) as running:
            pid = running.process.pid
            wait_for(lambda: int(status(pid, "CapPrm"), 16) == 0)
            for task in os.listdir(f"/proc/{pid}/task"):
                assert status(f"{pid}/task/{task}", "Uid").split() == [str(UID)] * 4
                assert status(f"{pid}/task/{task}", "Gid").split() == [str(GID)] * 4
                assert status(f"{pid}/task/{task}", "Groups").split() in ([], [str(GID)])
                for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
                    assert int(status(f"{pid}/task/{task}", name), 16) == 0
            assert "vt0" in run("ip", "link"), "what needs a capability is set up"
            for folder, _, names in os.walk(place.folder):
                for name in names:
                    assert os.lstat(os.path.join(folder, name)).st_uid == UID, name
            assert set(place.files()) >= {"pid", "log", "nic0.sock", "vnic.qmp"}
        assert place.files() == ["log"], "it could remove what it made"
        assert "vt0" not in run("ip", "link")


@pytest.mark.parametrize("sandbox", ["off", "on"])
def test_vnic_becomes_another_user_and_keeps_no_capability(sandbox: str) -> None:
    in_namespace(_another_user, sandbox)


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _secret_of(place: Place) -> Path:
    secret = Path(place.path("secret"))
    secret.write_text("a.token_of~its-own\n")
    os.chown(secret, UID, GID)
    secret.chmod(0o600)
    return secret


async def _page_of_another_user(sandbox: str) -> None:
    _let_all_read_python()
    with _place_of(UID, GID) as place:
        secret = _secret_of(place)
        options = ("-run-with", f"user={UID}:{GID}", "-sandbox", sandbox)
        with place.run(*ECHO, *options, "-web", f"127.0.0.1:80,token-file={secret}") as running:
            wait_for(lambda: int(status(running.process.pid, "CapPrm"), 16) == 0)
            for task in os.listdir(f"/proc/{running.process.pid}/task"):
                assert status(f"{running.process.pid}/task/{task}", "Uid").split() == [str(UID)] * 4
            wait_for(lambda: is_open(80))
            assert request(80, "/?token=a.token_of~its-own").status == 200
            assert request(80, "/?token=another").status == 403
            with Browser(80, "/qmp?token=a.token_of~its-own").negotiate() as browser:
                assert browser.execute("set_link", name="nic0", up=False) == {}
                held = {
                    each["name"]: [hold["kind"] for hold in each["holds"]]
                    for each in browser.execute("query-links")
                }
                assert held == {"nic0": ["operator"], "net0": []}


@pytest.mark.parametrize("sandbox", ["off", "on"])
def test_page_is_served_by_another_user(sandbox: str) -> None:
    """At a port that only root may bind: it is bound before."""
    need("web")
    in_namespace(_page_of_another_user, sandbox)


async def _namespace_of_another_user() -> None:
    """`netns=` needs CAP_SYS_ADMIN in a child, also when all is set up."""
    _let_all_read_python()
    run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    sleeper = subprocess.Popen(["unshare", "-n", "sleep", "1000"])  # noqa: ASYNC220  # nothing else runs
    try:
        wait_for(lambda: os.readlink(f"/proc/{sleeper.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        wait_for(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n")
        run("ip", "link", "set", "v1", "netns", str(sleeper.pid))
        with _place_of(UID, GID) as place:
            options = ("-run-with", f"user={UID}:{GID}", "-sandbox", "on")
            netdev = f"interface,id=net0,ifname=v1,netns={sleeper.pid}"
            with place.run(*options, "-netdev", netdev, "-device", NIC) as running:
                needed = 1 << 13 | 1 << 19 | 1 << 21  # NET_RAW, SYS_PTRACE, SYS_ADMIN
                wait_for(lambda: int(status(running.process.pid, "CapEff"), 16) == needed)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_capabilities_that_an_option_needs_later_are_kept() -> None:
    in_namespace(_namespace_of_another_user)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become any user")
def test_user_who_is_not_root_becomes_nobody_else(place: Place) -> None:
    done = place.command("run", "-run-with", "user=root", *ECHO)
    assert done.returncode == 1
    assert "Failed to become user 'root'" in done.stderr
