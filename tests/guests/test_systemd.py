"""vnic as a service in a Debian whose PID 1 is systemd: killed, restarted and upgraded, it loses no VM."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from tests.guests import systemd_image

from vnic.children import with_us
from vnic.lab.guest.qemu_kit import find_qemu

ROOT = Path(__file__).parents[2]
PATIENCE_S = 840.0
"""A minute on a quiet machine."""
STEPS = ("started", "killed", "restarted", "upgraded", "done")
OPTIONS = """\
# A VM is plugged into a host that answers.
-netdev echo,id=net0
-device virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock
"""
DEFAULT = """\
[Unit]
Requires=vnic@lab.service scenario.service
"""
DROP_IN = """\
[Service]
# An emulated machine, on one that may be busy.
TimeoutStartSec=300
WatchdogSec=100
StandardOutput=append:/run/vnic.log
StandardError=inherit
"""
SCENARIO = """\
[Unit]
After=vnic@lab.service
[Service]
Type=exec
Environment={environment}
ExecStart={python} /scenario.py
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
"""


def files() -> dict[str, str]:
    python = systemd_image.guest_python()
    environment = systemd_image.environment(python)
    return {
        "/etc/systemd/system/vnic@.service": (ROOT / "packaging" / "vnic@.service").read_text(),
        "/etc/systemd/system/vnic@.service.d/test.conf": DROP_IN,
        "/etc/systemd/system/default.target": DEFAULT,
        "/etc/systemd/system/scenario.service": SCENARIO.format(environment=environment, python=python),
        "/etc/vnic/lab.conf": OPTIONS,
        "/scenario.py": Path(__file__).with_name("systemd_scenario.py").read_text(),
    }


@pytest.mark.timeout(900)
@pytest.mark.needs("systemd", "qemu-guest")
def test_a_service_of_systemd_is_killed_and_restarted_without_a_trace(tmp_path: Path) -> None:
    kit = find_qemu()
    assert kit is not None
    initrd = tmp_path / "initrd"
    initrd.write_bytes(systemd_image.build(kit.busybox, files()))
    log, said = tmp_path / "log", tmp_path / "said"
    command = [
        *kit.command,
        *(
            "-accel",
            "tcg",
            "-cpu",
            "qemu64",
            "-m",
            "768M",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ),
        *("-kernel", str(kit.kernel), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 rdinit=/usr/lib/systemd/systemd systemd.log_level=info"),
        *("-serial", f"file:{log}", "-serial", f"file:{said}"),
    ]
    qemu = subprocess.Popen(with_us(command), stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (lines := said.read_text() if said.exists() else "").endswith("done\n"):
            text = f"{lines}\n{log.read_text(errors='replace')[-4000:] if log.exists() else ''}"
            assert qemu.poll() is None, text
            assert "scenario.service: Failed" not in text, text
            assert time.monotonic() < end, text
            time.sleep(0.1)
    finally:
        qemu.kill()
        qemu.wait()
    assert tuple(lines.split("\n")[:-1]) == STEPS
