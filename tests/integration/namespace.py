"""Tests in a network namespace of their own, in a child process: nothing else on this machine is affected."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import socket
import subprocess
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.needs import need

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
HOST = bytes.fromhex("020000000001")


def _child(main: Callable[..., Coroutine[Any, Any, None]], args: tuple[Any, ...], problems: Any) -> None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET | CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        run("mount", "--make-rprivate", "/")
        ip("link", "set", "lo", "up")
        asyncio.run(asyncio.wait_for(main(*args), 90))
    except BaseException:
        problems.put(traceback.format_exc())
        raise SystemExit(1) from None


def in_namespace(main: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    """Run a coroutine function in a child with network and mount namespaces of its own."""
    need("namespaces", "ip", "tun")
    context = multiprocessing.get_context("fork")
    problems = context.SimpleQueue()
    child = context.Process(target=_child, args=(main, args, problems))
    child.start()
    child.join(110)
    if child.exitcode is None:
        child.kill()
        child.join()
    text = problems.get() if not problems.empty() else f"exit code {child.exitcode}"
    problems.close()
    assert child.exitcode == 0, text


def run(*words: str) -> str:
    """What a command prints; its complaint where it fails."""
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr}"
    return result.stdout


def ip(*words: str) -> str:
    return run("ip", *words)


def up(name: str) -> None:
    """Bring an interface up with nothing of its own to say."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    ip("link", "set", name, "up")


def packet_socket(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
    sock.bind((name, 0))
    return sock


def frame(payload: bytes, target: bytes = b"\xff" * 6) -> bytes:
    return target + HOST + b"\x88\xb5" + payload


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 70000), 60)
