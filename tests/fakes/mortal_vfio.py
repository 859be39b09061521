"""A vnic with one vfio-user NIC in a process that is killed with SIGKILL, and started again with what a keeper holds.

`MortalVfio.kill_at` has the process kill itself at the given one of its next steps: each read and write of the
connection, each move of the position, each commit, each access to the device. `look` starts the next one.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.keeper import FakeKeeper

from vnic.attach.vfio_user.attachment import VfioUserAttachment
from vnic.attach.vfio_user.exact import ExactConnection
from vnic.attach.vfio_user.function import VfioPciPort
from vnic.attach.vfio_user.progress import Progress
from vnic.keep import NO_HANDLES, NoHandles
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.nic.intel.e1000 import E1000
from vnic.nic.intel.e1000.record import E1000Record
from vnic.state.keep import StoredKeep
from vnic.state.notify import Notifier

MAC = bytes.fromhex("525400123456")
FRAME_MOST = 20_000
SECONDS = 60.0


class Netdev(Endpoint):
    """The far end of the wire: each frame is one message of a socket that outlives the process."""

    def __init__(self, sock: socket.socket, step: Callable[[], None]) -> None:
        self._sock = sock
        self._step = step

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        self.client.send(0, self._sock.recv(FRAME_MOST))

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self._step()
        self._sock.send(frame)
        self._step()
        return True


class NicUnit:
    """The device model as a unit of the keep."""

    def __init__(self, device: E1000) -> None:
        self.device = device

    def save_kept(self) -> tuple[E1000Record, NoHandles]:
        return self.device.save(), NO_HANDLES


class MortalVfio:
    """The keeper's side."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.keeper = FakeKeeper()
        self.wire, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._far.setblocking(False)
        self.wire.setblocking(False)
        self.pid = 0
        self.kills = 0
        self._clients: list[PatientClient] = []
        self._shared = mmap.mmap(-1, 8)
        self._fuse = memoryview(self._shared).cast("Q")

    def kill_at(self, step: int) -> None:
        """The process kills itself at this one of its steps, counted from 1; 0: at none."""
        self._fuse[0] = step

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.keeper.read()
        self.keeper.close()
        self._fuse.release()
        self._shared.close()
        self.wire.close()
        self._far.close()
        Path(self.path).unlink(missing_ok=True)

    def start(self) -> None:
        """Start a process, and wait until it serves the VM or waits for one, or is dead."""
        self.keeper.read()
        ready, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(ready)
                for client in self._clients:
                    client.sock.close()
                asyncio.run(self._live(told))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(told)
        end = time.monotonic() + SECONDS
        while not select.select([ready], [], [], 0.0005)[0]:
            self.keeper.read()
            assert time.monotonic() < end, "the process does not start"
        os.close(ready)

    def kill(self) -> None:
        """Kill it between two steps of the VM."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._died(os.waitpid(self.pid, 0))

    def look(self) -> None:
        """Do what a keeper does: keep descriptors, and start the process again if it was killed."""
        self.keeper.read()
        if self.pid and self._died(os.waitpid(self.pid, os.WNOHANG)):
            self.start()

    def _died(self, result: tuple[int, int]) -> bool:
        if not result[0]:
            return False
        assert os.WIFSIGNALED(result[1]), f"the process ended by itself, {result[1]:#x}"
        self.pid = 0
        self.kills += 1
        return True

    def client(self) -> PatientClient:
        client = PatientClient(self.path, self.look)
        self._clients.append(client)
        return client

    # --- The process ---

    def _step(self) -> None:
        if self._fuse[0]:
            self._fuse[0] -= 1
            if not self._fuse[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    async def _live(self, told: int) -> None:

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_end)
        files = [(name, os.dup(fd)) for name, fd in self.keeper.files]
        keep = StoredKeep(Notifier(self.keeper.address), files, loop.call_soon)
        network = Network(loop)
        device = E1000(autonegotiation=False)
        network.add_netdev("net0", "stream", Netdev(self._far, self._step))
        nic = network.add_nic("nic0", device.model.name, device, mac=MAC, netdev_id="net0")
        attachment = VfioUserAttachment(loop, device, nic, self.path, keep)
        unit = NicUnit(device)
        found = keep.inherited("nic/nic0", E1000Record, NoHandles)
        cells = keep.cells("nic/nic0", device.cells_wanted)
        if attachment.restore():
            assert found is not None
            device.restore(found[0], attachment.device_handles._replace(cells=cells))
        else:
            assert found is None, "it starts anew"
            attachment.start()
            device.use_cells(cells)
        device.kept = keep.unit("nic/nic0", unit)
        keep.settle()
        _count_steps(self._step, keep)
        attachment.go_on()
        os.close(told)
        await asyncio.sleep(3600)


def _end(_: object, context: dict[str, Any]) -> None:
    """An exception has escaped into the loop."""
    traceback.print_exception(context["exception"])
    os._exit(2)


def _count_steps(step: Callable[[], None], keep: StoredKeep) -> None:
    """Have `step` called before and after all that the process does for a VM."""

    def stepped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            step()
            result = function(*args, **named)
            step()
            return result

        return call

    places: list[tuple[Any, str]] = [
        (keep, "commit"),
        (Progress, "write"),
        *((ExactConnection, name) for name in ("_received", "_take", "_put", "_move", "_peek_from")),
        *(
            (VfioPciPort, name)
            for name in ("region_read", "region_write", "set_irqs", "dma_map", "dma_unmap")
        ),
    ]
    for owner, name in places:
        setattr(owner, name, stepped(getattr(owner, name)))


class PatientClient(VfioUserClient):
    """A VM that does not mind how long a message takes; `look` is called while it waits."""

    def __init__(self, path: str, look: Callable[[], None]) -> None:
        self._look = look
        super().__init__(path)

    def _read(self, size: int) -> bytes:
        data = b""
        end = time.monotonic() + SECONDS
        while len(data) < size:
            if select.select([self.sock], [], [], 0.001)[0]:
                piece = self.sock.recv(size - len(data))
                assert piece, "the server closed the connection"
                data += piece
            else:
                self._look()
                assert time.monotonic() < end, "a message is never answered"
        return data

    def settle(self) -> None:
        """Until nothing more is under way: wait for what was posted."""
        self.config_read(0, 4)
