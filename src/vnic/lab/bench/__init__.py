"""`vnic bench`: how fast a link change travels and packets move, measured on this machine, now.

Each measure is a module with `measure(rounds) -> list[Row]`; every row says its method, the median and the spread, so
that two runs on one machine can be compared. No test asserts on time; this is where numbers come from.
"""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

from vnic.cli.spelling import did_you_mean

if TYPE_CHECKING:
    from argparse import _SubParsersAction

MEASURES = {
    "start": ("vnic.lab.bench.startup", "vnic run until its monitor greets"),
    "link": (
        "vnic.lab.bench.link",
        "set_link over QMP until CONFIG_CHANGE reaches a driver in another process",
    ),
    "cable": (
        "vnic.lab.bench.cable",
        "set_link at one end of a cable until the driver at the other is interrupted",
    ),
    "tunnel": (
        "vnic.lab.bench.tunnel",
        "link changes, deaths and cut paths over a tunnel between two hosts; TCP beside the kernel's VXLAN",
    ),
    "rings": ("vnic.lab.bench.rings", "packets from ring to ring through the Python data plane"),
    "loss": (
        "vnic.lab.bench.loss",
        "a vhost-user back-end's loss, and return, until the guest's driver is told",
    ),
    "interface": (
        "vnic.lab.bench.interface",
        "link changes between a guest and the other end of a container's veth",
    ),
    "adopt": (
        "vnic.lab.bench.adopt",
        "a hundred adopted VMs: until all are there, and set_link until it is QEMU's",
    ),
    "takeover": (
        "vnic.lab.bench.takeover",
        "a driver and a DPDK back-end through vnic, beside the two joined directly",
    ),
    "restart": ("vnic.lab.bench.restart", "a SIGKILL of control until its successor answers"),
    "journal": (
        "vnic.lab.bench.journal",
        "what a SIGKILL loses of the journal, and queries over a million changes",
    ),
    "eventfd": ("vnic.lab.bench.eventfd", "set_link over QMP until the interrupt of a PCI NIC"),
    "scale": ("vnic.lab.bench.scale", "commands where there are 1, 100, 1 000 and 10 000 NICs"),
    "qemu": (
        "vnic.lab.bench.qemu",
        "set_link until a real guest is interrupted and looks, beside QEMU's own NICs",
    ),
    "qemu-packets": (
        "vnic.lab.bench.qemu_packets",
        "a real guest's pings and packets, beside QEMU's own NIC",
    ),
    "wire-rings": (
        "vnic.lab.bench.wire_rings",
        "packets from ring to ring through vnic-wire, beside a loop in C that checks nothing",
    ),
    "netem": (
        "vnic.lab.bench.netem",
        "a delay line of vnic-wire: its rate, and how exact it is, beside the kernel's netem",
    ),
    "wire-dpdk": (
        "vnic.lab.bench.wire_dpdk",
        "two DPDK drivers joined by vnic-wire, beside the same two joined by testpmd",
    ),
    "wire-hub": ("vnic.lab.bench.wire_hub", "frames from socket to socket on a hub, beside QEMU's hub"),
    "wire-tap": ("vnic.lab.bench.wire_tap", "frames through two taps and a bridge, beside QEMU's taps"),
    "wire-guest": (
        "vnic.lab.bench.wire_guest",
        "a real guest's TCP and pings over tap, stream and hub, beside QEMU's own NIC",
    ),
    "wire-idle": (
        "vnic.lab.bench.wire_idle",
        "an idle vnic-wire's CPU time; pings while control, or another wire, is busy",
    ),
    "wire-scale": (
        "vnic.lab.bench.wire_scale",
        "memory and time to start of 10, 100, 1 000 and 10 000 attached NICs",
    ),
}
"""Name → module and what it measures, in the order in which they run."""


def add_parser(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "bench",
        help="measure how fast links change and packets move",
        description="Measure on this machine, now; each row says how.",
        epilog="measures:\n" + "".join(f"  {name:14}{text}\n" for name, (_, text) in MEASURES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measure", nargs="*", type=_measure, help="which (default: all)")
    parser.add_argument(
        "--rounds", type=_positive, default=7, help="rounds of each, medians are of these (7)"
    )
    parser.add_argument("-j", "--json", action="store_true", help="one JSON array of all rows")
    parser.set_defaults(run=run)


def _measure(text: str) -> str:
    if text not in MEASURES:
        raise argparse.ArgumentTypeError(
            f"'{text}' is none of {', '.join(MEASURES)}{did_you_mean(text, MEASURES)}"
        )
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the measures asked for; exit code 1 if one could not be made."""
    from vnic.lab.bench.report import Missing, Report

    report = Report(args.json)
    for name in args.measure or MEASURES:
        module = importlib.import_module(MEASURES[name][0])
        report.start(name, MEASURES[name][1])
        try:
            for row in module.measure(args.rounds):
                report.add(row)
        except Missing as missing:
            report.missing(name, str(missing))
    return report.finish()
