"""What is done in the guest of test_systemd.py: a played VM on a NIC of vnic@lab, whose service is killed, and more.

It prints one line for each step that went as it should, and `done` at last; anything else is a traceback.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import ALL_PROTOCOL_FEATURES, SocketWire, VhostUserClient

SERVICE = "vnic@lab.service"
SOCKET = "/run/vnic-lab/nic0.sock"
LOG = Path("/run/vnic.log")
PATIENCE_S = 250.0
ARP = bytes.fromhex(
    "ffffffffffff 525400123456 0806 0001 0800 06 04 0001 525400123456 0a00020f 000000000000 0a000202"
)
"""Who has 10.0.2.2? Tell 10.0.2.15 (RFC 826)."""


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def shown(name: str) -> str:
    return run("systemctl", "show", "-P", name, SERVICE)


LOOK_S = 0.5
"""An emulated machine is kept busy by each look of systemctl."""


def wait(what: str, condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not come to pass"
        time.sleep(LOOK_S)


def say(text: str) -> None:
    print(text, flush=True)


class Vm:
    """The played VM, which fails when anything reaches it that nobody ordered."""

    def __init__(self) -> None:
        self._memory = FakeGuestMemory()
        self._driver = NetDriver(self._memory)
        self._wire = SocketWire.connect(SOCKET)
        self._client = VhostUserClient(self._wire, self._memory, self._driver)
        self._client.start(ALL_PROTOCOL_FEATURES)
        assert self._client.link_up()
        self._client.config_changes()
        self._driver.fill_rx(16)
        self.is_answered()

    def is_answered(self) -> None:
        """A frame of it is answered by the echo."""
        self._driver.send(ARP)
        answers: list[bytes] = []

        def answered() -> bool:
            answers.extend(self._driver.received())
            return bool(answers)

        wait("an answer of the echo", answered)
        self._driver.fill_rx(len(answers))

    def saw_nothing(self) -> None:
        assert not self.is_cut_off(), "the connection is closed"
        assert not self._client.config_changes(), "it was told of a change of its link"
        assert self._client.link_up()

    def is_cut_off(self) -> bool:
        readable, _, _ = select.select([self._wire.sock], [], [], 0)
        return bool(readable) and not self._wire.sock.recv(1, 2)  # MSG_PEEK


def is_another(before: str) -> bool:
    pid, state = run("systemctl", "show", "--value", "-p", "MainPID", "-p", "ActiveState", SERVICE).split()
    return pid not in ("0", before) and state == "active"


def another_process(vm: Vm, what: str, do: Callable[[], object]) -> None:
    """The service has another main process after `do`, and the VM notices nothing."""
    before = shown("MainPID")
    do()
    wait(what, lambda: is_another(before))
    vm.is_answered()
    vm.saw_nothing()
    stored = int(shown("NFileDescriptorStore"))
    assert stored > 3, f"{stored} descriptors are stored"
    say(what)


def qmp(command: str) -> Any:
    """A command of vnic@lab's monitor; the verbs take their time to start in an emulated machine."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/vnic/lab.qmp")
        stream = sock.makefile("rw")
        stream.readline()
        for execute in ("qmp_capabilities", command):
            stream.write(json.dumps({"execute": execute}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
            assert "return" in answer, answer
        return answer["return"]


def main() -> None:
    assert shown("ActiveState") == "active"
    vm = Vm()
    say("started")
    another_process(vm, "killed", lambda: run("systemctl", "kill", "-s", "KILL", "--kill-who=main", SERVICE))
    config = Path("/etc/vnic/lab.conf")
    config.write_text(f"{config.read_text()}-netdev echo,id=net1\n")
    another_process(vm, "restarted", lambda: run("systemctl", "restart", SERVICE))
    assert {link["name"] for link in qmp("query-links")} == {"nic0", "net0", "net1"}
    another_process(vm, "upgraded", lambda: qmp("vnic-upgrade"))
    keeper = qmp("query-vnic")["keeper"]
    assert keeper == {"kind": "systemd", "active": True}, keeper
    run("systemctl", "stop", SERVICE)
    assert vm.is_cut_off()
    assert shown("ActiveState") == "inactive"
    assert shown("NFileDescriptorStore") == "0"
    say("done")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        say(
            run("systemctl", "status", "-n0", SERVICE)
            if shown("ActiveState") == "active"
            else shown("Result")
        )
        say(LOG.read_text())
        raise
