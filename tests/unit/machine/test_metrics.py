"""What Prometheus gets: valid text, the names and labels of the manual, bounded in the number of NICs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from tests.fakes.loops import fresh_loop

from vnic.machine import Machine
from vnic.machine.metrics import OPENMETRICS, TALLY_SLACK, Metrics, exposition
from vnic.monitor.schema import convert_to_shape, device_options, netdev_options
from vnic.net.records import Cause, LinkChanged
from vnic.sockets.listener import listen_at

EXAMPLES = Path(__file__).parents[3] / "examples" / "metrics"
MANUAL = (Path(__file__).parents[3] / "docs" / "manual.md").read_text()


def scrape(folder: Path, nics: int = 1, devices: int = 1000, accept: str = OPENMETRICS) -> str:
    """The metrics of a machine with NICs at echoes, of which the first was pulled and plugged in again."""
    with fresh_loop() as loop:
        machine = Machine(loop)
        metrics = Metrics(loop, machine, listen_at(str(folder / "m")), devices)
        for number in range(nics):
            machine.netdev_add(_netdev(machine, id=f"net{number}"))
            machine.device_add(_nic(machine, folder, number))
        machine.network.set_link("nic0", False, "test")
        machine.network.set_link("nic0", True, "test")
        machine.network.set_link("nic0", False, "test")
        snapshot = loop.run_until_complete(metrics._snapshot())
        loop.run_until_complete(metrics.close())
        loop.run_until_complete(machine.close())
        return exposition(snapshot, accept)[0].decode()


def _netdev(machine: Machine, **keys: object) -> Any:
    return convert_to_shape(netdev_options(machine.netdev_types), {"type": "echo", **keys}, strings=False)


def _nic(machine: Machine, folder: Path, number: int) -> Any:
    tree = {
        "driver": "virtio-net",
        "id": f"nic{number}",
        "netdev": f"net{number}",
        "attach": {"type": "vhost-user", "path": str(folder / f"{number}.sock")},
    }
    shape = device_options(machine.device_types, machine.devices_not_built)
    return convert_to_shape(shape, tree, strings=False)


def samples(text: str, parse: Any = parse_openmetrics) -> dict[str, dict[frozenset[str], float]]:
    """By name of the sample: its value by the values of its labels."""
    found: dict[str, dict[frozenset[str], float]] = {}
    for family in parse(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.values())] = sample.value
    return found


def test_openmetrics_are_valid(tmp_path: Path) -> None:
    found = samples(scrape(tmp_path))
    nic, netdev = frozenset({"nic0", "nic"}), frozenset({"net0", "netdev"})
    assert found["node_network_carrier"] == {nic: 0, netdev: 1}
    assert found["node_network_carrier_down_changes_total"][nic] == 2
    assert found["node_network_carrier_changes_total"][nic] == 3
    assert found["vnic_link_changes_total"] == {
        frozenset({"nic0", "operator", "down"}): 2,
        frozenset({"nic0", "operator", "up"}): 1,
    }
    assert found["vnic_link_holds"] == {frozenset({"nic0", "nic", "operator"}): 1}
    assert found["vnic_guest_attached"] == {nic: 0}
    assert "vnic_guest_link_seen" not in found, "it is not known"


def test_plain_text_for_older_scrapers(tmp_path: Path) -> None:
    text = scrape(tmp_path, accept="text/plain")
    assert "# EOF" not in text
    assert samples(text, parse_plain)["node_network_carrier"][frozenset({"nic0", "nic"})] == 0


def test_number_of_series_is_bounded(tmp_path: Path) -> None:
    found = samples(scrape(tmp_path, nics=60, devices=20))
    assert len(found["node_network_carrier"]) == 20
    assert found["vnic_devices"][frozenset()] == 120
    assert found["vnic_devices_left_out"][frozenset()] == 100


def test_manual_lists_all_names(tmp_path: Path) -> None:
    text = scrape(tmp_path)
    names = {
        re.sub(r"_(total|bucket|count|sum|created)$", "", name)
        for name in samples(text)
        if name.startswith(("node_", "vnic_"))
    }
    for name in names | {"vnic_guest_link_seen", "vnic_link_seen_latency_seconds"}:
        assert f"`{name}" in MANUAL, name


@pytest.mark.needs("promtool")
def test_rules_and_configuration_of_the_examples(tmp_path: Path) -> None:
    tool = shutil.which("promtool")
    assert tool is not None
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([tool, *words], cwd=EXAMPLES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run(
        [tool, "check", "metrics"],
        input=scrape(tmp_path, accept=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_examples_use_metrics_that_exist(tmp_path: Path) -> None:
    known = set(samples(scrape(tmp_path))) | {"vnic_guest_link_seen"}
    for file in ("alerts.yml", "dashboard.json"):
        text = (EXAMPLES / file).read_text()
        for name in re.findall(r"\b((?:node_network|vnic|process)_[a-z_]+)\b(?=[{ \[\\\"(])", text):
            base = name.removesuffix("_bucket")
            assert name in known or base == "vnic_link_seen_latency_seconds", (file, name)


def test_names_that_come_and_go_do_not_fill_the_memory_where_nobody_scrapes(tmp_path: Path) -> None:
    with fresh_loop() as loop:
        machine = Machine(loop)
        metrics = Metrics(loop, machine, listen_at(str(tmp_path / "m")))
        for number in range(10 * TALLY_SLACK):
            change = LinkChanged(f"n{number}", "up", 1, Cause("operator", "test", "text"))
            machine.network.emit("LINK_CHANGED", change)
        assert len(metrics._tally) <= TALLY_SLACK + 1
        loop.run_until_complete(metrics.close())
        loop.run_until_complete(machine.close())
