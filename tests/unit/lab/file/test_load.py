"""Lab files are read: both forms, containerlab's words, what is inherited, and errors with line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnic.lab.file.load import load, load_file
from vnic.lab.file.problems import BadLab
from vnic.lab.file.types import Lab

EXAMPLES = Path(__file__).parents[4] / "examples"

FLAT = """\
name: two
nodes:
  a: {kind: uml, memory: 256MB}
  b: {kind: socket, model: e1000}
links:
  - endpoints: ["a:eth1", "b:eth1"]
    follow: [operator, driver]
    state: down
"""


def read(text: str) -> Lab:
    return load(text)[0]


def errors(text: str) -> list[str]:
    with pytest.raises(BadLab) as bad:
        load(text)
    return [str(problem) for problem in bad.value.problems]


def notes(text: str) -> list[str]:
    return [str(note) for note in load(text)[1]]


def test_the_flat_form() -> None:
    lab = read(FLAT)
    assert lab.name == "two"
    assert {name: node.kind for name, node in lab.nodes.items()} == {"a": "uml", "b": "socket"}
    assert lab.nodes["a"].keys.memory == 256
    (link,) = lab.links
    assert (str(link.a), str(link.b), link.follow, link.down) == ("a:eth1", "b:eth1", "operator+driver", True)


def test_the_nested_form_is_the_same() -> None:
    head, *rest = FLAT.splitlines(keepends=True)
    assert read(head + "topology:\n" + "".join(f"  {line}" for line in rest)) == read(FLAT)


CONTAINERLAB = """\
name: wild
prefix: ""
mgmt: {network: custom, ipv4-subnet: 172.100.100.0/24}
topology:
  defaults: {env: {A: b}}
  kinds:
    nokia_srlinux: {type: ixrd3, image: "ghcr.io/nokia/srlinux"}
  groups:
    spine: {mgmt-ipv4: 172.100.100.9}
  nodes:
    srl1: {kind: nokia_srlinux, group: spine, startup-config: srl1.cfg, binds: ["a:/b"]}
    xrv: {kind: vr-xrv9k, image: "vrnetlab/vr-xrv9k:7.2.1", mgmt-ipv4: 172.100.100.12}
    pc: {kind: linux, image: "alpine:3", exec: ["ip addr add 10.0.0.1/24 dev eth1"], memory: 1Gb}
    1: {kind: ceos}
    br: {kind: bridge}
  links:
    - endpoints: ["srl1:e1-1", "xrv:Gi0/0/0/0"]
    - endpoints: ["pc:eth1", "1:eth1"]
      mtu: 1500
      vars: {any: thing}
    - endpoints: ["pc:eth2", "br:eth1"]
    - endpoints: ["srl1:mgmt0", "mgmt-net:srl1-mgmt0"]
    - endpoints: ["host:veth7", "srl1:e1-2"]
    - type: veth
      endpoints:
        - {node: srl1, interface: ethernet-1/3, mac: 02:00:00:00:00:01, vars: {x: 1}}
        - {node: pc, interface: eth3, ipv4: 10.1.0.1/24, ipv6: "2001:db8::1/64"}
    - type: host
      host-interface: veth8
      endpoint: {node: pc, interface: eth4}
    - type: vxlan
      endpoint: {node: xrv, interface: eth5}
      remote: 192.0.2.2
      vni: 100
      dst-port: 14789
    - {type: dummy, endpoint: {node: pc, interface: eth9}}
"""


def test_links_of_containerlab_and_vrnetlab_are_read_unchanged() -> None:
    lab = read(CONTAINERLAB)
    assert [str(link) for link in lab.links] == [
        "srl1:e1-1 ── xrv:Gi0/0/0/0",
        "pc:eth1 ── 1:eth1",
        "pc:eth2 ── br:eth1",
        "srl1:e1-2 ── host:veth7",
        "srl1:ethernet-1/3 ── pc:eth3",
        "pc:eth4 ── host:veth8",
        "xrv:eth5 ── vxlan-100:vxlan",
    ]
    assert {name: node.kind for name, node in lab.nodes.items()} == {
        **dict.fromkeys(("srl1", "xrv", "pc", "1"), "socket"),
        "br": "hub",
        "host": "interface",
        "vxlan-100": "tunnel",
    }
    assert lab.links[4].a.mac == "02:00:00:00:00:01"
    assert lab.links[4].b.addresses == ("10.1.0.1/24", "2001:db8::1/64")


VRNETLAB = """\
name: "vrnetlab-style"
mgmt: {network: statics, ipv4_subnet: 172.20.20.0/24}
topology:
  kinds:
    vr-ros: {image: "vrnetlab/vr-routeros:6.47.9"}
    juniper_vjunosrouter: {image: "vrnetlab/juniper_vjunos-router:23.4R2"}
  nodes:
    R01.TEST: {kind: vr-ros, mgmt_ipv4: 172.20.20.2}
    mx: {kind: juniper_vjunosrouter, ports: ["3991:22"], env: {QEMU_MEMORY: "8192"}}
    ap: {kind: openwrt}
    pc: {kind: linux, exec: ["ip addr add dev br01 192.168.0.1/24"]}
    br01|pc: {kind: bridge, network-mode: "container:pc"}
  links:
    - endpoints: [R01.TEST:eth1, mx:ge-0/0/0]
    - endpoints: ["mx:et-0/0/1", "br01|pc:mx1"]
    - {type: vxlan-stitch, endpoint: "ap:wan", remote: 192.0.2.9, vni: 113, udp-port: 4789}
    - {type: vxlan, endpoint: "ap:lan", remote: 192.0.2.9, vni: 114, parent-interface: eth0}
"""


def test_topologies_of_virtual_routers_are_read_unchanged() -> None:
    lab = read(VRNETLAB)
    assert [str(link) for link in lab.links] == [
        "R01.TEST:eth1 ── mx:ge-0/0/0",
        "mx:et-0/0/1 ── br01|pc:mx1",
        "ap:wan ── vxlan-113:vxlan",
        "ap:lan ── vxlan-114:vxlan",
    ]
    assert lab.nodes["br01|pc"].kind == "hub"
    remotes = [lab.nodes[name].keys.remote for name in ("vxlan-113", "vxlan-114")]
    assert remotes == ["192.0.2.9:4789", "192.0.2.9:14789"]


def test_what_is_ignored_is_said() -> None:
    said = notes(CONTAINERLAB)
    assert "2:1: prefix: of containerlab, and ignored" in said
    assert (
        "11:12: topology.nodes.srl1.kind: 'nokia_srlinux' is a kind of containerlab: taken as socket, you start its VM"
        in said
    )
    assert (
        "11:47: topology.nodes.srl1.startup-config: of containerlab, and ignored: startup-config, binds"
        in said
    )
    assert "22:33: topology.links[3].endpoints[1]: the link is left out: vnic has no 'mgmt-net'" in said
    assert not notes(FLAT)


def test_keys_are_inherited_from_defaults_kinds_and_groups() -> None:
    lab = read(
        "name: i\n"
        "defaults: {kind: uml, memory: 64}\n"
        "kinds: {uml: {memory: 96}, socket: {model: e1000}}\n"
        "groups: {big: {memory: 512}}\n"
        "nodes: {a: , b: {group: big}, c: {memory: 80}, d: {kind: socket}}\n"
    )
    assert [lab.nodes[name].keys.memory for name in "abcd"] == [96, 512, 80, None]
    assert lab.nodes["d"].keys.model == "e1000"


LINKS = """\
name: l
nodes: {a: {kind: uml}, b: {kind: uml}, i: {kind: interface}, t: {kind: tunnel, local: 1::1, remote: 1::2, vni: 5}}
links:
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("nodes: {a: {kind: uml}}", "1:1: the key 'name' is missing", id="no name"),
        pytest.param(
            "name: a/b\nnodes: {a: {kind: uml}}", "1:1: name: expected `str` matching regex", id="bad name"
        ),
        pytest.param(
            "name: x\nnodes: {}", "2:1: nodes: a mapping 'nodes' with at least one node", id="no nodes"
        ),
        pytest.param("name: x\nnodes: [a]", "2:1: nodes: a mapping 'nodes'", id="nodes as a list"),
        pytest.param("- a", "1:1: a lab is a mapping", id="a list"),
        pytest.param(
            "name: x\nnods: {}\nnodes: {a: {kind: uml}}",
            "2:1: nods: unknown key; did you mean 'nodes'?",
            id="top key",
        ),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: uml, memmory: 3}",
            "3:18: nodes.a.memmory: unknown key; did you mean 'memory'?",
            id="node key",
        ),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: uml, image: d}",
            "3:18: nodes.a.image: a node of kind uml does not have it",
            id="key of another kind",
        ),
        pytest.param("name: x\nnodes:\n  a: {kind: umll}", "3:7: nodes.a.kind: 'umll' is no kind", id="kind"),
        pytest.param("name: x\nnodes:\n  a: {}", "3:3: nodes.a: the key 'kind' is missing", id="no kind"),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: uml, memory: [1]}", "3:18: nodes.a.memory: expected", id="type"
        ),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: uml, memory: 4}",
            "3:18: nodes.a.memory: between 48 MiB",
            id="memory",
        ),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: uml, exec: [ok, 5]}",
            "3:29: nodes.a.exec[1]: expected `str`",
            id="type in a list",
        ),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: qemu, append: q}",
            "3:19: nodes.a.append: it goes with 'kernel'",
            id="append alone",
        ),
        pytest.param(
            "name: x\nnodes:\n  a: {kind: qemu, image: q, exec: [l]}",
            "3:29: nodes.a.exec: it needs the built-in guest",
            id="exec in an image",
        ),
        pytest.param(
            "name: x\nnodes:\n  t: {kind: tunnel, local: 1.1.1.1, vni: 3}",
            "3:3: nodes.t: a node of kind tunnel needs 'remote'",
            id="tunnel",
        ),
        pytest.param(
            "name: x\nnodes:\n  a b: {kind: uml}", "3:3: nodes.a b: a node's name has", id="node name"
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:eth1', 'c:eth1']",
            "4:27: links[0].endpoints[1]: there is no node 'c'",
            id="no such node",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:eth1']",
            "4:5: links[0].endpoints: expected `array` of length",
            id="one end",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:eth1', 'b']",
            "4:27: links[0].endpoints[1]: 'b' is no NODE:INTERFACE",
            id="no interface",
        ),
        pytest.param(LINKS + "  - {}", "4:5: links[0]: the key 'endpoints' is missing", id="no ends"),
        pytest.param(
            LINKS + "  - endpoints: ['a:eth1', 'a:eth1']",
            "4:5: links[0].endpoints: 'a:eth1' has one link only: it is both ends",
            id="a loop in one name",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n  - endpoints: ['b:x', 'a:y']",
            "5:5: links[1].endpoints: 'b:x' has one link only: it is at links[0] already",
            id="interface twice",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['i:eth0', 't:x']",
            "4:5: links[0]: at least one end is to be a VM's",
            id="no VM",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 't:x']\n  - endpoints: ['b:x', 't:y']",
            "5:5: links[1]: tunnel 't' has one link only",
            id="tunnel twice",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'i:x']\n    follow: none",
            "5:5: links[0].follow: only cables and tunnels follow",
            id="follow of an interface",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    follow: [all]",
            "5:14: links[0].follow[0]: invalid enum value 'all'",
            id="follow",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    state: of",
            "5:5: links[0].state: invalid enum value 'of'",
            id="state",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    impairments: {delay: 3}",
            "5:19: links[0].impairments.delay: expected",
            id="delay",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    impairments: {delay: 3ms, distribution: normal}",
            "5:5: links[0].impairments: Parameter 'distribution' needs 'jitter'",
            id="distribution",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    impairments: {loss: 101%}",
            "5:5: links[0].impairments: Parameter 'loss' expects a percentage",
            id="loss",
        ),
        pytest.param(
            "name: x\nnodes:\n  t: {kind: tunnel, remote: '[1.1.1.1]:1', vni: 3}",
            "3:21: nodes.t.remote: '[1.1.1.1]:1' is no HOST or HOST:PORT",
            id="remote",
        ),
        pytest.param(
            "name: x\nnodes:\n  t: {kind: tunnel, remote: 'a:0', vni: 3}",
            "3:21: nodes.t.remote: 'a:0' is no HOST or HOST:PORT",
            id="port",
        ),
        pytest.param(
            "name: x\nnodes:\n  t: {kind: tunnel, remote: 1.1.1.1, vni: 3, interval: 11}",
            "3:3: nodes.t: Parameter 'interval' expects 3.3, 10, 100, 1000, 10000, 60000 or 600000, not '11'",
            id="interval",
        ),
        pytest.param(
            "name: x\nnodes:\n  t: {kind: tunnel, remote: 1.1.1.1, vni: 3, ccm: 'off', level: 1}",
            "3:3: nodes.t: Parameter 'level' has no effect with 'ccm=off'",
            id="without CCMs",
        ),
        pytest.param(
            "name: x\nnodes:\n  t: {kind: tunnel, remote: 1.1.1.1, vni: 3, key: a, key-file: b}",
            "3:3: nodes.t: Parameters 'key' and 'key-file' are mutually exclusive",
            id="two keys",
        ),
        pytest.param(
            LINKS + "  - {type: vxlan, endpoint: 'a:x', remote: far, vni: 3}",
            "links[0].remote: 'far' is no IP address",
            id="remote of a link",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    impairments: {los: 3}",
            "links[0].impairments: object contains unknown field `los`",
            id="impairment",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    impairments: {}",
            "5:5: links[0].impairments: there is none in it",
            id="no impairment",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:x', 'b:x']\n    ipv4: [10.0.0.1]",
            "links[0].endpoints[0]: '10.0.0.1' is no IPv4 address with",
            id="address",
        ),
        pytest.param(
            LINKS + "  - endpoints: ['a:a/b', 'b:x']",
            "links[0]: 'a/b' is no name that Linux gives",
            id="interface name",
        ),
        pytest.param(
            "name: x\nnodes: {a: {kind: socket}, a.b: {kind: socket}}\nlinks: [{endpoints: ['a:b.c', 'a.b:c']}]",
            "would both be the NIC a.b.c",
            id="ids collide",
        ),
        pytest.param("name: x\ntopology: 3", "2:1: topology: a mapping with nodes", id="topology"),
        pytest.param(
            "name: x\ntopology: {nodes: {a: {kind: uml}}}\nlinks: []",
            "3:1: links: unknown key; with 'topology' it belongs below that",
            id="both forms",
        ),
    ],
)
def test_errors_have_line_and_key(text: str, said: str) -> None:
    found = errors(text)
    assert any(each.startswith(said) or said in each for each in found), found


def test_all_errors_are_found_at_once() -> None:
    assert (
        len(errors(LINKS + "  - endpoints: ['a:x', 'c:x']\n  - endpoints: ['a:y']\n  - {state: up}\n")) == 3
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.stem)
def test_the_examples_are_right(path: Path) -> None:
    lab, notes = load_file(str(path))
    assert lab.name == path.stem
    assert not notes


def test_the_file_is_named(tmp_path: object) -> None:
    path = f"{tmp_path}/bad.yml"
    with open(path, "w") as file:
        file.write("name: x\nnodes: 3\n")
    with pytest.raises(BadLab, match=f"{path}:2:1: nodes: "):
        load_file(path)
    with open(path, "wb") as file:
        file.write(b"name: x\n# \xff\n")
    with pytest.raises(BadLab, match=f"{path}:2:1: the file is not UTF-8"):
        load_file(path)
