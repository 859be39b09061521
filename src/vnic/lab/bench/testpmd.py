"""DPDK's testpmd as a real vhost-user peer: a back-end (net_vhost) or a guest's driver (net_virtio_user).

The measures and the tests run it without root's huge pages; it polls, so each one keeps a CPU busy.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from vnic.lab.bench.report import Missing

BINARY = "dpdk-testpmd"
START_TIMEOUT_S = 60.0
_PROMPT = b"testpmd> "
_MEMORY_MIB = 192
_MBUFS = 8192


def available() -> bool:
    """Whether testpmd is installed."""
    return shutil.which(BINARY) is not None


class Testpmd:
    """A context manager around one interactive testpmd with one port, or with those of `more`, too.

    `vdev` is the port (`net_vhost0,iface=SOCKET`), `options` are testpmd's own, behind `--`. `cpu` is where it polls.
    """

    __test__ = False  # to pytest, which collects what is called Test…

    def __init__(
        self, vdev: str, *options: str, cpu: int = 0, more: Sequence[str] = (), log: Path | None = None
    ) -> None:
        if not available():
            raise Missing(
                f"{BINARY} is not installed (apt-get install dpdk-dev librte-net-vhost23 librte-net-virtio23)"
            )
        self._arguments = [vdev, *options]
        self._log = log
        self._output = b""
        last = (os.cpu_count() or 1) - 1
        worker = min(cpu, last)
        main = last if worker != last else 0
        prefix = f"vnic-{os.getpid()}-{time.monotonic_ns()}"
        lcores = f"0@{main},1@{worker}"
        self._command = [
            *("stdbuf", "-oL"),  # its printf output would stay behind its prompts, in a pipe
            *(BINARY, "--no-huge", "-m", str(_MEMORY_MIB), "--no-pci", "--no-telemetry"),
            *("--lcores", lcores, "--file-prefix", prefix, *(f"--vdev={each}" for each in (vdev, *more))),
            *("--", "-i", f"--total-num-mbufs={_MBUFS}", *options),
        ]

    def __enter__(self) -> Self:
        try:
            self._start()
        except Missing:
            # It was seen to hang in the start of its port, with the front-end connected and all rings ready.
            self._output = b""
            self._start()
        return self

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            self._until_prompt(START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL: the socket of a server stays behind."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()

    def command(self, text: str, timeout: float = 60.0) -> str:
        """Type a command; what it printed."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        return self._until_prompt(timeout)

    def _until_prompt(self, timeout: float) -> str:
        """What is printed up to the next prompt."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while _PROMPT not in self._output:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise Missing(
                    f"testpmd did not answer in {timeout:g} s: {self._output[-400:].decode(errors='replace')}"
                )
            part = os.read(fd, 65536)
            if not part:
                raise Missing(f"testpmd ended: {self._output[-800:].decode(errors='replace')}")
            self._output += part
        answer, _, self._output = self._output.partition(_PROMPT)
        return answer.decode(errors="replace")

    def statistics(self, port: int = 0) -> dict[str, int]:
        """`show port stats` as numbers; `Rx-pps` and `Tx-pps` are since the last look."""
        text = self.command(f"show port stats {port}")
        return {name: int(value) for name, value in re.findall(r"([RT][Xx]-[\w-]+): +(\d+)", text)}

    def link_up(self) -> bool:
        return "Link status: up" in self.command("show port info 0")
