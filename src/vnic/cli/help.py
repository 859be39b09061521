"""What `vnic run -h` and `-netdev help`, `-device virtio-net,help` and the like print.

The lists and properties come from the same tables and Structs that serve the options, so they cannot say anything
else; the words beside them are here.
"""

from __future__ import annotations

import msgspec

from vnic.backend import NETDEVS
from vnic.chardev.flat import FLAT_CHARDEVS
from vnic.cli.run_options import HelpTopic
from vnic.filter import OBJECTS, object_structs
from vnic.machine.nics import DEVICES, ModelFacts
from vnic.machine.place import PLACE
from vnic.machine.virtio_features import NOT_BUILT, SWITCHED
from vnic.monitor.schema.shapes import (
    Array,
    Builtin,
    Enumeration,
    Integer,
    Member,
    Object,
    Shape,
    Union,
    object_of,
)
from vnic.net.errors import DeviceNotFound, NetError

RUN_HELP = """\
usage: vnic run [OPTION]...

Gives virtual machines network cards, with QEMU's own options. A minus or two before each, values as key=value,…
(a comma in a value is written twice) or as JSON {…}.

Network:
  -netdev TYPE,id=ID[,link=off][,key=value]...
                 a back-end: what a NIC's cable is plugged into.
                 `-netdev help` lists the types, `-netdev TYPE,help` a type's keys
  -device DRIVER,id=ID[,netdev=ID],attach.type=vhost-user|vfio-user,attach.path=SOCKET[,attach.server=off]
          [,mac=ADDRESS][,link=off][,key=value]...
                 a NIC, and the socket where the VM plugs in.
                 `-device help` lists the drivers, `-device DRIVER,help` a driver's properties
  -object TYPE,id=ID[,key=value]...
                 a filter on a netdev; `-object help` lists the types, `-object TYPE,help` a type's properties
  -chardev BACKEND,id=ID[,key=value]...
                 a named socket for monitors and vhost-user back-ends; `-chardev help` lists them

Monitors (QMP is QEMU's JSON protocol, HMP its command line for people):
  -qmp DEV       QMP on unix:PATH,server=on, tcp:HOST:PORT,server=on or telnet:HOST:PORT,server=on, on stdio or
                 null; none: no QMP at all. -qmp-pretty DEV: with its replies over several lines.
                 Without -qmp it is at $XDG_RUNTIME_DIR/vnic/NAME.qmp (else /run/vnic/, else /tmp/vnic-UID/),
                 where `vnic link` and the other verbs find it
  -monitor DEV   HMP on DEV
  -mon [chardev=]ID[,mode=readline|control][,pretty=on][,policy=POLICY]
                 a monitor on a -chardev; control is QMP
  -monitor-policy readonly|links|full
                 what the clients of all monitors may do that have no policy= of their own (also -qmp's and -monitor's
                 DEV takes it): queries; also pull cables (set_link, flaps) and nothing else; everything (the default)

From a QEMU command line:
  -machine, -m, -nodefaults, -display, -drive, -global and all others that describe the VM, and its devices that are no
                 NICs, are taken without effect; one note names them
  -nic none, -net none
                 no NIC but those of -device, as always

This process:
  -name NAME     by which the other verbs find it (default: vnic)
  -S             let no guest in before QMP's or HMP's `cont`
  --keep         start it again when it dies: a small process in front holds what it needs to go on, so that no guest
                 sees its link change, also when it was killed or hangs. Under systemd this is done by systemd
  -daemonize     go to the background when all is set up; the log goes on in NAME.log beside NAME.qmp
  -datapath auto[,workers=N][,spin=US]|python
                 auto (the default): vnic-wire moves the packets where it can, with N threads (1 to 64, default 1), each
                 of which polls for US microseconds (0 to 1000000, default 0) after its last packet, before it sleeps;
                 python: this process moves them all. `vnic link -d` shows which path each takes, and why
  -journal [PATH][,max-count=N][,max-age=AGE]|none
                 where the history of all links is kept, also after the end (default: $XDG_STATE_HOME/vnic/NAME.db, as
                 root /var/lib/vnic/NAME.db, else ~/.local/state/vnic/NAME.db), the last N records (100000) that are no
                 older than AGE (90d; units s, m, h, d, w); none: only in memory
  -metrics HOST:PORT|unix:PATH[,devices=N]
                 serve metrics for Prometheus at /metrics, of at most N NICs and netdevs (1000)
  -web [HOST:]PORT[,policy=POLICY][,token-file=PATH][,name=NAME]...
                 serve a page that shows all links and pulls cables, at 127.0.0.1 unless HOST says otherwise. Its URL,
                 with a token that gives access, is printed once; PATH: the token is there. POLICY is what it may do, as
                 -monitor-policy; NAME: a name by which browsers may call this host. May be given several times
  -D FILE        write the log there, with the time before each line
  -pidfile FILE  write the process id there, and keep the file locked
  -guest-memory [max=SIZE][,total=SIZE]
                 how much memory one VM, and all together, may share (default: 1T or four times this host's memory,
                 and half of the address space); beyond it the VM is refused
  -sandbox on[,spawn=deny][,elevateprivileges=deny][,folder=PATH][,landlock=required]
                 give up all system calls and files that this command line does not need; monitors' clients may name
                 only its paths, and those in PATH. spawn=deny: no program but vnic-wire; elevateprivileges=deny: no
                 set-uid program works; landlock=required: refuse the start where the kernel cannot bound files
  -run-with user=NAME|UID:GID
                 become that user before anything is opened; keep no capability that no option needs
  @FILE          more options, from a file: a shell's words, with `#` before comments
  -version       print the version
  -h, -help      print this

Ends at Ctrl-C, SIGTERM or QMP's quit: back-ends first, so that guests see their links go; exit code 0.
VNIC_LOG=debug|info|warning|error sets how much it says on stderr. VNIC_WIRE=off is -datapath python, and
VNIC_WIRE=PATH another vnic-wire.

Example: a VM under User-Mode Linux or QEMU, plugged into a host that answers pings:
  vnic run -name lab -netdev echo,id=net0 \\
       -device virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock
"""

PROPERTIES = {
    "id": "its name",
    "link": "how the link is at the start",
    "netdev": "ID of a netdev to use as a backend",
    "mac": "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56",
    "attach.type": "how the VM plugs in",
    "attach.path": "the socket where it does",
    "attach.server": "whether vnic listens there, or connects",
    "host_mtu": "the MTU that the guest is told",
    "mtu": "the same as host_mtu",
    "autonegotiation": "off: the link comes up without the 500 ms that a real card takes",
    "speed": "in Mbit/s, as the guest is told; -1: unknown",
    "duplex": "half or full, as the guest is told",
    "mq": "as many queue pairs as the netdev has queues",
    "vectors": "MSI-X vectors",
    "msix": "off: the guest uses INTx, and QEMU survives device_del of it",
    **dict.fromkeys(PLACE.values(), "taken without effect: the VM's own -device decides it"),
    **dict.fromkeys(SWITCHED, "a feature: off withholds it from the driver"),
    **dict.fromkeys(NOT_BUILT, "a feature that vnic does not have: only off is taken"),
    "server": "whether vnic listens, or connects",
    "queue": "which frames the filter sees: rx are those that the guest sent",
    "status": "on or off; of a NIC: whether the driver is offered the link's status",
    "position": "head (nearest to the netdev), tail, or id=ID of another filter",
    "insert": "the side of the filter that position names",
    "interval": "microseconds from one release of the frames to the next",
    "file": "the pcap file, emptied first, or a FIFO that somebody reads",
    "maxlen": "bytes that are kept of a frame",
    "indev": "ID of the chardev whose frames are put in",
    "outdev": "ID of the chardev that the frames go to",
    "delay": "how much later each frame arrives, as 10ms",
    "jitter": "how much the delay varies, as 2ms",
    "distribution": "how it varies",
    "delay-correlation": "percent by which a delay depends on the one before",
    "loss": "percent of the frames that are lost, as 0.5%",
    "duplicate": "percent of the frames that come twice",
    "corrupt": "percent of the frames that have a wrong bit",
    "reorder": "percent of the frames that overtake those that are delayed",
    "gap": "of so many frames, only the last may overtake",
    "rate": "as 10mbit",
    "limit": "frames that are under way at most, in each direction",
    "seed": "the same seed and frames have the same fate (default: a random one)",
    "max-frame": "longer frames, in bytes, are lost; 0: none",
    **{
        f"{name}-correlation": "percent by which one frame depends on the one before"
        for name in ("loss", "duplicate", "corrupt", "reorder")
    },
    "vnet_hdr_support": "each frame comes behind its virtio header's length, and that header",
    "ifname": "the name of the host's interface",
    "netns": "its network namespace: a name of `ip netns`, a path or a process id",
    "propagate": "on: it is down while the NIC is held or has no VM, so that a veth's other end sees it",
    "reconnect-ms": "milliseconds between attempts to connect; 0: once only",
}
"""Words beside a property, by its dotted name."""

OF_TYPE = {
    "tunnel": {
        "remote": "the other end: HOST[:PORT]; the port is 4789 unless told",
        "local": "where to receive: HOST[:PORT]; all addresses, at remote's port, unless told",
        "vni": "the VXLAN network identifier, the same at both ends",
        "mtu": "longer frames are dropped",
        "ccm": "whether link state is told and heard: on; auto: once the far end was heard; off: plain VXLAN",
        "interval": "milliseconds between CCMs: 3.3, 10, 100, 1000, 10000, 60000 or 600000 (default: 10)",
        "level": "the maintenance level of the CCMs, 0 to 7 (default: 0)",
        "mep": "this end's maintenance end point, 1 to 8191 (default: 1 at the lower address, 2 at the other)",
        "md": "the maintenance domain of the CCMs (default: none)",
        "ma": "their maintenance association (default: vnic VNI)",
        "key": "both ends have it: datagrams without it are dropped",
        "key-file": "a file with the key in its first line",
        "follow": "what counts as down here: none, or some of operator+attached+driver+admin, joined by +",
    },
    "passt": {"mtu": "the MTU that the guest is told by DHCP and NDP"},
}
"""Words for the properties of one type, where they mean something else than those of others."""


def help_text(topic: HelpTopic) -> str:
    """The text for a topic; NetError for an unknown type."""
    if not topic.option:
        return RUN_HELP
    if topic.type is None:
        return _LISTS[topic.option]()
    return _properties(topic.option, topic.type)


def _netdevs() -> str:
    return "Available netdev backend types:\n" + _table(
        [(name, entry.desc) for name, entry in NETDEVS.items()]
    )


def _devices() -> str:
    return "Network devices:\n" + "".join(
        f'name "{name}", desc "{entry.desc}"\n' + _facts(entry.facts) for name, entry in DEVICES.items()
    )


def _facts(facts: ModelFacts) -> str:
    seen = "" if facts.confirms else "; whether the guest saw it cannot be told"
    words = (
        ("interrupts", facts.interrupts),
        ("queues", facts.queues),
        ("offloads", facts.offloads),
        ("link", facts.link + seen),
    )
    return _table([(f"  {name}", text) for name, text in words])


def _chardevs() -> str:
    return "Available chardev backend types:\n" + "".join(f"  {name}\n" for name in FLAT_CHARDEVS)


def _objects() -> str:
    return "List of user creatable objects:\n" + _table(
        [(name, entry.desc) for name, entry in OBJECTS.items()]
    )


_LISTS = {"netdev": _netdevs, "device": _devices, "chardev": _chardevs, "object": _objects}


def _table(rows: list[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in rows), default=0)
    return "".join(f"  {name:{width}}  {text}".rstrip() + "\n" for name, text in rows)


# -- properties of one type -----------------------------------------------------------------------------------------


def _properties(option: str, type_name: str) -> str:
    tables: dict[str, dict[str, type[msgspec.Struct]]] = {
        "netdev": {name: entry.options for name, entry in NETDEVS.items()},
        "device": {name: entry.options for name, entry in DEVICES.items()},
        "chardev": dict(FLAT_CHARDEVS),
        "object": dict(object_structs()),
    }
    if type_name not in tables[option]:
        raise (
            DeviceNotFound(type_name)
            if option == "device"
            else NetError(f"there is no {option} '{type_name}'")
        )
    struct = tables[option][type_name]
    words = PROPERTIES | OF_TYPE.get(type_name, {})
    rows = _rows(object_of(struct), "", _defaults(struct), words)
    return f"{type_name} options:\n" + _table(
        [(f"{name}=<{kind}>", text) for name, kind, text in sorted(rows)]
    )


def _defaults(struct: type[msgspec.Struct]) -> dict[str, object]:
    """The default of each member, by its name on the wire."""
    return {
        field.encode_name: field.default
        for field in msgspec.structs.fields(struct)
        if field.default is not msgspec.NODEFAULT
    }


def _rows(
    shape: Object, prefix: str, defaults: dict[str, object], words: dict[str, str]
) -> list[tuple[str, str, str]]:
    rows = []
    for member in shape.members:
        name = prefix + member.name
        if isinstance(member.shape, Union):
            rows += _union_rows(member.shape, name + ".", words)
        else:
            rows.append((name, _kind(member.shape), _words(name, member, defaults, words)))
    return rows


def _union_rows(union: Union, prefix: str, words: dict[str, str]) -> list[tuple[str, str, str]]:
    """The tag, and the members of all branches. The text of a member names its branches unless all have it."""
    tag = prefix + union.tag
    rows = {tag: (tag, "|".join(union.branches), words.get(tag, ""))}
    for member_name in dict.fromkeys(m.name for branch in union.branches.values() for m in branch.members):
        having = [
            tag
            for tag, branch in union.branches.items()
            if any(m.name == member_name for m in branch.members)
        ]
        branch = union.branches[having[0]]
        member = next(m for m in branch.members if m.name == member_name)
        name = prefix + member_name
        defaults = _defaults(branch.make) if isinstance(branch.make, type) else {}
        text = _words(name, member, defaults, words)
        if len(having) < len(union.branches):
            text = f"{text} ({'|'.join(having)} only)".strip()
        rows[name] = (name, _kind(member.shape), text)
    return list(rows.values())


def _words(name: str, member: Member, defaults: dict[str, object], words: dict[str, str]) -> str:
    parts = [words[name]] if name in words else []
    if member.required:
        parts.append("(required)")
    else:
        default = defaults.get(member.name)
        if default is not None:
            text = {True: "on", False: "off"}.get(default, default) if isinstance(default, bool) else default
            parts.append(f"(default: {text})")
    return " ".join(parts)


def _kind(shape: Shape) -> str:
    match shape:
        case Builtin(name):
            return name
        case Integer():
            return (shape.name or "int").removesuffix("_t")
        case Enumeration():
            return "|".join(shape.values)
        case Array(Object()):
            return "str..."  # QAPI's String: the key is given once for each item
        case Array():
            return f"list of {_kind(shape.element)}"
    return "object"
