"""The words of containerlab that mean nothing to vnic: a file may have them, and `load` says that they are ignored.

The lists are those of containerlab's topology file reference, as of its version 0.72.
"""

from __future__ import annotations

from typing import Final

TOP: Final = frozenset({"prefix", "mgmt", "settings", "debug"})

NODE: Final = frozenset(
    {
        *(
            "aliases",
            "auto-remove",
            "binds",
            "cap-add",
            "certificate",
            "cgroup-parent",
            "cgroupns-mode",
            "cmd",
        ),
        *(
            "components",
            "config",
            "cpu",
            "cpu-set",
            "credentials",
            "devices",
            "dns",
            "enforce-startup-config",
        ),
        *(
            "entrypoint",
            "env",
            "env-files",
            "extras",
            "group",
            "healthcheck",
            "hostname",
            "image-pull-policy",
        ),
        *("labels", "license", "link-apply-mode", "mgmt-ipv4", "mgmt-ipv6", "mgmt_ipv4", "mgmt_ipv6"),
        *("network-mode", "pid-mode", "ports", "position", "privileged", "publish", "restart-policy"),
        *("runtime", "sandbox", "security-opts", "shm-size", "stages", "startup-config", "startup-delay"),
        *("suppress-startup-config", "sysctls", "tmpfs", "type", "user", "volumes", "wait-for"),
    }
)

LINK: Final = frozenset({"vars", "labels", "mode", "parent-interface"})
ENDPOINT: Final = frozenset({"vars"})

LINKLESS: Final = frozenset({"mgmt-net", "macvlan", "dummy"})
"""Types of links, and names of nodes in short end points, that have no counterpart here: such a link is left out."""
HOST: Final = "host"
"""The node of that name is this host: `host:eth5` is its interface eth5."""

HUBS: Final = frozenset({"bridge", "ovs-bridge"})

KINDS: Final = frozenset(
    {
        *("6wind_vsr", "arista_ceos", "arista_veos", "arrcus_arcos", "aruba_aoscx", "border0", "ceos"),
        *("checkpoint_cloudguard", "ciena_saos", "cisco_asav", "cisco_c8000", "cisco_c8000v", "cisco_cat9kv"),
        *(
            "cisco_csr1000v",
            "cisco_ftdv",
            "cisco_iol",
            "cisco_n9kv",
            "cisco_sdwan",
            "cisco_vios",
            "cisco_xrd",
        ),
        *("cisco_xrd_vrouter", "cisco_xrv", "cisco_xrv9k", "crpd", "cumulus_cvx", "cvx", "dell_ftosv"),
        *("dell_sonic", "ext-container", "f5_bigip-ve", "fdio_vpp", "fortinet_fortigate", "freebsd"),
        *("generic_vm", "huawei_vrp", "ipinfusion_ocnos", "juniper_cjunosevolved", "juniper_crpd"),
        *("juniper_csrx", "juniper_vjunosevolved", "juniper_vjunosrouter", "juniper_vjunosswitch"),
        *("juniper_vmx", "juniper_vqfx", "juniper_vsrx", "k8s-kind", "keysight_ixia-c-one", "linux"),
        *("mikrotik_ros", "nokia_srlinux", "nokia_sros", "nokia_srsim", "nvidia_cumulusvx", "openbsd"),
        *("openwrt", "ostinato", "plvision_sonic", "spirent_stc"),
        *(
            "paloalto_panos",
            "rare",
            "sonic-vm",
            "sonic-vs",
            "srl",
            "veesix_osvbng",
            "vyosnetworks_vyos",
            "xrd",
        ),
    }
)
"""Kinds of containerlab; those that begin with `vr-` (vrnetlab) are its own, too."""


def is_kind(word: str) -> bool:
    return word in KINDS or word.startswith("vr-")
