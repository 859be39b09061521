"""`vnic rehearse` with real kernels: its times beside those of other captures, what it leaves, what it refuses."""

from __future__ import annotations

import json
import math
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.fakes.json_shapes import validate
from tests.integration.process import COMMAND, Place, new_place, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "rehearse.yml"
NICS = ("h1.eth1", "h1.eth2", "h2.eth1", "h2.eth2")
PORT = 52428
ADDRESSES = {"h1": bytes((10, 0, 0, 1)), "h2": bytes((10, 0, 0, 2))}
IPV6 = "echo 0 >/proc/sys/net/ipv6/conf/bond0/accept_dad; ip -6 addr add fd00::{}/64 dev bond0"
LONG_S = 250.0
"""For a lab that boots, and for runs of a rehearsal, on a slow machine."""
LEAD_S = 0.2
"""Before a change, in which the path of before is looked at."""
PLACES = ("--fail", "h1:eth1", "--between", "h1,h2")

pytestmark = pytest.mark.needs("uml", "vnic-wire", "vnic-probe")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The example, up once for all tests. Its bonds take what comes in on the idle NIC, too, so that all that a capture
    at the NIC has is delivered."""
    text = EXAMPLE.read_text()
    assert "echo active-backup >mode;" in text
    file = tmp_path_factory.mktemp("lab") / "rehearse.yml"
    text = text.replace("echo 50 >miimon", "echo 50 >miimon; echo 1 >all_slaves_active")
    for number in (1, 2):
        text = text.replace(
            f"10.0.0.{number}/24 dev bond0;", f"10.0.0.{number}/24 dev bond0; {IPV6.format(number)};"
        )
    file.write_text(text)
    with new_place() as made:
        try:
            verb(made, "lab", "up", str(file))
            yield made
        finally:
            made.command("lab", "down")


def verb(place: Place, *words: str) -> str:
    done = place.command(*words, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Probe(NamedTuple):
    """A probe in a capture of the test's own; its time is the wall clock's, in seconds."""

    time: float
    number: int
    nic: str


def probes(folder: Path, source: str, at: str) -> list[Probe]:
    """Those from one node at the NICs of another, or of its own, read without any code of vnic's."""
    found = []
    for nic in NICS:
        if not nic.startswith(at):
            continue
        data = (folder / f"{nic}.pcap").read_bytes()
        place = 24
        while place < len(data):
            seconds, us, kept, _ = struct.unpack_from("<IIII", data, place)
            frame = data[place + 16 : place + 16 + kept]
            place += 16 + kept
            # Ethernet, IPv4 with a header of 20 bytes, UDP
            if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[26:30] != ADDRESSES[source]:
                continue
            if int.from_bytes(frame[36:38]) == PORT:
                found.append(Probe(seconds + us / 1e6, int.from_bytes(frame[50:54]), nic))
    return sorted(found)


def test_times_are_those_of_captures_at_both_ends(place: Place, tmp_path: Path) -> None:
    for nic in NICS:
        options = f"filter-dump,id=own-{nic},netdev={nic}-end,file={tmp_path / f'{nic}.pcap'}"
        verb(place, "hmp", f"object_add {options}")
    files = {name: str(tmp_path / name) for name in ("csv", "junit", "svg")}
    try:
        words = [word for name, path in files.items() for word in (f"--{name}", path)]
        said = verb(
            place, "rehearse", "rehearse", *PLACES, "--repeat", "2", "--settle", "2s", "--json", *words
        )
    finally:
        for nic in NICS:
            verb(place, "hmp", f"object_del own-{nic}")
    found: dict[str, Any] = validate("rehearse", said)
    assert [each["address"] for each in found["between"]] == ["10.0.0.1", "10.0.0.2"]
    assert len(found["runs"]) == 2
    events = [event for run in found["runs"] for event in run["events"]]
    assert [event["event"] for event in events] == ["down", "up"] * 2
    for event, after in zip(events, [*events[1:], None], strict=True):
        for nic in event["nics"]:
            assert nic["change-ms"] <= nic["interrupt-ms"] <= nic["seen-ms"]
        assert {nic["nic"] for nic in event["nics"]} == {"h1.eth1", "h2.eth1"}
        for way in event["directions"]:
            check_way(tmp_path, event["time"], after["time"] if after else math.inf, way)
    assert events[0]["directions"][0]["old-path"] == "h1:eth1 ── h2:eth1"
    assert events[0]["directions"][0]["new-path"] == "h1:eth2 ── h2:eth2"
    assert all(Path(path).read_text() for path in files.values())


def check_way(folder: Path, change: float, until: float, way: dict[str, Any]) -> None:
    """A direction of an event beside what the test's captures say, to the millisecond."""
    arrivals = [
        each for each in probes(folder, way["from"], way["to"]) if change - LEAD_S <= each.time <= until
    ]
    assert way["converged"]
    if way["old-path"] != way["new-path"]:
        old, new = (way[key].rpartition(":")[2] for key in ("old-path", "new-path"))
        last_old = max(each.time for each in arrivals if each.nic.endswith(old))
        first_new = min(each.time for each in arrivals if each.nic.endswith(new) and each.time > change)
        assert change + way["last-old-ms"] / 1000 == pytest.approx(last_old, abs=0.001)
        assert change + way["first-new-ms"] / 1000 == pytest.approx(first_new, abs=0.001)
    if way["outage-ms"]:
        begin, end = (change + way[key] / 1000 for key in ("outage-from-ms", "outage-to-ms"))
        within = [each for each in arrivals if begin - 0.001 <= each.time <= end + 0.001]
        assert within[0].time == pytest.approx(begin, abs=0.001)
        assert within[-1].time == pytest.approx(end, abs=0.001)
        assert way["outage-ms"] == pytest.approx((end - begin) * 1000, abs=0.01)
        left = [each.number for each in probes(folder, way["from"], way["from"])]
        assert {within[0].number, within[-1].number} <= set(left)


def test_over_ipv6(place: Place) -> None:
    words = ("--fail", "h1:eth1", "--between", "h1@fd00::1,h2@fd00::2", "--settle", "2s")
    found = json.loads(verb(place, "rehearse", "rehearse", *words, "--json"))
    assert [each["address"] for each in found["between"]] == ["fd00::1", "fd00::2"]
    down, up = found["runs"][0]["events"]
    for way in down["directions"] + up["directions"]:
        assert way["converged"]
        assert way["old-path"] != way["new-path"]


def test_an_outage_without_end_is_counted_in_its_own_event(place: Place) -> None:
    words = ("--fail", "h1", "--between", "h1,h2", "--timeout", "5s", "--json")
    refused = place.command("rehearse", "rehearse", *words, timeout=LONG_S)
    assert refused.returncode == 1, refused.stderr
    assert "no way around was found" in refused.stderr
    down, up = json.loads(refused.stdout)["runs"][0]["events"]
    for way in down["directions"]:
        assert not way["converged"]
        assert 0 < way["lost"] <= way["sent"]
        assert not {"new-path", "outage-to-ms"} & way.keys()
    for way in up["directions"]:
        assert way.get("lost", 0) <= way["sent"]
        assert way.get("outage-from-ms", 0) == 0
        assert "old-path" not in way


def leftovers(place: Place) -> list[str]:
    """What a rehearsal has in the lab while it goes on."""
    inside = [
        line
        for node in ("h1", "h2")
        for line in verb(place, "lab", "exec", node, "ps | grep vnic-[p]robe; true").splitlines()
    ]
    dumps = [line for line in verb(place, "hmp", "qom-list /objects").splitlines() if "rehearse" in line]
    return inside + dumps


def links(place: Place) -> set[str]:
    return {link["link"] for link in json.loads(verb(place, "link", "--json"))}


def test_one_that_is_broken_off_leaves_the_lab_as_it_was(place: Place) -> None:
    words = [*COMMAND, "rehearse", "rehearse", *PLACES, "--repeat", "1000"]
    process = subprocess.Popen(
        words, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: links(place) == {"up", "down"})
        assert leftovers(place)
        refused = place.command("rehearse", "rehearse", *PLACES)
        assert (refused.returncode, refused.stderr) == (
            1,
            "vnic: another rehearsal goes on in lab 'rehearse'\n",
        )
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
        assert process.returncode == 130, said
    finally:
        process.kill()
        process.wait()
    assert links(place) == {"up"}
    assert leftovers(place) == [], said


def test_one_that_was_killed_is_followed_by_another_at_once(place: Place) -> None:
    words = [*COMMAND, "rehearse", "rehearse", *PLACES, "--repeat", "1000"]
    process = subprocess.Popen(
        words, env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: links(place) == {"up", "down"})
    finally:
        process.kill()
        process.wait()
    assert leftovers(place)
    verb(place, "link", "set", "h1.eth1", "up")
    found = json.loads(verb(place, "rehearse", "rehearse", *PLACES, "--json"))
    assert len(found["runs"]) == 1
    assert leftovers(place) == []


def test_what_cannot_be_measured_is_refused(place: Place) -> None:
    for words, text in (
        (("--fail", "h1:eth7", "--between", "h1,h2"), "no link at 'h1:eth7'; did you mean 'h1:eth"),
        (("--fail", "h1:eth1", "--between", "h1,h3"), "no node 'h3'"),
        (("--fail", "h1:eth1", "--between", "h1,h1"), "two nodes are expected"),
        (("--fail", "h1:eth1", "--between", "h1@10.0.0.9,h2"), "node 'h1' has no address 10.0.0.9"),
        (("--fail", "h1:eth1", "--between", "h1@x,h2"), "'x' is no IP address"),
        ((*PLACES, "--csv", "/nonexistent/x"), "/nonexistent: no such folder"),
    ):
        refused = place.command("rehearse", "rehearse", *words)
        assert refused.returncode == 1, refused
        assert text in refused.stderr
    verb(place, "link", "set", "h1.eth1", "down")
    try:
        refused = place.command("rehearse", "rehearse", *PLACES)
        assert "h1.eth1 is down before it is pulled" in refused.stderr
        nothing = place.command("rehearse", "rehearse", "--fail", "h1", "--between", "h1,h2")
        assert "h1.eth1 is down before it is pulled" in nothing.stderr
    finally:
        verb(place, "link", "set", "h1.eth1", "up")
    assert leftovers(place) == []
