"""What a test may need of the machine, as one table: how to find out whether it is there, and where it comes from.

`@pytest.mark.needs("ip", "tun")` skips a test by these names, and `need("ip")` does from a fixture or a helper. CI sets
VNIC_REQUIRE_GUESTS=1: a need that is not met fails there, so that no part drops out of the suite unseen.
"""

from __future__ import annotations

import ctypes
import functools
import gzip
import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from vnic.backend.bridge import HELPERS
from vnic.dataplane.wire.build import PROBE
from vnic.dataplane.wire.process import find_program
from vnic.lab.guest import agent_kit, kit, passt_kit, qemu_kit

FILES = 4096
"""Descriptors that a process of the tests may have open, or have on their way (unix(7): ETOOMANYREFS)."""
NEWER_UML = (6, 13)
"""The first User-Mode Linux that asks for the number of queues."""
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000


class Need(NamedTuple):
    """One row of the table."""

    is_met: Callable[[], object]
    what: str
    remedy: str
    demanded: bool = True
    """False: it cannot be had on every machine, so that its lack is never a failure."""


def _program(name: str, package: str) -> Need:
    return Need(lambda: shutil.which(name), name, f"apt-get install {package}")


def _modules(extra: str, *names: str) -> Need:
    """The libraries of an extra."""
    return Need(
        lambda: all(importlib.util.find_spec(name) for name in names),
        ", ".join(names),
        f"pip install 'vnic[{extra}]'",
    )


def _has_browser() -> bool:
    programs = shutil.which("chromium") and shutil.which("chromedriver")
    return bool(programs) and importlib.util.find_spec("selenium") is not None


def _has_namespaces() -> bool:
    """Root in a container may lack the capability, so a child tries."""
    if os.geteuid() != 0:
        return False
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(CLONE_NEWNET | CLONE_NEWNS) != 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _has_tun() -> bool:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _has_bridge_cfm() -> bool:
    """Whether the kernel says that it has it, and its tool is there."""
    try:
        config = gzip.decompress(Path("/proc/config.gz").read_bytes())
    except OSError:
        return False
    return b"CONFIG_BRIDGE_CFM=y" in config and shutil.which("cfm") is not None


def _is_reachable(family: socket.AddressFamily, host: str) -> bool:
    """Whether a connection to this address of the loopback interface comes about."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server, socket.socket(family) as client:
            server.bind((host, 0))
            server.listen()
            client.settimeout(5)
            client.connect(server.getsockname())
    except OSError:
        return False
    return True


def _has_sanitizers() -> bool:
    """Whether a program that is built with them runs."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.c"), Path(folder, "probe")
        source.write_text("int main(void) { return 0; }\n")
        command = ["cc", "-fsanitize=address,undefined", str(source), "-o", str(program)]
        try:
            built = subprocess.run(command, check=False, capture_output=True)
            return built.returncode == 0 and subprocess.run([program], check=False).returncode == 0
        except OSError:
            return False


def _may_execute() -> bool:
    """Whether a program in the temporary folder may be run; a mount option may forbid it."""
    with tempfile.TemporaryDirectory() as folder:
        return runs_programs(Path(folder))


def runs_programs(folder: Path) -> bool:
    """Whether programs in this folder, which has to be writable, may be run."""
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    try:
        return subprocess.run([program], check=False).returncode == 0
    except OSError:
        return False
    finally:
        program.unlink()


def _newer_uml() -> kit.UmlKit | None:
    """The downloaded one, or this machine's own if it is that new."""
    own = kit.find_uml()
    return kit.newer_kit() or (own if own is not None and own.version >= NEWER_UML else None)


def newer_uml() -> kit.UmlKit:
    need("newer-uml")
    found = _newer_uml()
    assert found is not None
    return found


def beside_python(name: str) -> str | None:
    """A program of the virtual environment, else of the PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


NEEDS = {
    # Programs.
    "ip": _program("ip", "iproute2"),
    "passt": _program("passt", "passt"),
    "tshark": _program("tshark", "tshark"),
    "qemu": _program("qemu-system-x86_64", "qemu-system-x86"),
    "ping": _program("ping", "iputils-ping"),
    "frr": Need(lambda: Path("/usr/lib/frr/ospfd").exists(), "FRR", "apt-get install frr"),
    "keepalived": _program("keepalived", "keepalived"),
    "networkd": Need(
        lambda: Path("/lib/systemd/systemd-networkd").exists(), "systemd-networkd", "apt-get install systemd"
    ),
    "ovs": _program("ovs-vswitchd", "openvswitch-switch"),
    "bridge-cfm": Need(
        _has_bridge_cfm,
        "a kernel with CONFIG_BRIDGE_CFM, and `cfm` of its maintainers",
        "github.com/microchip-ung/cfm",
        demanded=False,
    ),
    "cpio": _program("cpio", "cpio"),
    "bash": _program("bash", "bash"),
    "zsh": _program("zsh", "zsh"),
    "groff": _program("groff", "groff-base"),
    "fish": _program("fish", "fish"),
    "promtool": _program("promtool", "prometheus"),
    "setpriv": _program("setpriv", "util-linux"),
    "systemd": Need(
        lambda: Path("/usr/lib/systemd/systemd").exists() and shutil.which("systemd-analyze"),
        "systemd",
        "apt-get install systemd",
    ),
    "lspci": _program("lspci", "pciutils"),
    "testpmd": _program("dpdk-testpmd", "dpdk-dev librte-net-vhost23 librte-net-virtio23"),
    "cc": _program("cc", "gcc"),
    "sanitizers": Need(_has_sanitizers, "a C compiler with its sanitizers", "apt-get install gcc libc6-dev"),
    "vnic-wire": Need(find_program, "vnic-wire", "make setup, with a C compiler"),
    "vnic-probe": Need(PROBE.is_file, "vnic-probe", "make setup, with a C compiler"),
    "bridge-helper": Need(
        lambda: any(os.access(path, os.X_OK) for path in HELPERS),
        "qemu-bridge-helper",
        "apt-get install qemu-system-common",
    ),
    "libvirtd": _program("libvirtd", "libvirt-daemon libvirt-daemon-driver-qemu"),
    "libvirt-python": _modules("libvirt", "libvirt"),
    "mcp": _modules("mcp", "mcp"),
    "web": _modules("web", "starlette", "uvicorn", "wsproto"),
    "browser": Need(
        _has_browser, "a browser that Selenium drives", "apt-get install chromium chromium-driver"
    ),
    "qmp-shell": Need(lambda: beside_python("qmp-shell"), "qmp-shell", "pip install qemu.qmp"),
    # Guests.
    "uml": Need(kit.find_uml, "User-Mode Linux", "apt-get install user-mode-linux busybox-static"),
    "newer-passt": Need(passt_kit.find_passt, "a passt of 2025 or later", "make guests"),
    "newer-uml": Need(_newer_uml, "a newer User-Mode Linux", "make guests"),
    "qemu-guest": Need(qemu_kit.find_qemu, "the QEMU guest", "make guests"),
    "guest-agent": Need(agent_kit.find_agent, "QEMU's guest agent", "make guests"),
    # Rights.
    "namespaces": Need(
        _has_namespaces, "root's right to make namespaces", "run as root, with CAP_SYS_ADMIN in a container"
    ),
    "tun": Need(_has_tun, "/dev/net/tun that opens", "modprobe tun; chmod 0666 /dev/net/tun"),
    # The host's network.
    "loopback": Need(
        lambda: _is_reachable(socket.AF_INET, "127.0.0.1"), "127.0.0.1 that answers", "ip link set lo up"
    ),
    "ipv6": Need(
        lambda: _is_reachable(socket.AF_INET6, "::1"),
        "::1 that answers",
        "sysctl net.ipv6.conf.lo.disable_ipv6=0",
    ),
    # Limits.
    "exec-tmp": Need(
        _may_execute, "a temporary folder that programs run in", "export TMPDIR=A_FOLDER without noexec"
    ),
    "files": Need(
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= FILES,
        f"{FILES} descriptors for a process",
        f"ulimit -n {FILES}",
    ),
}


@functools.cache
def is_met(name: str) -> bool:
    """Whether the machine has what the table calls so; asked once a process."""
    return bool(NEEDS[name].is_met())


def need(*names: str) -> None:
    """Skip the test when this machine lacks one of these; fail instead where all parts are demanded."""
    missing = [NEEDS[name] for name in names if not is_met(name)]
    if not missing:
        return
    text = "this machine lacks " + ", ".join(f"{each.what} ({each.remedy})" for each in missing)
    if os.environ.get("VNIC_REQUIRE_GUESTS") == "1" and any(each.demanded for each in missing):
        pytest.fail(f"{text}, and VNIC_REQUIRE_GUESTS=1 demands it")
    pytest.skip(text)
