"""Plans: what a vnic needs for a lab, and the steps from one plan to another."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest
from tests.fakes.scheduler import FakeScheduler

from vnic.backend.base import BackendContext
from vnic.filter import object_structs
from vnic.filter.netem import Netem
from vnic.filter.options import NetemOptions
from vnic.lab.file.load import load
from vnic.lab.file.plan import Plan, Step, default_mac, make_plan, steps, take, types
from vnic.lab.file.problems import MAX_SHOWN, BadLab
from vnic.monitor.schema import convert_to_shape, object_options
from vnic.net.netem.parameters import PROPERTIES
from vnic.net.network import Network

GOLDEN = Path(__file__).parent / "golden"

RING = """\
name: ring
nodes: {a: {kind: uml}, b: {kind: uml}, c: {kind: socket}}
links:
  - endpoints: ["a:eth1", "b:eth1"]
  - endpoints: ["b:eth2", "c:eth0"]
    follow: none
  - endpoints: ["c:eth1", "a:eth10"]
    state: down
    impairments: {delay: 10ms, loss: 0.5}
"""


def plan_of(text: str) -> Plan:
    return make_plan(load(text)[0], "/run/vnic/ring.lab")


def done(old: str, new: str) -> list[str]:
    return [f"{step.do} {step.name}" for step in steps(plan_of(old), plan_of(new))]


def test_the_plan_of_a_ring() -> None:
    text = msgspec.json.format(msgspec.json.encode(plan_of(RING)), indent=2).decode() + "\n"
    assert text == (GOLDEN / "ring.plan.json").read_text()


@pytest.mark.parametrize(
    "words",
    [
        "delay: 10ms, loss: 0.5",
        "delay: 120ms, jitter: 5ms, distribution: paretonormal, rate: 10mbit, limit: 5000",
        "loss: 1, loss-correlation: 25, duplicate: 0.00001, corrupt: 100",
        "delay: 1.5s, reorder: 25, jitter: 0us",
    ],
)
def test_impairments_are_those_of_an_object(words: str) -> None:
    """Each word of a lab is a property of a netem, in a form that it takes."""
    plan = plan_of(RING.replace("delay: 10ms, loss: 0.5", words))
    options = {
        "qom-type": "netem",
        "id": "n0",
        "netdev": plan.nics["c.eth1"]["netdev"],
        **plan.impaired["c.eth1"],
    }
    made = convert_to_shape(object_options(object_structs()), options)
    assert isinstance(made, NetemOptions)
    with asyncio.Runner() as runner:
        given = Netem(BackendContext(runner.get_loop(), Network(FakeScheduler())), made)
    shown = given.all_properties()
    for word in words.split(", "):
        name, value = word.split(": ")
        prop = PROPERTIES[name]
        assert prop.parse(name, shown[name]) == pytest.approx(prop.parse(name, value)), word
    assert made.netdev == "c.eth1-end"


def test_a_plan_survives_its_record() -> None:
    plan = plan_of(RING)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_all_kinds_of_far_ends() -> None:
    plan = plan_of(
        "name: far\n"
        "nodes: {t: {kind: tunnel, local: '[::1]:4790', remote: far.example, vni: 7, interval: 3.3, key-file: k},\n"
        "        a: {kind: qemu, model: e1000}, ns: {kind: interface, netns: lab, propagate: true}, h: {kind: hub}}\n"
        "links:\n"
        "  - endpoints: ['a:0', 't:x']\n    follow: [operator, admin]\n"
        "  - endpoints: ['ns:veth0', 'a:1']\n"
        "  - endpoints: ['a:2', 'h:1']\n"
        "  - endpoints: ['a:3', 'host:eth9']\n"
    )
    assert plan.netdevs == {
        "a.0-end": {
            "type": "tunnel",
            "local": "[::1]:4790",
            "remote": "far.example",
            "vni": 7,
            "interval": 3.3,
            "key-file": "k",
            "follow": "operator+admin",
            "id": "a.0-end",
        },
        "a.1-end": {
            "type": "interface",
            "ifname": "veth0",
            "netns": "lab",
            "propagate": True,
            "id": "a.1-end",
        },
        "a.2-end": {"type": "hubport", "hubid": plan.netdevs["a.2-end"]["hubid"], "id": "a.2-end"},
        "a.3-end": {"type": "interface", "ifname": "eth9", "id": "a.3-end"},
    }
    assert types(plan) == ({"tunnel", "interface", "hubport"}, set())
    assert {nic["driver"] for nic in plan.nics.values()} == {"e1000"}


def test_interfaces_are_in_natural_order() -> None:
    assert [nic.interface for nic in plan_of(RING).guests["a"].nics] == ["eth1", "eth10"]


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadLab, match=r"nodes\.a: the path of the socket of 'a:eth1' would be longer"):
        make_plan(load(RING)[0], "/" + "x" * 100)


def test_mac_addresses_are_local_and_follow_from_names() -> None:
    assert default_mac("ring", "a.eth1") == default_mac("ring", "a.eth1") != default_mac("ring2", "a.eth1")
    assert default_mac("ring", "a.eth1").startswith("02:")


def test_a_lab_of_a_thousand_nodes() -> None:
    """Planned and changed within this test's time; of its errors the first are told."""
    size = 1000
    nodes = "".join(f"  n{at}: {{kind: socket}}\n" for at in range(size))
    ends = [(f"n{at}:eth1", f"n{(at + 1) % size}:eth2") for at in range(size)]
    links = "".join(f"  - endpoints: ['{a}', '{b}']\n" for a, b in ends)
    text = f"name: big\nnodes:\n{nodes}links:\n{links}"
    lab = load(text)[0]
    plan = make_plan(lab, "/run/vnic/big.lab")
    assert len(plan.nics) == len(plan.netdevs) == len({nic["mac"] for nic in plan.nics.values()}) == 2 * size
    assert len(steps(Plan(), plan)) == 4 * size
    assert done(text, text.replace("'n7:eth1', 'n8:eth2'", "'n7:eth1', 'n9:eth3'")) == [
        "device_del n8.eth2",
        *("netdev_del n7.eth1-end", "netdev_del n8.eth2-end"),
        *("netdev_add n7.eth1-end", "netdev_add n9.eth3-end"),
        "device_add n9.eth3",
    ]
    with pytest.raises(BadLab) as bad:
        load(text.replace(":eth2']", ":eth1']") + "  - endpoints: ['n0:eth1', 'none:eth1']\n" * size)
    assert len(bad.value.problems) == MAX_SHOWN


# -- steps ------------------------------------------------------------------------------------------------------------


def test_nothing_differs() -> None:
    assert done(RING, RING) == []


def test_from_nothing_in_order() -> None:
    kinds = [step.do for step in steps(Plan(), plan_of(RING))]
    assert kinds == ["netdev_add"] * 6 + ["device_add"] * 6 + ["link-impair"] + ["boot"] * 2


def test_a_cable_is_plugged() -> None:
    assert done(RING, RING.replace("state: down", "state: up")) == [
        "set_link c.eth1-end",
        "set_link a.eth10-end",
    ]


def test_a_cable_is_pulled_from_the_start() -> None:
    first = next(step for step in steps(Plan(), plan_of(RING)) if step.name == "c.eth1-end")
    assert first.arguments["link"] is False


def test_impairments_change_alone() -> None:
    (step,) = steps(plan_of(RING), plan_of(RING.replace("10ms, loss: 0.5", "20ms")))
    assert step == Step("link-impair", "c.eth1", {"name": "c.eth1", "clear": True, "delay": "20ms"})
    (step,) = steps(plan_of(RING), plan_of(RING.replace("    impairments: {delay: 10ms, loss: 0.5}\n", "")))
    assert step == Step("link-impair", "c.eth1", {"name": "c.eth1", "clear": True})


def test_follow_changes_both_ends_and_no_guest() -> None:
    assert done(RING, RING.replace("follow: none", "follow: operator")) == [
        *("netdev_del b.eth2-end", "netdev_del c.eth0-end"),
        *("netdev_add b.eth2-end", "netdev_add c.eth0-end"),
    ]


def test_impairments_go_and_come_with_their_netdev() -> None:
    changed = RING.replace("state: down", "state: down\n    follow: none")
    assert done(RING, changed) == [
        *("netdev_del c.eth1-end", "netdev_del a.eth10-end"),
        *("netdev_add c.eth1-end", "netdev_add a.eth10-end"),
        "link-impair c.eth1",
    ]


def test_a_guest_boots_again_where_it_differs() -> None:
    assert done(RING, RING.replace("b: {kind: uml}", "b: {kind: uml, memory: 256}")) == ["stop b", "boot b"]


def test_a_link_goes_with_its_nics() -> None:
    without = RING.replace('  - endpoints: ["a:eth1", "b:eth1"]\n', "")
    assert done(RING, without) == [
        *("stop a", "stop b", "device_del a.eth1", "device_del b.eth1"),
        *("netdev_del a.eth1-end", "netdev_del b.eth1-end", "boot a", "boot b"),
    ]


def random_lab(source: random.Random) -> str:
    nodes = [f"n{index}" for index in range(source.randint(2, 5))]
    lines = ["name: r", "nodes:"]
    lines += [f"  {name}: {{kind: {source.choice(('uml', 'socket'))}}}" for name in nodes]
    lines.append("links:")
    for index in range(source.randint(0, 6)):
        a, b = source.choice(nodes), source.choice(nodes)
        lines += [
            f"  - endpoints: ['{a}:e{index}', '{b}:f{index}']",
            f"    state: {source.choice(('up', 'down'))}",
        ]
        if source.random() < 0.5:
            lines.append(f"    follow: {source.choice(('none', 'operator'))}")
        if source.random() < 0.3:
            lines.append("    impairments: {delay: 1ms}")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(40))
def test_steps_lead_from_any_plan_to_any_other_also_half_way_back(seed: int) -> None:
    source = random.Random(seed)
    old, new = plan_of(random_lab(source)), plan_of(random_lab(source))
    plan = msgspec.json.decode(msgspec.json.encode(old), type=Plan)
    todo = steps(plan, new)
    half = source.randint(0, len(todo))
    for step in todo[:half]:
        apply(plan, step, new)
    for step in steps(plan, old):
        apply(plan, step, old)
    assert normal(plan) == normal(old)
    for step in steps(plan, new):
        apply(plan, step, new)
    assert normal(plan) == normal(new)


def apply(plan: Plan, step: Step, new: Plan) -> None:
    """As vnic would, which refuses an id twice, and a netdev's deletion takes its objects along."""
    if step.do in ("netdev_add", "device_add"):
        assert step.name not in plan.netdevs | plan.nics
    if step.do == "link-impair":
        assert plan.nics[step.name]["netdev"] in plan.netdevs
    take(plan, step, new)


def normal(plan: Plan) -> tuple[object, ...]:
    return plan.netdevs, plan.nics, plan.impaired, sorted(plan.down), plan.guests
