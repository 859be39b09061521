"""The options of `vnic run`: QEMU's forms, and QEMU's refusals."""

from __future__ import annotations

import pytest

from vnic.cli.options import parse_run
from vnic.cli.run_options import HelpTopic, MonitorSetting, OptionError, UsageError
from vnic.cli.vm_options import is_vm_device
from vnic.machine.datapath import Choice
from vnic.machine.journal import JournalChoice
from vnic.machine.nics import DEVICES, NOT_BUILT
from vnic.monitor.policy import Policy


def test_the_command_line_of_the_manual() -> None:
    options = parse_run(
        [
            "-name", "lab",
            "-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock",
            "-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock",
        ]
    )  # fmt: skip
    assert options.name == "lab"
    assert [setting.tree for setting in options.netdevs] == [
        {"type": "stream", "id": "net0", "server": "on", "addr": {"type": "unix", "path": "net0.sock"}}
    ]
    assert [setting.tree for setting in options.devices] == [
        {
            "driver": "virtio-net",
            "id": "nic0",
            "netdev": "net0",
            "attach": {"type": "vhost-user", "path": "nic0.sock"},
        }
    ]
    assert options.default_qmp
    assert not options.paused
    assert options.warnings == []


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("auto", Choice()),
        ("python", Choice("python")),
        ("auto,workers=64,spin=1000000", Choice("auto", 64, 1_000_000)),
        ("auto,spin=0", Choice()),
        ("mode=auto,workers=2", Choice("auto", 2)),
    ],
)
def test_datapath(text: str, choice: Choice) -> None:
    assert parse_run(["-datapath", text]).datapath == choice


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("auto,workers=0", "'workers' expects a number from 1 to 64, not '0'"),
        ("auto,workers=65", "'workers' expects a number from 1 to 64, not '65'"),
        ("auto,workers=two", "'workers' expects a number from 1 to 64, not 'two'"),
        ("auto,workers=", "'workers' expects a number from 1 to 64, not ''"),
        ("auto,spin=-1", "'spin' expects a number from 0 to 1000000, not '-1'"),
        ("auto,spin=1000001", "'spin' expects a number from 0 to 1000000, not '1000001'"),
        ("auto,spin=" + "9" * 5000, "'spin' expects a number"),
        ("auto,threads=2", "Invalid parameter 'threads'"),
        ("python,workers=2", "expected auto[,workers=N][,spin=US] or python"),
        ("workers=2", "expected auto[,workers=N][,spin=US] or python"),
        ("fast", "expected auto[,workers=N][,spin=US] or python"),
    ],
)
def test_datapath_that_makes_no_sense(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_run(["-datapath", text])
    assert problem in str(error.value)


def test_default_name_is_vnic() -> None:
    options = parse_run([])
    assert options.name is None
    assert options.instance == "vnic"
    assert options.default_qmp


def test_json_keeps_its_types() -> None:
    options = parse_run(["-device", '{"driver": "virtio-net", "link": false}'])
    (setting,) = options.devices
    assert setting.typed
    assert setting.tree == {"driver": "virtio-net", "link": False}


def test_name_is_taken_as_libvirt_writes_it() -> None:
    assert parse_run(["-name", "guest=lab,debug-threads=on"]).name == "lab"


def test_two_dashes_serve_as_one() -> None:
    assert parse_run(["--name", "a", "--S"]).paused


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("unix:/run/q,server=on,wait=off", {"path": "/run/q", "server": "on", "wait": "off"}),
        ("unix:/run/a,,b,server=on", {"path": "/run/a,b", "server": "on"}),
        ("tcp:127.0.0.1:4444,server=on", {"host": "127.0.0.1", "port": "4444", "server": "on"}),
        ("tcp::4444,server=on", {"host": "", "port": "4444", "server": "on"}),
        ("tcp:[::1]:4444,server=on", {"host": "::1", "port": "4444", "server": "on"}),
    ],
)
def test_qmp_makes_a_chardev_and_a_monitor(text: str, tree: dict[str, str]) -> None:
    options = parse_run(["-qmp", text])
    where = f"-qmp {text}"
    assert [setting.tree for setting in options.chardevs] == [
        {"backend": "socket", **tree, "id": "compat_monitor0"}
    ]
    assert options.monitors == [MonitorSetting(where, "compat_monitor0", "control")]
    assert not options.default_qmp


def test_several_monitors() -> None:
    options = parse_run(
        [
            "-chardev", "socket,id=c0,path=/run/m,server=on",
            "-mon", "c0,mode=control,pretty=on",
            "-monitor", "stdio",
            "-qmp", "unix:/run/q,server=on",
            "-qmp", "chardev:c9",
        ]
    )  # fmt: skip
    assert [monitor.chardev for monitor in options.monitors] == [
        "c0",
        "compat_monitor0",
        "compat_monitor1",
        "c9",
    ]
    assert options.monitors[0].pretty
    assert [monitor.mode for monitor in options.monitors] == ["control", "readline", "control", "control"]


def test_an_hmp_monitor_alone_leaves_the_default_qmp_socket() -> None:
    assert parse_run(["-monitor", "stdio"]).default_qmp
    assert parse_run(["-monitor", "none"]).monitors == []


def test_qmp_none_leaves_no_socket() -> None:
    options = parse_run(["-qmp", "none"])
    assert not options.default_qmp
    assert options.monitors == []


def test_short_form_booleans_are_taken_with_a_warning() -> None:
    options = parse_run(["-qmp", "unix:/run/q,server,nowait"])
    assert options.chardevs[0].tree["server"] == "on"
    assert options.chardevs[0].tree["wait"] == "off"
    assert options.warnings == [
        "-qmp unix:/run/q,server,nowait: warning: short-form boolean option 'server' deprecated;"
        " use server=on instead",
        "-qmp unix:/run/q,server,nowait: warning: short-form boolean option 'nowait' deprecated;"
        " use wait=off instead",
    ]
    assert (
        parse_run(["-netdev", "vhost-user,id=a,chardev=c,vhostforce"]).netdevs[0].tree["vhostforce"] == "on"
    )


def test_the_short_form_of_an_ipv6_network() -> None:
    netdev = parse_run(["-netdev", "user,id=u,ipv6-net=fd00::/64"]).netdevs[0]
    assert netdev.tree == {"type": "user", "id": "u", "ipv6-prefix": "fd00::", "ipv6-prefixlen": "64"}


@pytest.mark.parametrize(
    ("argv", "topic"),
    [
        (["-h"], HelpTopic("")),
        (["-help"], HelpTopic("")),
        (["--help"], HelpTopic("")),
        (["-netdev", "help"], HelpTopic("netdev")),
        (["-netdev", "?"], HelpTopic("netdev")),
        (["-netdev", "stream,help"], HelpTopic("netdev", "stream")),
        (["-device", "virtio-net,help"], HelpTopic("device", "virtio-net")),
        (["-chardev", "help"], HelpTopic("chardev")),
        (["-object", "help"], HelpTopic("object")),
        (["-netdev", "help", "-nonsense"], HelpTopic("netdev")),
    ],
)
def test_help_options_are_parsed(argv: list[str], topic: HelpTopic) -> None:
    assert parse_run(argv).help == topic


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["-foo"], "-foo: invalid option"),
        (["-netdev"], "-netdev: requires an argument"),
        (["disk.img"], "disk.img: unexpected argument"),
        (["-"], "-: unexpected argument"),
        ([""], "unexpected argument"),
    ],
)
def test_usage_errors(argv: list[str], line: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_run(argv)
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("option", "text", "desc"),
    [
        ("-netdev", "stream,id=a,addr.path", "Expected '=' after parameter 'addr.path'"),
        ("-netdev", "stream,id=a,server", "Expected '=' after parameter 'server'"),
        ("-netdev", "{", "1:2: JSON parse error, premature end of input"),
        ("-device", '{"driver":"virtio-net"', "1:23: JSON parse error, premature end of input"),
        ("-netdev", '{"id":"a","id":"b"}', "1:16: JSON parse error, duplicate key"),
        ("-netdev", '{"id":"a"}x', "Expecting at most one JSON value"),
        ("-name", "foo,bar=1", "Invalid parameter 'bar'"),
        ("-name", "foo,debug-threads=1", "Parameter 'debug-threads' expects 'on' or 'off'"),
        (
            "-name",
            "a/b",
            "the name becomes a file name: it may not be empty, begin with '.' or hold '/'",
        ),
        ("-mon", "c0,mode=zzz", "Parameter 'mode' does not accept value 'zzz'"),
        ("-mon", "c0,xmode=zzz", "Invalid parameter 'xmode'"),
        ("-mon", "mode=control", "Parameter 'chardev' is missing"),
        ("-mon", "c0,pretty=maybe,mode=control", "Parameter 'pretty' expects 'on' or 'off'"),
        ("-mon", "c0,pretty=on", "'pretty' is not compatible with HMP monitors"),
        ("-qmp", "foo:bar", "'foo:bar' is not a valid char driver"),
        ("-qmp", "udp::1", "vnic's monitors speak over unix:, tcp:, telnet: and stdio, not over 'udp'"),
        ("-qmp", "tcp:host", "'host' is not HOST:PORT"),
        ("-qmp", "unix:", "an address is missing behind 'unix:'"),
    ],
)
def test_refused_arguments(option: str, text: str, desc: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_run([option, text])
    assert str(refused.value) == f"{option} {text}: {desc}"
    assert not isinstance(refused.value, UsageError)


def test_options_of_qemu_that_vnic_lacks_are_refused_by_name() -> None:
    with pytest.raises(
        OptionError, match="-nic user: vnic has no -nic but -nic none: give a -netdev and a -"
    ):
        parse_run(["-nic", "user"])


def test_an_object_takes_short_form_booleans_as_qemu_does() -> None:
    options = parse_run(["-object", "filter-dump,id=f,netdev=n,status"])
    assert options.objects[0].tree["status"] == "on"
    assert options.warnings[0].endswith(
        "warning: short-form boolean option 'status' deprecated; use status=on instead"
    )


def test_what_describes_the_vm_is_taken_with_one_note() -> None:
    options = parse_run(
        [
            "-machine", "none", "-m", "512", "-nodefaults", "-display", "none", "-accel", "kvm", "-m", "1G",
            "-object", "memory-backend-memfd,id=m,size=512M,share=on",
            "-device", "pcie-root-port,id=r",
            "-device", '{"driver":"virtio-blk-pci","drive":"d"}',
            "-global", "kvm-pit.lost_tick_policy=delay",
            "-device", "virtio-net,id=nic0",
        ]
    )  # fmt: skip
    assert options.notes() == [
        "note: without effect here, for they describe the VM, which is another process: -machine, -m, -nodefaults,"
        " -display, -accel, -object memory-backend-memfd, -device pcie-root-port, -device virtio-blk-pci,"
        " -global kvm-pit"
    ]
    assert [setting.tree["driver"] for setting in options.devices] == ["virtio-net"]
    assert options.objects == []


@pytest.mark.parametrize("argv", [["-nic", "none"], ["-net", "none"]])
def test_nic_none_and_net_none_are_taken(argv: list[str]) -> None:
    assert parse_run(argv).notes() == []


def test_an_option_of_the_vm_still_needs_its_argument() -> None:
    with pytest.raises(UsageError, match="-m: requires an argument"):
        parse_run(["-m"])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["-global", "e1000.mac=1"], "vnic has no -global: give the property to each -device e1000"),
        (["-global", "driver=virtio-net-pci,property=mq,value=on"], "to each -device virtio-net-pci"),
        (["-runas", "nobody"], "-runas: vnic has no -runas: use -run-with user="),
        (["-incoming", "defer"], "-incoming: vnic cannot be migrated"),
    ],
)
def test_options_that_would_change_what_vnic_does_are_refused_by_name(argv: list[str], line: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_run(argv)
    assert line in str(refused.value)


@pytest.mark.parametrize(
    "driver", ["virtio-blk-pci", "pci-bridge", "usb-tablet", "qxl-vga", "nvme", "vfio-pci"]
)
def test_vm_devices_are_recognised(driver: str) -> None:
    assert is_vm_device(driver)


@pytest.mark.parametrize("driver", [*DEVICES, *sorted(NOT_BUILT), "virtio-nett", "e1000x", "", "help"])
def test_misspelt_nic_is_not_taken_for_a_vm_device(driver: str) -> None:
    assert not is_vm_device(driver)


def test_monitor_on_telnet() -> None:
    options = parse_run(["-monitor", "telnet:127.0.0.1:4444,server,nowait"])
    assert [setting.tree for setting in options.chardevs] == [
        {
            "backend": "socket", "id": "compat_monitor0", "host": "127.0.0.1", "port": "4444", "telnet": "on",
            "server": "on", "wait": "off",
        }
    ]  # fmt: skip
    assert [monitor.mode for monitor in options.monitors] == ["readline"]


@pytest.mark.parametrize("option", ["-monitor", "-qmp"])
def test_monitor_on_null(option: str) -> None:
    (setting,) = parse_run([option, "null"]).chardevs
    assert setting.tree == {"backend": "null", "id": "compat_monitor0"}


def test_qmp_pretty() -> None:
    options = parse_run(["-qmp-pretty", "unix:q,server=on"])
    assert [(monitor.mode, monitor.pretty) for monitor in options.monitors] == [("control", True)]
    assert not options.default_qmp
    assert not parse_run(["-qmp-pretty", "none"]).default_qmp


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("none", JournalChoice(on=False)),
        ("./none", JournalChoice(path="./none")),
        ("j.db", JournalChoice(path="j.db")),
        ("a,,b.db,max-count=5", JournalChoice(path="a,b.db", max_count=5)),
        ("max-age=2h,path=/j", JournalChoice(path="/j", max_age_s=7200.0)),
        ("max-count=7", JournalChoice(max_count=7)),
    ],
)
def test_journal(text: str, choice: JournalChoice) -> None:
    assert parse_run(["-journal", text]).journal == choice


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("none,max-count=5", "'none' keeps no journal: it takes no bounds"),
        ("j.db,max-count=0", "Parameter 'max-count' expects a number from 1 to 1000000000, not '0'"),
        ("j.db,max-count=x", "Parameter 'max-count' expects a number from 1 to 1000000000, not 'x'"),
        ("j.db,max-age=90", "Parameter 'max-age': '90' is no length of time (as 30m, 12h, 90d, 8w)"),
        ("j.db,size=5", "Invalid parameter 'size'"),
        ("path=", "Parameter 'path' expects a value"),
        ("a\0b", "Parameter 'path' expects a value"),
    ],
)
def test_journal_that_makes_no_sense(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_run(["-journal", text])
    assert refused.value.desc == problem


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        (["-mon", "c,mode=control,policy=links"], Policy.LINKS),
        (["-qmp", "unix:q,server=on,policy=readonly"], Policy.READONLY),
        (["-qmp-pretty", "tcp:127.0.0.1:4444,server=on,policy=full"], Policy.FULL),
        (["-monitor", "telnet:127.0.0.1:4444,policy=links"], Policy.LINKS),
        (["-mon", "c"], None),
    ],
)
def test_monitor_has_a_policy_of_its_own(words: list[str], policy: Policy | None) -> None:
    options = parse_run([*words, "-monitor-policy", "links"])
    (monitor,) = options.monitors
    assert monitor.policy is policy
    assert options.monitor_policy is Policy.LINKS
    assert all("policy" not in setting.tree for setting in options.chardevs)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-monitor-policy", "link"], "-monitor-policy link: expected one of readonly, links, full"),
        (
            ["-mon", "c,policy=all"],
            "-mon c,policy=all: Parameter 'policy' expects readonly, links, full, not 'all'",
        ),
        (
            ["-qmp", "unix:q,policy="],
            "-qmp unix:q,policy=: Parameter 'policy' expects readonly, links, full, not ''",
        ),
    ],
)
def test_unknown_policy_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_run(words)
    assert str(refused.value) == problem
