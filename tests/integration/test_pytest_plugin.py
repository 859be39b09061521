"""The pytest plugin, in runs of pytest of their own: fixtures, links put back, the journal in reports, xdist."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.process import Place, Running, new_place

VNIC = (
    *("-name", "shared", "-netdev", "echo,id=net0"),
    *("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"),
    *("-device", "virtio-net,id=nic1,attach.type=vhost-user,attach.path=nic1.sock"),
)
LAB = """\
name: sockets
nodes: {a: {kind: socket}, b: {kind: socket}}
links: [{endpoints: ["a:eth1", "b:eth1"]}]
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with new_place() as place, place.run(*VNIC[2:], name="shared") as running:
        yield running


def run_pytest(place: Place, text: str, *options: str) -> str:
    """What a run of pytest says of a file with these tests."""
    folder = place.folder / "tests"
    folder.mkdir(exist_ok=True)
    (folder / "test_of_user.py").write_text(f"import pytest, vnic\n{text}")
    (folder / "lab.yml").write_text(LAB)
    if not (folder / "pytest.ini").exists():
        (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "vnic.pytest_plugin", "-p", "no:cacheprovider", "-v"),
            *options,
        ],
        cwd=folder,
        env={**place.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_links_are_put_back_after_each_test(shared: Running) -> None:
    said = run_pytest(
        shared.place,
        """
def test_leaves_all_changed(vnic_lab):
    nic = vnic_lab.nic("nic0")
    nic.down()
    vnic_lab.nic("nic1").flap("1m", "1m")
    nic.impair(delay="5ms")
    nic.fault("one-way", direction="rx")
    nic.fault("slow-up", delay_ms=60000)

def test_leaves_the_netdev_down(vnic_lab):
    assert vnic_lab.nic("nic0").info().link == "up"
    assert vnic_lab.execute("query-faults") == vnic_lab.execute("query-flaps") == []
    assert vnic_lab.execute("query-impairments") == []
    vnic_lab.set_link("net0", "down")

def test_finds_all_as_it_was(nic):
    assert nic.name == "nic0"
    assert nic.info().link == "up"

@pytest.mark.vnic_nic("nic1")
def test_has_its_nic(nic):
    assert nic.name == "nic1"
    assert [hold.kind for hold in nic.info().holds] == ["no-peer"]
""",
        *("--vnic", "shared"),
    )
    assert "4 passed" in said, said


def test_what_was_there_before_is_put_back_too(shared: Running) -> None:
    place = shared.place
    place.verb("link", "impair", "nic0", "--delay", "3ms", "--seed", "7")
    place.verb("link", "fault", "nic0", "slow-up", "1ms")
    place.verb("link", "set", "nic1", "down")
    said = run_pytest(
        place,
        """
def test_changes_what_was_there(vnic_lab):
    nic = vnic_lab.nic("nic0")
    nic.impair(delay="9ms", loss="50%")
    nic.clear_fault("slow-up")
    vnic_lab.nic("nic1").up()

def test_clears_it(vnic_lab):
    nic = vnic_lab.nic("nic0")
    assert [each.text for each in nic.info().impairments][0] == "delay 3ms"
    assert vnic_lab.execute("query-faults")[0]["delay-ms"] == 1
    assert "operator" in [hold.kind for hold in vnic_lab.nic("nic1").info().holds]
    nic.impair(clear=True)
    nic.fault("slow-up", delay_ms=5)
""",
        *("--vnic", "shared"),
    )
    assert "2 passed" in said, said
    assert "delay 3ms" in place.verb("link", "impair", "nic0", "--show").stdout
    assert "comes up 0.001 s after" in place.verb("link", "fault", "show").stdout
    for words in (("impair", "nic0", "--clear"), ("fault", "nic0", "clear"), ("set", "nic1", "up")):
        assert place.verb("link", *words).returncode == 0


def test_what_cannot_be_put_back_is_an_error_of_a_shared_vnic(shared: Running) -> None:
    said = run_pytest(
        shared.place,
        """
def test_adds_a_netdev(vnic_lab):
    vnic_lab.execute("netdev_add", {"type": "echo", "id": "net9"})
""",
        *("--vnic", "shared"),
    )
    assert "1 passed, 1 error" in said, said
    assert "the links of vnic 'shared' cannot be put back: netdev net9 was added" in said
    assert shared.place.verb("netdev", "del", "net9").returncode == 0


def test_a_failing_test_has_the_journal_of_its_time(shared: Running) -> None:
    said = run_pytest(
        shared.place,
        """
def test_before(nic):
    nic.flap("1ms", count=1)

def test_fails(nic):
    with nic.unplugged():
        assert False

def test_touches_nothing(nic):
    assert False
""",
        *("--vnic", "shared"),
    )
    assert said.count("- vnic: links during the test -") == 2
    report = said.split("- vnic: links during the test -")[1]
    lines = [line for line in report.splitlines() if " nic0 " in line]
    assert [line.split()[3] for line in lines] == ["down:", "up:"], said
    assert "operator: set_link nic0 off" in lines[0]
    assert "nothing happened to them" in said


LAB_TESTS = """
@pytest.mark.parametrize("number", range(4))
def test_has_a_lab_of_its_own(vnic_lab, number):
    assert vnic_lab.nic("a:eth1").down().link == "down"
    assert vnic_lab.name.startswith("sockets-")
    print(f"name={vnic_lab.name}")
"""


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]])
def test_each_worker_has_a_lab_and_ends_it(workers: list[str]) -> None:
    with new_place() as place:
        said = run_pytest(place, LAB_TESTS, "--vnic-lab", "lab.yml", "-rP", *workers)
        assert "4 passed" in said, said
        names = {line for line in said.splitlines() if line.startswith("name=")}
        assert len(names) == (2 if workers else 1)
        assert not [name for name in place.files() if "sockets" in name]


def test_a_lab_that_cannot_be_put_back_is_made_anew() -> None:
    with new_place() as place:
        (place.folder / "tests").mkdir()
        (place.folder / "tests" / "pytest.ini").write_text("[pytest]\nvnic_lab = lab.yml\n")
        said = run_pytest(
            place,
            """
def test_deletes_a_nic(vnic_lab):
    vnic_lab.execute("device_del", {"id": "a.eth1"})

def test_has_it_again(vnic_lab):
    vnic_lab.nic("a:eth1")
    vnic_lab.execute("quit")

def test_has_all_again(vnic_lab):
    vnic_lab.nic("a:eth1")

@pytest.mark.vnic_lab({"name": "other", "nodes": {"hub": {"kind": "hub"}}})
def test_has_another(vnic_lab):
    assert vnic_lab.nics() == []
    assert vnic_lab.name.startswith("other-")
""",
        )
        assert "4 passed" in said, said
        assert [name for name in place.files() if name.endswith(".qmp")] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vnic-lab", "none.yml"], "none.yml: No such file"),
        (["--vnic", "nobody"], "no vnic named 'nobody' is running"),
    ],
)
def test_a_lab_that_does_not_come_up_is_the_tests_error(options: list[str], said: str) -> None:
    with new_place() as place:
        text = run_pytest(place, "def test_any(vnic_lab):\n    pass\n", *options)
        assert "1 error" in text
        assert said in text


def test_runs_without_the_fixtures_pay_for_nothing(tmp_path: Path) -> None:
    with new_place() as place:
        said = run_pytest(
            place,
            """
import sys
def test_nothing_is_imported():
    assert not [name for name in sys.modules if name.startswith("vnic.api")]
""",
        )
        assert "1 passed" in said, said
