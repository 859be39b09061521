"""vnic-wire in its sandbox: rare ways need no system call that it forbids, and the program ends by its own signals."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from tests.fakes.wire_ends import datagram_pair
from tests.fakes.wire_program import WireProgram, frame
from tests.needs import need
from tests.unit.wire.compile import PROGRAM

from vnic.dataplane.wire.messages import Direction, Dump, DumpFailed

ENDS = """
#include "sandbox.h"
#include <stdlib.h>

static void __attribute__((noinline)) fill(volatile char *to, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = 'A';
}

int main(int count, char **arguments)
{
    char bytes[16];
    free(malloc(1)); /* as the program has */
    sandbox_confine();
    sandbox_seal();
    switch (count > 1 ? *arguments[1] : 0) {
    case 'a':
        abort();
    case 's':
        fill(bytes, 128);
        return 0;
    default:
        return malloc((size_t)1 << 46) != NULL;
    }
}
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that enters the sandbox and ends in the way of its argument."""
    need("cc", "exec-tmp")
    folder = tmp_path_factory.mktemp("ends")
    source, program = folder / "ends.c", folder / "ends"
    source.write_text(ENDS)
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O0", "-w", "-fstack-protector-all", "-I", str(PROGRAM)]
    files = [str(source), str(PROGRAM / "sandbox.c"), "-o", str(program)]
    subprocess.run(["cc", *flags, *files], check=True)
    return program


@pytest.mark.parametrize(
    ("way", "code"), [("abort", -signal.SIGABRT), ("stack", -signal.SIGABRT), ("memory", 0)]
)
def test_ends_by_its_own_signal(ends: Path, way: str, code: int) -> None:
    assert subprocess.run([ends, way], check=False, stderr=subprocess.DEVNULL).returncode == code


def test_memory_of_many_threads(program: Path) -> None:
    """glibc asks for the number of processors when it makes the ninth arena."""
    with WireProgram(program, workers=16) as wire:
        for wire_number in range(16):
            near, far = (datagram_pair(wire, 2 * wire_number + at) for at in range(2))
            with near, far:
                wire.wire(wire_number, 2 * wire_number, 2 * wire_number + 1)
                near.send(frame(1))
                assert far.recv(100) == frame(1)


def test_memory_of_a_thread_shrinks(program: Path) -> None:
    """glibc reads a file before it gives a thread's arena back: frames that wait are kept in such memory."""
    ports = range(4)
    with WireProgram(program) as wire:
        socks = [datagram_pair(wire, port) for port in ports]
        for sock in socks:
            sock.setblocking(False)
        for burst in (1, 10, 20, 30):
            for port, sock in zip(ports, socks, strict=True):
                wire.wire(port, port)  # alone on its wire: frames wait
                _send_all(sock, burst)
            wire.stats(0)
            for port in ports:
                wire.wire(port)
        for port, sock in zip(ports, socks, strict=True):
            wire.remove(port)
            sock.close()
        assert wire.all_stats() == []


def _send_all(sock: socket.socket, count: int) -> None:
    try:
        for _ in range(count):
            sock.send(bytes(60000))
    except BlockingIOError:
        pass


def test_dump_at_the_limit_of_file_sizes(program: Path, tmp_path: Path) -> None:
    with WireProgram(program) as wire, (tmp_path / "pcap").open("ab") as file:
        resource.prlimit(wire.child.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        near, far = datagram_pair(wire, 1), datagram_pair(wire, 2)
        with near, far:
            wire.wire(1, 1, 2)
            wire.request(Dump(1, 7, 65536, Direction.ALL), [file.fileno()])
            for number in range(3):
                near.send(frame(number, 3000))
                assert far.recv(4000) == frame(number, 3000)
            event = wire.await_event(lambda event: isinstance(event, DumpFailed))
        assert isinstance(event, DumpFailed)
        assert event.dump == 7
