"""What the clients of a monitor may do: `-monitor-policy`, and `policy=` of one monitor.

`qmp` and `hmp` ask `check_qmp` and `check_hmp` before they look at a command's arguments. The tables name every command
with the least policy that allows it; a command that they do not name takes `full`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from vnic.net.errors import NetError


class Policy(StrEnum):
    """Each allows what the one before it allows."""

    READONLY = "readonly"
    """Queries and events."""
    LINKS = "links"
    """Also: pull cables and plug them in again, by command or by a schedule. Impairments and faults are no cables."""
    FULL = "full"
    """Everything, as QEMU's monitor: write files, start programs, take NICs away."""


_RANK: Final = {policy: rank for rank, policy in enumerate(Policy)}

# No answer of these has a secret in it: a tunnel's key, for one, is no part of query-tunnels or of qom-get.
_QMP: Final[Mapping[Policy, tuple[str, ...]]] = {
    Policy.READONLY: (
        *("qmp_capabilities", "query-version", "query-commands", "query-qmp-schema"),
        "human-monitor-command",  # its line is checked as HMP's lines are
        *("query-name", "query-status", "query-vnic", "query-uuid", "query-target", "query-kvm"),
        *("query-links", "query-link-log", "query-journal", "query-topology", "query-rx-filter", "query-pci"),
        *(
            "query-flaps",
            "query-impairments",
            "query-faults",
            "query-tunnels",
            "query-wire-stats",
            "query-traffic",
        ),
        *("query-chardev", "query-fdsets", "x-query-network", "query-command-line-options"),
        *("qom-get", "qom-list", "qom-list-types", "qom-list-properties", "device-list-properties"),
        *("query-machines", "query-current-machine", "query-accelerators", "query-display-options"),
        *("query-cpus-fast", "query-cpu-definitions", "query-cpu-model-expansion", "query-hotpluggable-cpus"),
        *("query-cpu-model-comparison", "query-cpu-model-baseline", "query-vcpu-dirty-limit"),
        *("query-iothreads", "query-memory-devices", "query-memdev", "query-memory-size-summary"),
        *("query-tpm", "query-tpm-models", "query-tpm-types", "query-vm-generation-id", "query-balloon"),
        *("query-migrate", "query-migrate-capabilities", "query-jobs", "query-pr-managers", "query-mice"),
        *("query-block", "query-blockstats", "query-block-jobs", "query-block-exports"),
        *("query-named-block-nodes", "query-vnc", "query-vnc-servers", "query-cryptodev", "query-audiodevs"),
        *("query-gic-capabilities", "query-sev-capabilities", "query-sgx", "query-sgx-capabilities"),
        "query-acpi-ospm-status",
    ),
    Policy.LINKS: ("set_link", "flap-start", "flap-stop"),
    Policy.FULL: (
        *("netdev_add", "netdev_del", "device_add", "device_del", "object-add", "object-del"),
        *("chardev-add", "chardev-remove", "getfd", "closefd", "add-fd", "remove-fd"),
        *("link-impair", "link-fault", "qom-set", "announce-self"),
        *("stop", "cont", "system_reset", "quit", "vnic-upgrade"),
    ),
}

_HMP: Final[Mapping[Policy, tuple[str, ...]]] = {
    Policy.READONLY: (
        *("help", "info", "qom-get", "qom-list"),
        *("info chardev", "info links", "info name", "info network", "info status", "info usernet"),
        "info version",
    ),
    Policy.LINKS: ("set_link",),
    Policy.FULL: (
        *("netdev_add", "netdev_del", "device_add", "device_del", "object_add", "object_del"),
        *("chardev-add", "chardev-remove", "getfd", "closefd", "hostfwd_add", "hostfwd_remove"),
        *("qom-set", "announce_self", "stop", "cont", "system_reset", "quit"),
    ),
}


def _by_name(table: Mapping[Policy, tuple[str, ...]]) -> dict[str, Policy]:
    return {name: policy for policy, names in table.items() for name in names}


QMP_LEAST: Final = _by_name(_QMP)
"""By command: the least policy that allows it."""
HMP_LEAST: Final = _by_name(_HMP)
"""The same of HMP's commands, by the first of their names, with `info ` before subcommands."""


def _allows(table: Mapping[str, Policy], policy: Policy, name: str) -> bool:
    return _RANK[table.get(name, Policy.FULL)] <= _RANK[policy]


def allows_qmp(policy: Policy, name: str) -> bool:
    return _allows(QMP_LEAST, policy, name)


def allows_hmp(policy: Policy, name: str) -> bool:
    return _allows(HMP_LEAST, policy, name)


def check_qmp(policy: Policy, name: str) -> None:
    """Raises NetError unless the policy allows the command."""
    if not allows_qmp(policy, name):
        raise _refusal(policy, name)


def check_hmp(policy: Policy, name: str) -> None:
    """The same of an HMP command."""
    if not allows_hmp(policy, name):
        raise _refusal(policy, name)


def _refusal(policy: Policy, name: str) -> NetError:
    return NetError(f"The command {name} is not allowed by this monitor's policy '{policy}'")
