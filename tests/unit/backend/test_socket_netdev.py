"""Tests of socket's TCP forms: QEMU's info texts, and a link that follows the connection."""

from __future__ import annotations

import socket

import pytest
from tests.unit.backend.helpers import Lab, run, until
from tests.unit.backend.test_stream import Far, framed

from vnic.backend.options import SocketOptions
from vnic.net.errors import NetError

pytestmark = pytest.mark.needs("loopback")


def test_listen_and_connect_exchange_frames() -> None:
    async def main() -> None:
        async with Lab() as lab:
            a, nic_a, guest_a = lab.wire(SocketOptions(id="a", listen="127.0.0.1:0"))
            assert a.endpoint.info_text(0) == ""
            address = lab.why("a").removeprefix("listening on tcp:").removesuffix(", no peer yet")
            b, nic_b, guest_b = lab.wire(SocketOptions(id="b", connect=address))
            await until(lambda: nic_a.link_up and nic_b.link_up)
            assert a.endpoint.info_text(0).startswith("socket: connection from 127.0.0.1:")
            assert b.endpoint.info_text(0) == f"socket: connect to {address}"
            nic_a.send(0, b"to b")
            nic_b.send(0, b"to a")
            await until(lambda: guest_a.got and guest_b.got)
            lab.network.delete_netdev("b", "test")
            await until(lambda: not nic_a.link_up)
            assert lab.why("a") == f"peer closed the connection; listening on tcp:{address}"
            assert a.endpoint.info_text(0) == ""
            lab.add(SocketOptions(id="c", connect=address))
            await until(lambda: nic_a.link_up)
            assert lab.events == [event for event in lab.events if event[0].startswith("LINK_")]

    run(main())


def test_failed_connect_shows_reason() -> None:
    async def main() -> None:
        async with Lab() as lab:
            port = unlistened.getsockname()[1]
            a, nic, _ = lab.wire(SocketOptions(id="a", connect=f"127.0.0.1:{port}"))
            text = f"Failed to connect to '127.0.0.1:{port}': Connection refused"
            await until(lambda: lab.why("a") == text)
            assert not nic.link_up
            assert a.endpoint.info_text(0) == ""

    with socket.socket() as unlistened:  # bound to the port, not listening
        unlistened.bind(("127.0.0.1", 0))
        run(main())


def test_busy_port_is_refused() -> None:
    async def main() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            async with Lab() as lab:
                with pytest.raises(
                    NetError, match=r"can't bind ip=127\.0\.0\.1 to socket: Address already in use"
                ):
                    lab.add(SocketOptions(id="a", listen=f"127.0.0.1:{port}"))

    run(main())


def test_passed_stream_socket_is_used() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        fd = ours.detach()
        async with Lab() as lab:
            a, nic, guest = lab.wire(SocketOptions(id="a", fd=str(fd)))
            assert nic.link_up
            assert a.endpoint.info_text(0) == f"socket: fd={fd}"
            far = Far(theirs)
            await far.write(framed(b"hello"))
            await until(lambda: guest.got == [b"hello"])
            far.close()
            await until(lambda: not nic.link_up)
            assert lab.why("a") == "peer closed the connection; socket does not connect again, stream does"

    run(main())
