"""`import vnic` against a running vnic: NICs, what the guest saw, why, flaps, impairments, in both faces."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.process import SOURCE, PlayedGuest, Running, guest_on, new_place, wait_for

import vnic
from vnic import aio
from vnic.api import blocking, guest, instance, nic
from vnic.api.nic import as_ms
from vnic.cli.why import explain, look
from vnic.lab.played.vhost_user_client import QEMU_NETDEV_PROTOCOL_FEATURES
from vnic.protocol.vhost_user.messages import P_CONFIG

OPTIONS = (
    *("-netdev", "echo,id=net0", "-netdev", "echo,id=net1"),
    *("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"),
    *("-device", "virtio-net,id=nic1,netdev=net1,attach.type=vhost-user,attach.path=nic1.sock"),
)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with new_place() as place, place.run(*OPTIONS) as made:
        yield made


@pytest.fixture
def instance_(running: Running) -> Iterator[vnic.Vnic]:
    with vnic.connect(qmp=running.qmp_path) as found:
        yield found
        found.set_link("net0", "up")


@pytest.fixture
def nic0(instance_: vnic.Vnic) -> vnic.Nic:
    return instance_.nic("nic0")


@pytest.fixture
def played(running: Running) -> Iterator[PlayedGuest]:
    with guest_on(running.place.path("nic0.sock")) as made:
        yield made


def test_importing_vnic_imports_little() -> None:
    code = "import sys, vnic; print(sorted(m for m in sys.modules if m.startswith(('vnic', 'asyncio', 'msgspec'))))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['vnic']"


def test_names_are_those_that_have_types() -> None:
    stub = (SOURCE / "vnic" / "__init__.pyi").read_text()
    typed = {line.split()[-1] for line in stub.splitlines() if " as " in line}
    assert {name for name in dir(vnic) if name in typed} == typed
    assert all(hasattr(vnic, name) for name in typed)
    with pytest.raises(AttributeError, match="has no attribute 'Nik'"):
        vnic.Nik  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("plain", "awaited"),
    [
        (blocking.Nic, nic.Nic),
        (blocking.Flap, nic.Flap),
        (blocking.Guest, guest.Guest),
        (blocking.Vnic, instance.Vnic),
    ],
)
def test_both_faces_have_the_same_methods(plain: type, awaited: type) -> None:
    def methods(face: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(face).items()
            if not name.startswith("_") and name != "session" and callable(method)
        }

    assert methods(plain) == methods(awaited)


def test_down_and_up_are_seen(nic0: vnic.Nic, played: PlayedGuest) -> None:
    for state in ("down", "up"):
        change = nic0.set(state)
        assert (change.link, change.cause.kind) == (state, "operator")
        seen = nic0.wait_seen(timeout=60)
        assert seen.id == change.id
        assert seen.seen_us is not None
        assert played.sees_up() is (state == "up")


def test_a_change_that_is_none_returns_the_last_one(nic0: vnic.Nic) -> None:
    first = nic0.down()
    assert nic0.down().id == first.id
    assert nic0.info().last_change.id == first.id


def test_unplugged_waits_at_both_ends(nic0: vnic.Nic, played: PlayedGuest) -> None:
    with nic0.unplugged(wait=60) as change:
        assert change.seen_us is not None
        assert not played.sees_up()
    assert played.sees_up()
    assert nic0.info().link == "up"


def test_unplugged_puts_the_cable_back_after_an_error(nic0: vnic.Nic) -> None:
    with pytest.raises(ZeroDivisionError), nic0.unplugged():
        raise ZeroDivisionError
    assert nic0.info().link == "up"


def test_unplugged_leaves_down_what_was_down(nic0: vnic.Nic) -> None:
    nic0.down()
    with nic0.unplugged():
        assert nic0.info().link == "down"
    assert nic0.info().link == "down"


def test_a_guest_that_does_not_read_has_not_seen(nic0: vnic.Nic, played: PlayedGuest) -> None:
    nic0.wait_seen("up", timeout=60)
    played.obeys.clear()
    nic0.down()
    with pytest.raises(vnic.NotSeen, match="the guest has last read 'up'"):
        nic0.wait_seen(timeout=0.05)
    with pytest.raises(vnic.NotSeen), nic0.unplugged(wait=0.05):
        pass
    played.obeys.set()
    nic0.up()
    assert nic0.wait_seen(timeout=60).link == "up"


def test_no_guest_has_seen_nothing_and_is_not_waited_for(nic0: vnic.Nic) -> None:
    with nic0.unplugged() as change:
        assert change.seen_us is None
        with pytest.raises(vnic.NotSeen, match="no guest is attached"):
            nic0.wait_seen(timeout=0)


def test_a_guest_that_follows_its_socket_cannot_confirm(running: Running, nic0: vnic.Nic) -> None:
    features = QEMU_NETDEV_PROTOCOL_FEATURES & ~P_CONFIG
    with guest_on(running.place.path("nic0.sock"), features) as socket_guest:
        wait_for(lambda: nic0.info().guest.link_shown_by == "socket")
        with nic0.unplugged() as change:
            assert change.seen_us is None
            assert socket_guest.gone.wait(60)
            with pytest.raises(vnic.NotSeen, match="cannot confirm it"):
                nic0.wait_seen(timeout=60)


def test_wait_for_up_says_what_still_holds(instance_: vnic.Vnic, nic0: vnic.Nic) -> None:
    instance_.set_link("net0", "down")
    assert nic0.up().link == "down"
    with pytest.raises(vnic.NotSeen, match="still down after 0 s, held by net0 operator"):
        nic0.wait_seen(timeout=0)


def test_why_is_the_text_of_the_verb_and_records(running: Running, nic0: vnic.Nic) -> None:
    change = nic0.down()
    why = nic0.why(1)
    assert why.link.holds[0].kind == "operator"
    assert why.changes[-1].id == change.id
    assert why.causes == {}
    said = running.place.verb("why", "--qmp", running.qmp_path, "-c", "1", "nic0").stdout

    def without_times(text: str) -> list[str]:
        return [
            line.split("set_link")[0].split(" ago")[0].rstrip("0123456789.: ms") for line in text.splitlines()
        ]

    assert without_times(str(why))[0] == without_times(said)[0]
    assert len(str(why).splitlines()) == len(said.splitlines())
    assert "held by operator: set_link nic0 off" in str(why)
    assert "\x1b" not in str(why)


def test_a_nic_has_a_name_and_an_address(instance_: vnic.Vnic, nic0: vnic.Nic) -> None:
    mac = nic0.info().mac
    assert mac is not None
    assert instance_.nic(mac.upper().replace(":", "-")).name == "nic0"
    assert [each.name for each in instance_.nics()] == ["nic0", "nic1"]
    with pytest.raises(vnic.Refused, match=r"no NIC 'net0'; there are: nic0, nic1"):
        instance_.nic("net0")
    assert {link.name for link in instance_.links()} == {"nic0", "net0", "nic1", "net1"}


def test_flaps(nic0: vnic.Nic) -> None:
    flap = nic0.flap("10ms", 0.02, count=2, jitter=10, seed=7)
    assert flap.seed == 7
    wait_for(lambda: not flap.active())
    endless = nic0.flap("1m", "1m")
    assert endless.active()
    endless.stop()
    endless.stop()
    assert not endless.active()
    assert nic0.info().link == "up"
    downs = [change for change in nic0.log() if change.cause.text.startswith(f"{flap.id}: down")]
    assert len(downs) == 2


@pytest.mark.parametrize(
    ("text", "ms"),
    [("200ms", 200), ("5s", 5000), ("1.5m", 90_000), ("1h", 3_600_000), (0.25, 250), (3, 3000)],
)
def test_times(text: float | str, ms: int) -> None:
    assert as_ms(text) == ms


def test_what_is_no_time_or_state(nic0: vnic.Nic) -> None:
    with pytest.raises(ValueError, match="'fast' is no time"):
        nic0.flap("fast", count=1)
    with pytest.raises(ValueError, match="neither 'up' nor 'down'"):
        nic0.set("off")  # type: ignore[arg-type]
    with pytest.raises(vnic.Refused):
        nic0.flap(0, count=1)


def test_impairments_and_faults(instance_: vnic.Vnic, nic0: vnic.Nic) -> None:
    with nic0.impaired(delay="20ms", loss="1%"):
        assert [each.text for each in nic0.info().impairments] == ["delay 20ms, loss 1%"]
        nic0.impair(direction="tx", loss="0", clear=True)
    assert nic0.info().impairments == []
    nic0.fault("slow-up", delay_ms=60_000)
    nic0.down()
    assert nic0.up().link == "down"
    nic0.clear_fault("slow-up")
    assert nic0.info().link == "up"
    assert instance_.execute("query-faults") == []
    with pytest.raises(vnic.Refused):
        nic0.impair(delay="20")


def test_log_and_journal(instance_: vnic.Vnic, nic0: vnic.Nic) -> None:
    began = time.time()
    change = nic0.down()
    assert [each.id for each in nic0.log(after_id=change.id - 1)] == [change.id]
    assert change.id in [each.id for each in instance_.log()]
    assert [each.id for each in instance_.journal(since=began - 1) if each.kind == "link"][-1] == change.id


def test_a_nic_that_was_deleted_is_refused(instance_: vnic.Vnic, running: Running) -> None:
    instance_.execute(
        "device_add",
        {
            "driver": "virtio-net",
            "id": "nic9",
            "attach": {"type": "vhost-user", "path": running.place.path("nic9.sock")},
        },
    )
    gone = instance_.nic("nic9")
    instance_.execute("device_del", {"id": "nic9"})
    wait_for(lambda: "nic9" not in [each.name for each in instance_.nics()])
    for call in (gone.down, gone.info, gone.why, gone.wait_seen):
        with pytest.raises(vnic.Refused, match="nic9"):
            call()


def test_a_connection_that_nobody_closed_ends_with_its_last_user(running: Running) -> None:
    def clients() -> int:
        return Path("/proc/net/unix").read_text().count(running.qmp_path)

    gc.collect()
    before = clients()
    left = vnic.connect(qmp=running.qmp_path).nic("nic0")
    gc.collect()
    assert left.info().name == "nic0"
    assert clients() == before + 1
    del left
    gc.collect()
    wait_for(lambda: clients() == before)


def test_where_no_vnic_answers(tmp_path: Path) -> None:
    with pytest.raises(vnic.Refused, match="No such file"):
        vnic.connect(qmp=str(tmp_path / "none.qmp"))


def test_a_connection_is_opened_again_after_a_restart(tmp_path: Path) -> None:
    with new_place() as place:
        path = place.qmp_path()
        with place.run(*OPTIONS):
            found = vnic.connect(qmp=path)
            nic0 = found.nic("nic0")
        with pytest.raises(vnic.Refused):
            nic0.info()
        with place.run(*OPTIONS):
            assert nic0.info().link == "up"
        found.close()


def test_a_vnic_that_ends_while_it_is_waited_for() -> None:
    with new_place() as place:
        with place.run(*OPTIONS) as running:
            found = vnic.connect(qmp=running.qmp_path)
            threading.Timer(0.3, running.process.send_signal, [signal.SIGTERM]).start()
            with pytest.raises(vnic.Refused, match="ended before"):
                found.nic("nic0").wait_seen("down", timeout=60)
        found.close()


def test_calls_from_many_threads(instance_: vnic.Vnic) -> None:
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            own = instance_.nic(name)
            for _ in range(20):
                own.down()
                own.up()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"nic{index % 2}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {link.link for link in instance_.links()} == {"up"}


def test_ctrl_c_ends_a_wait(nic0: vnic.Nic) -> None:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        nic0.wait_seen("down", timeout=60)
    assert nic0.info().link == "up"


def test_async_face(running: Running, played: PlayedGuest) -> None:
    async def main() -> None:
        async with aio.Vnic(qmp=running.qmp_path) as found:
            nic0 = await found.nic("nic0")
            async with nic0.unplugged(wait=60) as change:
                assert change.seen_us is not None
            assert [each.name for each in await found.nics()] == ["nic0", "nic1"]
            text = str(await nic0.why(1))
            assert text.splitlines()[-2].startswith("  #")
            assert list(explain(await look(await found.session(), "nic0", 1)))[1] == "  nothing holds it down"
        other = await aio.connect(qmp=running.qmp_path)
        await asyncio.gather(*(other.links() for _ in range(8)))
        await other.close()

    asyncio.run(main())
