"""vnic-wire as a process of its own, with the measuring process as its control: for measures of the program alone.

`wire-rings`, `wire-idle` and the far ends of `wire-guest` use it; the other measures run all of vnic.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import closing
from types import TracebackType
from typing import Final, Self

from vnic.dataplane.wire.messages import (
    MAX_MESSAGE_BYTES,
    Hello,
    Kind,
    PortAdd,
    Reply,
    Request,
    WireSet,
    pack_request,
    parse_answer,
)
from vnic.dataplane.wire.process import find_program
from vnic.dataplane.wire.stream_memory import StreamMemory
from vnic.lab.bench.report import Missing
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.net.offload import MAX_FRAME_BYTES
from vnic.nic.virtio_net.features import MRG_RXBUF
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.features import VERSION_1

SPIN_US: Final = 50
ANSWER_TIMEOUT_S: Final = 20.0
FEATURES: Final = VERSION_1 | MRG_RXBUF | vu.F_PROTOCOL_FEATURES
# The channel is descriptor 3; Popen can only set 0, 1 and 2.
_AS_FD_3: Final = ("sh", "-c", 'exec "$0" 3<&0 </dev/null')


class BareWire:
    """A context manager around one vnic-wire. `cpu` is where all its threads run (default: anywhere)."""

    def __init__(self, *, cpu: int | None = None, workers: int = 1, spin_us: int = SPIN_US) -> None:
        self._cpu = cpu
        self._hello = Hello(workers=workers, spin_us=spin_us)
        self._serial = 0
        self._clients: list[VhostUserClient] = []

    def __enter__(self) -> Self:
        program = find_program()
        if program is None:
            raise Missing("vnic-wire is not built here (make wire)")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(ANSWER_TIMEOUT_S)
        with theirs:
            self.process = subprocess.Popen([*_AS_FD_3, str(program)], stdin=theirs.fileno())
        try:
            if self._cpu is not None:  # before HELLO, on which it starts its threads
                os.sched_setaffinity(self.process.pid, {self._cpu})
            self.request(self._hello)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        self._channel.close()  # on which it ends
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def request(self, request: Request, fds: Sequence[int] = ()) -> bytes:
        """Send a request and return the data of its reply. Raises Missing where the program refuses it, or ends."""
        self._serial += 1
        name = type(request).__name__
        try:
            socket.send_fds(self._channel, [pack_request(self._serial, request)], list(fds))
            while data := self._channel.recv(MAX_MESSAGE_BYTES):
                answer = parse_answer(data)
                if not isinstance(answer, Reply):
                    continue
                if answer.error:
                    raise Missing(
                        f"vnic-wire refused {name}: {answer.data.decode() or os.strerror(answer.error)}"
                    )
                return answer.data
        except OSError as error:
            raise Missing(f"vnic-wire did not answer {name}: {error}") from error
        raise Missing(f"vnic-wire ended at {name}")

    def add(self, port: int, kind: Kind, fds: Sequence[int]) -> None:
        """Add a port without options; the caller keeps the descriptors."""
        request = PortAdd(port, kind, max_frame=MAX_FRAME_BYTES)
        if kind is not Kind.STREAM:
            self.request(request, fds)
            return
        with closing(StreamMemory()) as memory:
            memory.write(b"", b"")
            self.request(request, [*fds, memory.fd])

    def add_guest(self, port: int, driver: NetDriver, features: int = 0) -> None:
        """Add a port for the two rings of a played driver, with `features` besides the usual, and start them."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.add(port, Kind.VHOST, [theirs.fileno()])
        client = VhostUserClient(SocketWire(ours), driver.memory, driver)
        self._clients.append(client)
        client.negotiate(vu.P_MQ | vu.P_REPLY_ACK, FEATURES | features)
        client.set_memory()
        client.start_rings(driver.rings[:2])
        client.ask_u64(vu.GET_FEATURES)  # whose answer comes after the rings' start

    def join(self, wire: int, *ports: int) -> None:
        """Make a wire between ports."""
        self.request(WireSet(wire, ports))


def cpu_ns(pid: int, thread: int | None = None) -> int:
    """The CPU time of one thread, or of all threads of a process; exact for those that sleep."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task") if thread is None else [thread]:
        with open(f"/proc/{pid}/task/{task}/schedstat") as schedstat:
            total += int(schedstat.read().split()[0])
    return total
