"""Queries about parts of a VM, which vnic does not have: answered as by a QEMU 11 with `-machine none`.

libvirt sends them to each QEMU (its qemu_capabilities.c, qemu_monitor_json.c), and takes these errors as "not
available".
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from vnic.monitor.commands.table import Caller, command
from vnic.net.errors import DEVICE_NOT_ACTIVE, NetError


def _none(caller: Caller) -> list[Any]:
    """A query about a part that a QEMU without a VM lacks."""
    return []


for _name in (
    *("query-cpus-fast", "query-cpu-definitions", "query-iothreads", "query-memory-devices", "query-memdev"),
    *("query-tpm", "query-tpm-models", "query-tpm-types", "query-migrate-capabilities", "query-jobs"),
    *(
        "query-block",
        "query-blockstats",
        "query-block-jobs",
        "query-block-exports",
        "query-named-block-nodes",
    ),
    *("query-pr-managers", "query-mice", "query-vnc-servers", "query-cryptodev", "query-vcpu-dirty-limit"),
    "query-audiodevs",
):
    command(_name)(_none)


REFUSED = {
    "query-gic-capabilities": NetError("GIC hardware is not available on this target"),
    "query-sev-capabilities": NetError("KVM not enabled"),
    "query-sgx-capabilities": NetError("KVM not enabled"),
    "query-sgx": NetError("SGX is only supported on PC machines"),
    "query-hotpluggable-cpus": NetError("machine does not support hot-plugging CPUs"),
    "query-balloon": NetError("No balloon device has been activated", DEVICE_NOT_ACTIVE),
    "query-acpi-ospm-status": NetError("command is not supported, missing ACPI device"),
    "query-vm-generation-id": NetError("VM Generation ID device not found"),
}
"""Commands without arguments, and the error that each returns."""


def _refuse(name: str, error: NetError) -> None:
    @command(name)
    def refused(caller: Caller) -> None:
        raise NetError(error.desc, error.error_class)


for _name, _error in REFUSED.items():
    _refuse(_name, _error)


class AcceleratorInfo(msgspec.Struct):
    enabled: Literal["hvf", "kvm", "mshv", "nitro", "nvmm", "qtest", "tcg", "whpx", "xen"] = "qtest"
    present: list[str] = msgspec.field(default_factory=lambda: ["qtest"])


@command("query-accelerators")
def query_accelerators(caller: Caller) -> AcceleratorInfo:
    """QEMU's name for the accelerator that runs no guest code."""
    return AcceleratorInfo()


class CpuModelInfo(msgspec.Struct):
    name: str
    props: Any = None


class CpuModelExpansion(msgspec.Struct):
    type: Literal["static", "full"]
    model: CpuModelInfo


class CpuModelPair(msgspec.Struct):
    modela: CpuModelInfo
    modelb: CpuModelInfo


@command("query-cpu-model-expansion")
def query_cpu_model_expansion(caller: Caller, args: CpuModelExpansion) -> None:
    """There are no models, see query-cpu-definitions."""
    raise NetError(f"CPU model '{args.model.name}' not found")


def _no_model(caller: Caller, args: CpuModelPair) -> None:
    raise NetError(f"CPU model '{args.modela.name}' not found")


for _name in ("query-cpu-model-comparison", "query-cpu-model-baseline"):
    command(_name)(_no_model)


class MigrationInfo(msgspec.Struct):
    pass


@command("query-migrate")
def query_migrate(caller: Caller) -> MigrationInfo:
    """Without a status: no migration has taken place."""
    return MigrationInfo()


class MemoryInfo(msgspec.Struct, rename="kebab"):
    base_memory: int = 0
    plugged_memory: int = 0


@command("query-memory-size-summary")
def query_memory_size_summary(caller: Caller) -> MemoryInfo:
    return MemoryInfo()


class VncInfo(msgspec.Struct):
    enabled: bool = False


@command("query-vnc")
def query_vnc(caller: Caller) -> VncInfo:
    return VncInfo()


class DisplayOptions(msgspec.Struct):
    type: Literal["none"] = "none"


@command("query-display-options")
def query_display_options(caller: Caller) -> DisplayOptions:
    return DisplayOptions()
