"""passt in its vhost-user mode behind a real guest: passt moves the packets, vnic keeps the link."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.guests.lab import nic, uml, vnic_run
from tests.integration.namespace import in_namespace, run
from tests.integration.test_backend_passt import CONNECT, SERVE, make_host, process

from vnic.lab.guest.passt_kit import find_passt

FILE_BYTES = 40_000_000
"""So many that the cable is pulled while they come."""
PULL_S = 1.0
"""Longer than the first retransmissions of TCP."""


async def _download(program: str) -> None:
    make_host()
    await asyncio.to_thread(_drive, program)


def _drive(program: str) -> None:
    content = os.urandom(FILE_BYTES)
    expected = hashlib.sha256(content).hexdigest()
    options = f"passt,id=net0,vhost-user=on,path={program},address=10.0.2.15,netmask=24,gateway=10.0.2.2"
    server = (sys.executable, "-c", SERVE, "127.0.0.1", "8080")
    with tempfile.TemporaryDirectory() as folder, process(*server, folder):
        (Path(folder) / "file").write_bytes(content)
        run(sys.executable, "-c", CONNECT, "127.0.0.1", "8080")
        with (
            vnic_run("-name", "passt", "-netdev", options, *nic("nic0")) as running,
            uml(running, "nic0") as guest,
        ):
            assert guest.wait_carrier(True)
            guest.set_address("10.0.2.15/24")
            guest.run("ip route add default via 10.0.2.2")
            fetch = "wget -q -O - http://10.0.2.2:8080/file | sha256sum | cut -d' ' -f1"
            assert guest.run(fetch) == expected
            link = running.qmp.execute("query-topology")["clients"]
            assert {each["name"]: each.get("datapath") for each in link}["nic0"] == "vhost"
            pending = guest.start(fetch)
            time.sleep(0.1)
            running.qmp.set_link("nic0", False)
            time.sleep(PULL_S)
            running.qmp.set_link("nic0", True)
            assert pending.result(60).output.strip() == expected


@pytest.mark.needs("newer-passt", "uml")
def test_a_download_by_passts_own_rings_survives_a_pulled_cable() -> None:
    kit = find_passt()
    assert kit is not None
    in_namespace(_download, str(kit.program))
