"""Our monitor beside a real QEMU's: the same bytes go to both, and the same bytes have to come back.

qemu_monitor.txt holds what is sent: all that QEMU 7.2 and 11.1 answer alike, except where vnic differs on purpose.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.integration.process import PATIENCE_S, Place, is_listening, wait_for
from tests.needs import need

NETDEVS = ("hubport,id=h0,hubid=1", "hubport,id=h1,hubid=1", "hubport,id=h2,hubid=2")
NICS = ("virtio-net-pci,id=nic0,netdev=h0,mac=52:54:00:12:34:56", "e1000,netdev=h1,mac=52:54:00:12:34:57")
CHARDEVS = ("null,id=null", "socket,id=c0,path=c0.sock,server=on,wait=off")

SYNC = b'{"return": {}, "id": "sync"}\r\n'
OURS = re.compile(rb'\{"timestamp": \{[^}]*\}, "event": "LINK_(CHANGED|SEEN)".*?\r\n')
TIMESTAMP = re.compile(rb'"timestamp": \{[^}]*\}')


def each(option: str, arguments: Iterable[str]) -> list[str]:
    return [word for argument in arguments for word in (option, argument)]


class Monitor:
    """One end of the comparison: a QMP socket, spoken to in bytes."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self._input = self._socket.makefile("rb")
        self._input.readline()
        self.say('{"execute": "qmp_capabilities"}')

    def say(self, text: str) -> bytes:
        """What comes back, without times and without what only vnic tells."""
        self._socket.sendall(text.encode() + b'\n{"execute": "query-name", "id": "sync"}\n')
        lines = []
        while (line := self._input.readline()) != SYNC:
            assert line, f"the monitor ended after {text}"
            lines.append(line)
        return TIMESTAMP.sub(b'"timestamp": {}', OURS.sub(b"", b"".join(lines)))

    def close(self) -> None:
        self._input.close()
        self._socket.close()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Monitor, Monitor]]:
    """QEMU's monitor and ours, each with two NICs and three netdevs."""
    need("qemu")
    theirs, ours = Place(), Place()
    path = theirs.path("q")
    words = [
        "qemu-system-x86_64",
        "-M",
        "pc",
        "-accel",
        "tcg",
        "-m",
        "16",
        "-S",
        "-nodefaults",
        "-no-user-config",
    ]
    words += ["-display", "none", "-qmp", f"unix:{path},server=on,wait=off", *each("-device", NICS)]
    alike = [*each("-netdev", NETDEVS), *each("-chardev", CHARDEVS)]
    qemu = subprocess.Popen(
        [*words, *alike], cwd=theirs.folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    our_nics = [f"{nic},attach.type=vfio-user,attach.path={number}.sock" for number, nic in enumerate(NICS)]
    try:
        with ours.run("-S", *alike, *each("-device", our_nics)) as running:
            wait_for(lambda: is_listening(path))
            monitors = Monitor(path), Monitor(running.qmp_path)
            yield monitors
            for monitor in monitors:
                monitor.close()
    finally:
        qemu.kill()
        qemu.wait()
        theirs.close()
        ours.close()


def read_sections() -> dict[str, list[str]]:
    """The lines of the file, by the heading that they stand under."""
    text = Path(__file__).with_name("qemu_monitor.txt").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return {
        name: [line for line in body.splitlines() if line]
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


SECTIONS = read_sections()


def message(line: str) -> str:
    """What a line of the file stands for."""
    if line.startswith("hmp>"):
        command_line = line.removeprefix("hmp>").removeprefix(" ").replace(r"\t", "\t")
        arguments = json.dumps({"command-line": command_line})
        return f'{{"execute": "human-monitor-command", "arguments": {arguments}}}'
    if command := re.fullmatch(r"([\w-]+) (\{.*)", line):
        return f'{{"execute": "{command[1]}", "arguments": {command[2]}}}'
    return line.replace(r"\n", "\n")


@pytest.mark.parametrize("section", SECTIONS)
def test_monitor_output_is_qemus_byte_for_byte(both: tuple[Monitor, Monitor], section: str) -> None:
    theirs, ours = both
    for line in SECTIONS[section]:
        assert ours.say(message(line)) == theirs.say(message(line)), line
