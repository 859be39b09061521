"""`vnic doctor`: what this machine has and lacks for vnic, and the command that installs each.

Every check is one function that returns a Finding and changes nothing. Exit code 1 if something is missing without
which `vnic run` cannot work; what only some back-ends, guests or tests need is reported, and no failure.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vnic.adopt.domain.library import LibraryMissing, load, version_text
from vnic.cli.show import print_json, style
from vnic.lab.guest import cache, kit, qemu_kit
from vnic.lab.guest.memory_folder import memory_folders
from vnic.machine.datapath import Choice, wire_command
from vnic.printable import printable
from vnic.sockets import rundir

PYTHON_WANTED = (3, 11)
QEMU_PACKAGE = "qemu-system-x86"
LIBRARIES = ("msgspec", "pyroute2", "qemu.qmp", "rich")
GUEST_MEMORY_BYTES = 64 << 20
FILES_WANTED = 1024

_CAP_NET_ADMIN = 12  # capabilities(7)
_PTRACE_FORBIDDEN = (
    "3"  # Yama's admin setting that no process can lift (Documentation/admin-guide/LSM/Yama.rst)
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is here, or not; `mend` is a command, empty where nothing is to be mended."""

    name: str
    has: bool
    detail: str
    use: str
    mend: str = ""
    required: bool = False


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "doctor",
        help="say what this machine has and lacks for vnic",
        description="Say what this machine has and lacks for vnic, and the command that mends it. Exit code 1 if"
        " something is missing that `vnic run` cannot do without.",
    )
    parser.add_argument("-j", "--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = [check() for check in CHECKS]
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print(*report([Finding(**printable(asdict(finding))) for finding in findings]), sep="\n")
    return 1 if any(finding.required and not finding.has for finding in findings) else 0


def report(findings: Iterable[Finding]) -> Iterable[str]:
    """The findings, then what mends those that lack."""
    findings = list(findings)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        if finding.has:
            mark = style("has  ", "green")
        else:
            mark = style("LACKS", "red") if finding.required else style("lacks", "yellow")
        yield f"{mark} {finding.name:{width}}  {finding.detail}"
        if not finding.has:
            yield f"{'':6}{'':{width}}  for {finding.use}"
            yield f"{'':6}{'':{width}}  mend it with: {style(finding.mend, 'bold')}"
    lacking = sum(not finding.has for finding in findings)
    vital = sum(finding.required and not finding.has for finding in findings)
    if vital:
        yield f"vnic cannot work here: {vital} of what it needs is missing."
    elif lacking:
        yield "vnic works here; what is lacking is only needed for what stands beside it."
    else:
        yield "vnic works here, and nothing is lacking."


def apt_cache(*words: str) -> list[str]:
    """The lines that apt-cache prints; none where there is no apt."""
    try:
        done = subprocess.run(
            ["apt-cache", *words], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def offered(name: str) -> str:
    """The package of that name in this machine's lists, or of that name and a number; empty if there is none."""
    found = [line for line in apt_cache("pkgnames", name) if re.fullmatch(rf"{re.escape(name)}\d*", line)]
    return max(found, key=lambda line: (line == name, line), default="")


def candidate(package: str) -> tuple[int, ...]:
    """The upstream version that apt-get would install; empty if none."""
    for line in apt_cache("policy", package):
        if found := re.match(r"\s*Candidate: (?:\d+:)?(\d+(?:\.\d+)*)", line):
            return tuple(map(int, found[1].split(".")))
    return ()


def install(*packages: str) -> str:
    """What installs packages on this very system, for this user; it names only what the machine's sources have."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    if not shutil.which("apt-get"):
        return f"install what has {packages[0]}, with this system's package manager"
    names = {package: offered(package) for package in packages}
    if not any(line.endswith(" Packages") for line in apt_cache("policy")):
        return f"{sudo}apt-get update, then vnic doctor again"
    if missing := [package for package, name in names.items() if not name]:
        return f"nothing: this machine's package sources have no {', '.join(missing)}"
    return f"{sudo}apt-get install {' '.join(names.values())}"


def tool_version(path: str) -> tuple[int, ...]:
    """The version in the first line that `PROGRAM --version` prints; empty if it names none."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\d+(?:\.\d+)+", done.stdout.partition("\n")[0])
    return tuple(map(int, found[0].split("."))) if found and done.returncode == 0 else ()


def debian_release() -> str:
    """The codename of the Debian release that this is, else an empty text."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return release.get("VERSION_CODENAME", "") if release["ID"] == "debian" else ""


# -- what vnic itself needs -----------------------------------------------------------------------------------------


def check_python() -> Finding:
    wanted = _dotted(PYTHON_WANTED)
    detail = f"Python {platform.python_version()} ({sys.executable}); {wanted} or later is needed"
    has = sys.version_info[:2] >= PYTHON_WANTED
    return Finding("python", has, detail, "everything", install("python3"), required=True)


def check_system() -> Finding:
    detail = f"{platform.system()} {platform.release()} on {platform.machine()}"
    has = platform.system() == "Linux"
    return Finding("system", has, detail, "everything", "run vnic on Linux", required=True)


def check_libraries() -> Finding:
    versions, missing = [], []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    detail = f"missing: {', '.join(missing)}" if missing else ", ".join(versions)
    mend = f"{sys.executable} -m pip install {' '.join(missing)}"
    return Finding("libraries", not missing, detail, "everything", mend, required=True)


def check_runtime_folder() -> Finding:
    use = "finding a running vnic by its name (or give -qmp and --qmp a path)"
    try:
        return Finding(
            "runtime folder", True, f"{rundir.own_folder()}, for the QMP sockets", use, required=True
        )
    except (rundir.RunDirError, OSError) as error:
        mend = 'export XDG_RUNTIME_DIR="$(mktemp -d)"'
        return Finding("runtime folder", False, str(error), use, mend, required=True)


def check_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # vnic raises its own
    has = limit == resource.RLIM_INFINITY or limit >= FILES_WANTED
    detail = f"{limit} at most" if limit != resource.RLIM_INFINITY else "no limit"
    return Finding("open files", has, detail, "hundreds of NICs in one process", f"ulimit -n {FILES_WANTED}")


# -- guests ---------------------------------------------------------------------------------------------------------


def check_uml() -> Finding:
    use = "vnic demo and the tests on a real kernel (vnic demo downloads it by itself, without root)"
    installed, found = True, kit.installed_kit()
    if found is None:
        installed, found = False, kit.cached_kit()
    if found is None:
        return Finding(
            "User-Mode Linux",
            False,
            "no kernel with modules and a static busybox",
            use,
            "vnic demo",
        )
    detail = f"{found.version_text()} ({found.kernel}{'' if installed else ', downloaded'}), busybox {found.busybox}"
    return Finding("User-Mode Linux", True, detail, use)


def check_ptrace() -> Finding:
    try:
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        scope = "none"
    detail = "forbidden for everybody (Yama's ptrace_scope is 3)" if scope == _PTRACE_FORBIDDEN else "allowed"
    mend = "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d and reboot"
    return Finding("ptrace", scope != _PTRACE_FORBIDDEN, detail, "User-Mode Linux", mend)


def check_guest_memory() -> Finding:
    folder, room = max(memory_folders(), key=lambda item: item[1], default=("", 0))
    detail = f"{room >> 20} MiB free in {folder}" if folder else "there is no tmpfs"
    mend = f"free space in {folder}, or mount a larger one" if folder else "mount -t tmpfs tmpfs /dev/shm"
    return Finding("guest memory", room >= GUEST_MEMORY_BYTES, detail, "guests of vnic demo", mend)


def check_cache() -> Finding:
    folder = cache.cache_folder()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    has = os.access(existing, os.W_OK | os.X_OK)
    detail = f"{folder}" if has else f"{folder} cannot be written"
    return Finding("cache folder", has, detail, "downloaded guests", cache.REMEDY)


def check_qemu() -> Finding:
    use = "VMs of your own over vfio-user (vhost-user works with any QEMU)"
    path = shutil.which(qemu_kit.PROGRAM)
    mend = f"install QEMU {_dotted(qemu_kit.FIRST_VERSION)} or later, https://www.qemu.org/download/"
    if candidate(QEMU_PACKAGE) >= qemu_kit.FIRST_VERSION:
        mend = install(QEMU_PACKAGE)
    elif debian_release() == "trixie":
        mend = "with trixie-backports in the package sources: apt-get install -t trixie-backports qemu-system-x86"
    if path is None:
        return Finding("QEMU", False, f"{qemu_kit.PROGRAM} is not installed", use, mend)
    version = qemu_kit.qemu_version([path])
    has = version >= qemu_kit.FIRST_VERSION
    late = "" if has else f", too old for vfio-user: that came with {_dotted(qemu_kit.FIRST_VERSION)}"
    return Finding("QEMU", has, f"{_dotted(version)} ({path}){late}", use, mend)


def check_qemu_guest() -> Finding:
    use = "vnic demo --guest qemu and the tests on PCI NICs"
    found = qemu_kit.find_qemu()
    if found is None:
        return Finding("QEMU guest", False, "not downloaded", use, "vnic demo --guest qemu")
    return Finding("QEMU guest", True, f"{found.version_text()} ({found.kernel})", use)


def check_kvm() -> Finding:
    path = Path("/dev/kvm")
    if not path.exists():
        return Finding(
            "KVM", False, "no /dev/kvm", "fast QEMU guests", "enable virtualization in the firmware or host"
        )
    has = os.access(path, os.R_OK | os.W_OK)
    detail = "/dev/kvm" if has else "/dev/kvm is not yours to open"
    return Finding("KVM", has, detail, "fast QEMU guests", 'sudo usermod -aG kvm "$USER", then log in again')


# -- back-ends and tools --------------------------------------------------------------------------------------------


def check_tun() -> Finding:
    use = "-netdev tap and bridge that make their interface (fd= works without)"
    node = Path("/dev/net/tun")
    if not node.exists():
        return Finding("tap", False, "no /dev/net/tun", use, "sudo modprobe tun")
    if not os.access(node, os.R_OK | os.W_OK):
        return Finding("tap", False, "/dev/net/tun is not yours to open", use, "sudo chmod 0666 /dev/net/tun")
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.M)
    allowed = found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)
    detail = "/dev/net/tun and CAP_NET_ADMIN" if allowed else "/dev/net/tun, but not CAP_NET_ADMIN"
    mend = 'sudo ip tuntap add tap0 mode tap user "$USER"   (then ifname=tap0)'
    return Finding("tap", allowed, detail, use, mend)


def check_vhost_net() -> Finding:
    """-netdev tap,vhost=on"""
    use = "-netdev tap,vhost=on; without it vnic moves the packets"
    node = Path("/dev/vhost-net")
    if not node.exists():
        return Finding("vhost-net", False, f"no {node}", use, "sudo modprobe vhost_net")
    if not os.access(node, os.R_OK | os.W_OK):
        return Finding("vhost-net", False, f"{node} is not yours to open", use, "be in the group kvm")
    return Finding("vhost-net", True, str(node), use)


def check_vnic_wire() -> Finding:
    use = "packets moved outside of Python (without it all works, more slowly)"
    command = wire_command(Choice())
    if isinstance(command, str):
        return Finding(
            "vnic-wire", False, command, use, "make setup, where gcc, clang or ziglang is installed"
        )
    return Finding("vnic-wire", True, command.command[0], use)


def check_passt() -> Finding:
    return _tool("passt", "passt", "-netdev user and passt", "passt")


def check_libvirt() -> Finding:
    use = "-object libvirt, and domains in vnic adopt --scan"
    try:
        number = load().libvirt.getVersion()
    except LibraryMissing as missing:
        return Finding("libvirt-python", False, str(missing), use, "pip install 'vnic[libvirt]'")
    return Finding("libvirt-python", True, f"for libvirt {version_text(number)}", use)


def check_testpmd() -> Finding:
    packages = (
        "dpdk-dev",
        "librte-net-virtio",
        "librte-net-vhost",
    )  # and a number that each release has its own of
    return _tool("testpmd", "dpdk-testpmd", "the tests against DPDK", *packages)


def check_tshark() -> Finding:
    return _tool("tshark", "tshark", "the tests of captures", "tshark")


def _tool(name: str, program: str, use: str, *packages: str) -> Finding:
    path = shutil.which(program)
    if path is None:
        return Finding(name, False, f"{program} is not installed", use, install(*packages))
    version = tool_version(path)
    told = f"{_dotted(version)} ({path})" if version else f"{path}, which does not tell its version"
    return Finding(name, True, told, use)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "an unknown version"


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_system,
    check_libraries,
    check_runtime_folder,
    check_files,
    check_uml,
    check_ptrace,
    check_guest_memory,
    check_cache,
    check_qemu,
    check_qemu_guest,
    check_kvm,
    check_tun,
    check_vhost_net,
    check_vnic_wire,
    check_passt,
    check_libvirt,
    check_testpmd,
    check_tshark,
)
