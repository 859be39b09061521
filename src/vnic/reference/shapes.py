"""What each form of the command line prints with --json, as types; `schemas` makes docs/schemas of them.

A new form with --json needs a row here: its words, and the type of what it prints. Several types stand for answers that
depend on other options. A test fails for a form without a row, and validates what the verbs really print.
"""

from __future__ import annotations

from typing import Any, Final

from vnic.backend.tunnel.info import TunnelInfo
from vnic.cli.adopt import AdoptedVm, ScannedVm
from vnic.cli.top_state import Top
from vnic.lab.bench.report import Row
from vnic.lab.demo.verb import DemoShown
from vnic.lab.doctor import Finding
from vnic.lab.live.show import LabShown
from vnic.lab.rehearse.records import Rehearsal
from vnic.monitor.commands.net import FlapStarted, TopologyInfo
from vnic.monitor.interfaces import VnicInfo
from vnic.net.fault_info import FaultInfo
from vnic.net.flaps import FlapInfo
from vnic.net.netem.info import NetemInfo
from vnic.net.records import LinkInfo
from vnic.reference.answers import Check, Event, FlapId, Instance, Nothing, Record, Why, WhyAt

Types = tuple[Any, ...]

SHAPES: Final[dict[str, Types]] = {
    "link": (list[LinkInfo], TopologyInfo),
    "link show": (list[LinkInfo], TopologyInfo),
    "link set": (LinkInfo,),
    "link impair": (list[NetemInfo],),
    "link fault": (list[FaultInfo],),
    "flap": (FlapStarted, list[FlapInfo], FlapId),
    "tunnel": (list[TunnelInfo],),
    "why": (Why, WhyAt),
    "log": (list[Record],),
    "ps": (list[Instance],),
    "upgrade": (VnicInfo,),
    "top": (Top,),
    "watch": (Event,),
    "netdev add": (Nothing,),
    "netdev del": (Nothing,),
    "device add": (Nothing,),
    "device del": (Nothing,),
    "adopt": (list[ScannedVm], list[AdoptedVm]),
    "hmp": (str,),
    "lab show": (LabShown,),
    "lab check": (Check,),
    "rehearse": (Rehearsal,),
    "demo": (DemoShown,),
    "doctor": (list[Finding],),
    "bench": (list[Row],),
}

NOTES: Final[dict[str, str]] = {
    "link": "query-links; with -d and without a filter, query-topology",
    "link show": "query-links; with -d and without a filter, query-topology",
    "link set": "the NIC after the change, or the netdev that no NIC is plugged into",
    "link impair": "query-impairments of the link, after the change",
    "link fault": "query-faults of the link, after the change",
    "flap": "the flap that was started; with --list, all; with --stop, the id of the one that was ended",
    "tunnel": "query-tunnels",
    "why": "the link as it is, its last changes and their causes; with --at, as it was",
    "log": "query-journal, the oldest record first",
    "ps": "query-vnic of each vnic, with its name",
    "upgrade": "query-vnic of the new process",
    "top": "one look a line",
    "watch": "one event a line, as QMP sends it",
    "netdev add": "an empty object",
    "netdev del": "an empty object",
    "device add": "an empty object",
    "device del": "an empty object, once the NIC is gone",
    "adopt": "with --scan, the VMs of this host; else the VMs that were adopted, and their NICs",
    "hmp": "the text that HMP prints",
    "lab show": "the nodes and links of a running lab",
    "lab check": "what is wrong in a lab file, and what is ignored",
    "rehearse": "each repetition, and the medians",
    "demo": "the rows, and the guest",
    "doctor": "one finding for each thing that vnic can use",
    "bench": "one figure a row, with how it was measured",
}
"""Each in a line, for docs/schemas and for readers."""
