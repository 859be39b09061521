"""The metrics of a snapshot, as prometheus_client's families: names, helps and labels. `metrics` calls `families`.

Directions are those of an interface: a NIC transmits what its guest sends, a netdev receives what comes from its far
end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from vnic.machine.snapshot import Device, Snapshot
from vnic.net.traffic import Frames
from vnic.observe.tally import BUCKETS_S, Latencies

DEVICE: Final = ("device", "type")
"""The labels of each NIC and netdev: its name, and `nic` or `netdev`. The two kinds have their names apart."""


def families(snapshot: Snapshot, version: str) -> Iterator[Metric]:
    """All of them. Each family is made when the one before it has been written."""
    yield from _of_vnic(snapshot, version)
    yield from _of_links(snapshot.devices)
    yield from _of_guests(snapshot.devices)
    yield from _of_frames(snapshot.devices)
    yield _changes(snapshot)
    yield _latencies(snapshot)
    yield from ProcessCollector(registry=None).collect()


# -- the process ----------------------------------------------------------------------------------------------------


def _of_vnic(snapshot: Snapshot, version: str) -> Iterator[Metric]:
    vnic = snapshot.vnic
    yield InfoMetricFamily("vnic", "The version of vnic.", {"version": version})
    yield GaugeMetricFamily("vnic_uptime_seconds", "The age of the process.", vnic.uptime)
    restarts = CounterMetricFamily(
        "vnic_restarts", "How often a part died and was started again.", labels=("part",)
    )
    for part, count in snapshot.restarts.items():
        restarts.add_metric((part,), count)
    yield restarts
    yield GaugeMetricFamily(
        "vnic_loop_lag_max_seconds",
        "The longest turn of the loop in the last minute: all else waited for it.",
        vnic.loop_lag.max_us / 1e6,
    )
    yield GaugeMetricFamily(
        "vnic_guest_memory_mapped_bytes", "The memory that all VMs share with vnic.", vnic.memory.mapped_bytes
    )
    yield GaugeMetricFamily("vnic_devices", "NICs and netdevs.", len(snapshot.devices) + snapshot.more)
    yield GaugeMetricFamily(
        "vnic_devices_left_out", "Those of them that are beyond -metrics devices=N.", snapshot.more
    )


# -- links ----------------------------------------------------------------------------------------------------------


def _of_links(devices: list[Device]) -> Iterator[Metric]:
    yield _gauge("node_network_carrier", "Whether the link is up.", devices, lambda each: each.up)
    yield _gauge(
        "node_network_up", "Whether operstate is up (RFC 2863).", devices, lambda each: each.operstate == "up"
    )
    info = InfoMetricFamily(
        "node_network",
        "What does not change often, as labels. datapath: who moves the packets.",
        labels=(*DEVICE, "model", "address", "operstate", "adminstate", "datapath"),
    )
    for each in devices:
        admin = "up" if each.operator_up else "down"
        info.add_metric(
            (each.name, each.type),
            {
                "model": each.model,
                "address": each.address,
                "operstate": each.operstate,
                "adminstate": admin,
                "datapath": each.path,
            },
        )
    yield info
    for name, text, count in (
        ("", "link changes", lambda each: each.carrier_up_changes + each.carrier_down_changes),
        ("_up", "changes to up", lambda each: each.carrier_up_changes),
        ("_down", "changes to down", lambda each: each.carrier_down_changes),
    ):
        yield _counter(f"node_network_carrier{name}_changes", f"How many {text} there were.", devices, count)
    holds = GaugeMetricFamily(
        "vnic_link_holds",
        "1 for each reason that keeps the link down; `end` is the NIC or netdev where it is.",
        labels=(*DEVICE, "end", "kind"),
    )
    for each in devices:
        for end, kind in dict.fromkeys(each.holds):
            holds.add_metric((each.name, each.type, end, str(kind)), 1)
    yield holds


def _of_guests(devices: list[Device]) -> Iterator[Metric]:
    nics = [each for each in devices if each.guest is not None]
    for at, (name, text) in enumerate(
        (
            ("vnic_guest_attached", "Whether a VM is attached."),
            ("vnic_guest_driver_ok", "Whether the guest's driver runs the device."),
        )
    ):
        yield _gauge(name, text, nics, lambda each, at=at: bool(each.guest[at]))  # type: ignore[misc]
    seen = [each for each in nics if each.guest is not None and each.guest[2] != "unknown"]
    yield _gauge(
        "vnic_guest_link_seen",
        "The link as the guest's driver has last read it; missing while that is not known.",
        seen,
        lambda each: each.guest is not None and each.guest[2] == "up",
    )


# -- frames ---------------------------------------------------------------------------------------------------------


def _of_frames(devices: list[Device]) -> Iterator[Metric]:
    for direction, of_nic, of_netdev in (("transmit", "in", "out"), ("receive", "out", "in")):
        for unit, word in (("packets", "frames"), ("bytes", "bytes")):
            family = CounterMetricFamily(
                f"node_network_{direction}_{unit}",
                f"The {unit} of that direction, by who moved them.",
                labels=(*DEVICE, "path"),
            )
            for each in devices:
                field = f"{word}_{of_nic if each.type == 'nic' else of_netdev}"
                for path, frames in _paths(each):
                    family.add_metric((each.name, each.type, path), getattr(frames, field))
            yield family
    drops = CounterMetricFamily(
        "vnic_frames_dropped",
        "The frames that were dropped at this end, by reason and by who dropped them.",
        labels=(*DEVICE, "reason", "path"),
    )
    for each in devices:
        for (reason, path), count in each.drops.items():
            drops.add_metric((each.name, each.type, reason.replace("_", "-"), path), count)
    yield drops


def _paths(device: Device) -> tuple[tuple[str, Frames], ...]:
    return ("python", device.python), ("wire", device.wire)


# -- what was counted meanwhile -------------------------------------------------------------------------------------


def _changes(snapshot: Snapshot) -> Metric:
    family = CounterMetricFamily(
        "vnic_link_changes",
        "Link changes since -metrics began, by the kind of their cause.",
        labels=("device", "cause", "link"),
    )
    for name, counts in snapshot.changes.items():
        for (cause, link), count in counts.items():
            family.add_metric((name, cause, link), count)
    return family


def _latencies(snapshot: Snapshot) -> Metric:
    family = HistogramMetricFamily(
        "vnic_link_seen_latency_seconds",
        "From a link change, or the guest's attachment if that was later, to the read of the guest's driver.",
        labels=("device",),
    )
    for name, latencies in snapshot.latencies.items():
        family.add_metric((name,), _buckets(latencies), latencies.sum_s)
    return family


def _buckets(latencies: Latencies) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), latencies.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _gauge(name: str, text: str, devices: list[Device], value: Callable[[Device], bool]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=DEVICE)
    for each in devices:
        family.add_metric((each.name, each.type), int(value(each)))
    return family


def _counter(name: str, text: str, devices: list[Device], value: Callable[[Device], int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=DEVICE)
    for each in devices:
        family.add_metric((each.name, each.type), value(each))
    return family
