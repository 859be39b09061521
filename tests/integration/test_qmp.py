"""A running vnic as a QMP client sees it: qemu.qmp's client, unchanged, and qmp-shell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient
from tests.integration.process import PATIENCE_S, PATIENT, Place, Running, guest_on, wait_for

from vnic.machine.nics import DEVICES

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
ECHO = "echo,id=net0"
NEW_NIC = {
    "driver": "virtio-net",
    "id": "nic1",
    "netdev": "net1",
    "attach": {"type": "vhost-user", "path": "nic1.sock"},
}


NO_X = "Failed to bind socket to no/x: No such file or directory"


def talk(running: Running, conversation: Callable[[QMPClient], Awaitable[None]]) -> None:
    """Run a conversation over the instance's QMP socket."""

    async def main() -> None:
        client = QMPClient("test")
        await asyncio.wait_for(client.connect(running.qmp_path), PATIENCE_S)
        try:
            await asyncio.wait_for(conversation(client), PATIENCE_S)
        finally:
            await client.disconnect()

    asyncio.run(main())


async def ask(client: QMPClient, command: str) -> Any:
    """What a query returns; qemu.qmp types it as `object`."""
    return await client.execute(command)


async def next_event(client: QMPClient, name: str) -> dict[str, Any]:
    """The data of the next event of that name."""
    while True:
        event = await asyncio.wait_for(client.events.get(), PATIENCE_S)
        if event["event"] == name:
            data: Any = event.get("data", {})
            return dict(data)


async def refusal(client: QMPClient, command: str, **arguments: object) -> tuple[str, str]:
    """The class and text of the error that a command gets."""
    with pytest.raises(ExecuteError) as refused:
        await client.execute(command, arguments)
    return refused.value.error_class, str(refused.value)


def test_first_queries_of_a_client_are_answered(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        assert await client.execute("query-name") == {"name": "lab"}
        assert await client.execute("query-status") == {"running": True, "status": "running"}
        (chardev,) = await ask(client, "query-chardev")
        assert chardev["filename"] == f"unix:{running.qmp_path},server=on"
        assert chardev["frontend-open"]

    with place.run(name="lab") as running:
        talk(running, conversation)


def test_without_a_name_query_name_is_empty_as_qemus(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        assert await client.execute("query-name") == {}

    with place.run() as running:
        talk(running, conversation)


def test_set_link_reaches_the_guest_and_the_events_tell_it(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        assert await client.execute("set_link", {"name": "nic0", "up": False}) == {}
        changed = await next_event(client, "LINK_CHANGED")
        seen = await next_event(client, "LINK_SEEN")
        assert (changed["name"], changed["link"], changed["cause"]["kind"]) == ("nic0", "down", "operator")
        assert (seen["name"], seen["link"], seen["id"]) == ("nic0", "down", changed["id"])
        assert seen["latency-us"] > 0

    with place.run("-netdev", ECHO, "-device", NIC) as running, guest_on(place.path("nic0.sock")) as guest:
        talk(running, conversation)
        wait_for(lambda: not guest.sees_up())


def test_netdev_del_and_add_plugs_back_in(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        await client.execute("netdev_del", {"id": "net0"})
        changed = await next_event(client, "LINK_CHANGED")
        assert (changed["name"], changed["link"], changed["cause"]["kind"]) == ("nic0", "down", "no-peer")
        assert await refusal(client, "netdev_del", id="net0") == ("DeviceNotFound", "Device 'net0' not found")
        await client.execute("netdev_add", {"type": "echo", "id": "net0"})
        while (changed := await next_event(client, "LINK_CHANGED"))["name"] != "nic0":
            pass
        assert changed["link"] == "up"

    with place.run("-netdev", ECHO, "-device", NIC) as running:
        talk(running, conversation)


def test_nic_is_added_and_deleted(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        await client.execute("netdev_add", {"type": "echo", "id": "net1"})
        await client.execute("device_add", NEW_NIC)
        assert await refusal(client, "device_add", **NEW_NIC) == (
            "GenericError",
            "Duplicate device ID 'nic1'",
        )
        loop = asyncio.get_running_loop()
        with guest_on(place.path("nic1.sock")) as guest:
            assert guest.sees_up()
            await client.execute("device_del", {"id": "nic1"})
            deleted = await next_event(client, "DEVICE_DELETED")
            assert deleted == {"device": "nic1", "path": "/machine/peripheral/nic1"}
            await loop.run_in_executor(None, guest.gone.wait, PATIENCE_S)
            assert not guest.sees_up(), "the guest had the time to see its link go"
        assert "nic1.sock" not in place.files()
        assert await refusal(client, "device_del", id="nic1") == ("DeviceNotFound", "Device 'nic1' not found")
        await client.execute("device_add", NEW_NIC)

    with place.run(command=PATIENT) as running:
        talk(running, conversation)


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"netdev": "zz"}, "Property 'virtio-net-device.netdev' can't find value 'zz'"),
        ({"netdev": "net0"}, "Property 'virtio-net-device.netdev' can't take value 'net0', it's in use"),
        ({"mac": "zz"}, "Property 'virtio-net-device.mac' doesn't take value 'zz'"),
        ({"duplex": "x"}, "'duplex' must be 'half' or 'full'"),
        ({"speed": -3}, "'speed' must be between 0 and INT_MAX"),
        ({"foo": 1}, "Property 'virtio-net.foo' not found"),
        ({"attach": {"type": "vhost-user", "path": "no/x"}}, NO_X),
        ({"attach": {"type": "vhost-user", "path": "x" * 200}}, None),
        ({"attach": {"type": "vhost-user", "path": ""}}, "UNIX socket path is empty"),
        ({"attach": {"type": "vfio-user", "path": "no/x"}}, NO_X),
        ({"driver": "bogus"}, "'bogus' is not a valid device model name"),
        ({"driver": "usb-net"}, "'usb-net' is not built into vnic; there are " + ", ".join(DEVICES)),
        ({"id": "1x"}, "Invalid qdev ID '1x'"),
    ],
)  # fmt: skip
def test_a_refused_device_add_leaves_nothing(
    shared_echo: Running, arguments: dict[str, object], desc: str | None
) -> None:
    async def conversation(client: QMPClient) -> None:
        base = {"driver": "virtio-net", "attach": {"type": "vhost-user", "path": "x.sock"}}
        _, text = await refusal(client, "device_add", **{**base, **arguments})
        assert desc is None or text == desc
        assert [link["name"] for link in await ask(client, "query-links")] == ["net0", "nic0"]

    talk(shared_echo, conversation)
    assert not os.path.exists(shared_echo.place.path("x.sock"))


def test_default_macs_count_up_past_those_in_use(place: Place) -> None:
    nics = [
        item
        for number, mac in enumerate(("", ",mac=52:54:00:12:34:57", "", ""))
        for item in (
            "-device",
            f"virtio-net,id=n{number},attach.type=vhost-user,attach.path=n{number}.sock{mac}",
        )
    ]

    async def conversation(client: QMPClient) -> None:
        assert [link["mac"][-2:] for link in await ask(client, "query-links")] == ["56", "57", "58", "59"]

    with place.run(*nics) as running:
        talk(running, conversation)


def test_link_off_at_the_start_on_either_end(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        links = {link["name"]: link for link in await ask(client, "query-links")}
        assert {name: link["link"] for name, link in links.items()} == {
            "net0": "up",
            "nic0": "down",
            "net1": "down",
            "nic1": "down",
        }
        assert [hold["client"] for hold in links["nic1"]["holds"]] == ["net1"]
        assert all(link["carrier-changes"] == 0 for link in links.values())

    with place.run(
        "-netdev", ECHO, "-device", f"{NIC},link=off",
        "-netdev", "echo,id=net1,link=off",
        "-device", "virtio-net,id=nic1,netdev=net1,attach.type=vhost-user,attach.path=nic1.sock",
    ) as running:  # fmt: skip
        talk(running, conversation)
        with guest_on(place.path("nic0.sock")) as guest:
            assert not guest.sees_up()


def test_quit_answers_tells_and_ends(place: Place) -> None:
    async def conversation(client: QMPClient) -> None:
        assert await client.execute("quit") == {}
        assert await next_event(client, "SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}
        changed = await next_event(client, "LINK_CHANGED")
        assert (changed["name"], changed["cause"]["text"]) == ("nic0", "vnic is shutting down")

    with place.run("-netdev", ECHO, "-device", NIC) as running:
        with contextlib.suppress(EOFError):  # the client's disconnect, if the server was first
            talk(running, conversation)
        assert running.ended() == (0, "")


def test_several_monitors_of_both_kinds(place: Place) -> None:
    process = place.start(
        "run",
        "-qmp", "unix:q1,server=on,wait=off",
        "-chardev", "socket,id=c0,path=q2,server=on",
        "-mon", "c0,mode=control,pretty=on",
        "-monitor", "unix:h1,server=on,wait=off",
        "-netdev", ECHO,
    )  # fmt: skip
    running = Running(place, process, place.path("h1"))
    with running:
        assert not os.path.exists(place.qmp_path()), "with -qmp there is no socket in the usual place"
        for path in ("q1", "q2"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_S)
                client.connect(place.path(path))
                with client.makefile("rwb") as stream:
                    stream.write(b'{"execute": "qmp_capabilities"}\n{"execute": "quit-not"}\n')
                    stream.flush()
                    first = stream.readline()
                    assert first == b"{\r\n" if path == "q2" else "QMP" in json.loads(first)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(place.path("h1"))
            with client.makefile("rwb") as stream:
                stream.write(b"info network\n")
                stream.flush()
                text = b"".join(stream.readline() for _ in range(3))  # the greeting, the echo, the answer
        assert b"net0: index=0,type=echo" in text


def test_qmp_on_stdio(place: Place) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vnic", "run", "-qmp", "stdio", "-netdev", ECHO],
        env=place.environment,
        cwd=place.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    asked = '{"execute": "qmp_capabilities"} {"execute": "query-links"} {"execute": "quit"}\n'
    out, _ = process.communicate(asked, timeout=PATIENCE_S)
    replies = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0
    assert replies[2]["return"][0]["name"] == "net0"
    assert {"return": {}} in replies[3:]


def test_qmp_shell_works_unchanged(place: Place) -> None:
    with place.run("-netdev", ECHO, "-device", NIC) as running:
        result = subprocess.run(
            [sys.executable, "-c", "from qemu.qmp.qmp_shell import main; main()", running.qmp_path],
            input="set_link name=nic0 up=false\nquery-links name=nic0\n",
            env={**place.environment, "PYTHONWARNINGS": "default"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert "{'return': {}}" in result.stdout.replace('"', "'")
    assert "'operator'" in result.stdout.replace('"', "'")


def test_ten_thousand_flaps_end_in_the_right_state(place: Place) -> None:
    """As fast as QMP takes them. What leaks grows in each round; the records that wait for the disk only in some."""
    rounds, flaps = 4, 2500

    def resident_kib() -> int:
        with open(f"/proc/{running.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def flap(stream: Any, count: int) -> None:
        for start in range(0, count, 100):
            for number in range(start, start + 100):
                up = "true" if number % 2 else "false"
                stream.write(b'{"execute":"set_link","arguments":{"name":"nic0","up":%s}}' % up.encode())
            stream.flush()
            done = 0
            while done < 100:
                line = stream.readline()
                done += line.startswith(b'{"return"')

    with (
        place.run("-netdev", ECHO, "-device", NIC) as running,
        guest_on(place.path("nic0.sock")) as guest,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(PATIENCE_S)
        client.connect(running.qmp_path)
        with client.makefile("rwb") as stream:
            stream.readline()
            stream.write(b'{"execute":"qmp_capabilities"}\n')
            stream.flush()
            stream.readline()
            sizes = []
            for _ in range(rounds):  # the first fills the journal
                flap(stream, flaps)
                sizes.append(resident_kib())
            assert min(after - before for before, after in pairwise(sizes)) < 512, sizes
        assert place.verb("link", "set", "nic0", "up", "--wait", "30").returncode == 0
        wait_for(lambda: guest.sees_up())
        assert place.verb("link", "set", "nic0", "down", "--wait", "30").returncode == 0
        wait_for(lambda: not guest.sees_up())
