"""Tests of stream with link-propagate=on: two networks on one cable; the far end sees set_link."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.options import StreamOptions
from vnic.net.errors import NetError
from vnic.sockets.address import FdAddress, UnixAddress


@pytest.mark.parametrize("pulled", ["left", "right"])
def test_set_link_propagates_to_far_end(tmp_path: Path, pulled: str) -> None:
    addr = UnixAddress(path=str(tmp_path / "cable.sock"))

    async def main() -> None:
        async with Lab() as left, Lab() as right:
            listener = StreamOptions(id="net0", addr=addr, server=True, link_propagate=True)
            client = StreamOptions(id="net0", addr=addr, reconnect_ms=10, link_propagate=True)
            _, left_nic, _ = left.wire(listener)
            _, right_nic, _ = right.wire(client)
            await until(lambda: left_nic.link_up and right_nic.link_up)
            lab, far = (left, right_nic) if pulled == "left" else (right, left_nic)
            lab.network.set_link("nic-net0", False, "test")
            assert lab.why("net0") == "the socket is closed to show the far end that the link is down"
            await until(lambda: not far.link_up)
            lab.network.set_link("nic-net0", True, "test")
            await until(lambda: left_nic.link_up and right_nic.link_up)
            events = [name for name, _ in lab.events if name.startswith("NETDEV")]
            assert events == [
                "NETDEV_STREAM_CONNECTED",
                "NETDEV_STREAM_DISCONNECTED",
                "NETDEV_STREAM_CONNECTED",
            ]

    run(main())


def test_netdev_with_link_off_opens_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "cable.sock"

    async def main() -> None:
        async with Lab() as lab:
            addr = UnixAddress(path=str(path))
            lab.add(StreamOptions(id="net0", addr=addr, server=True, link=False, link_propagate=True))
            assert not path.exists()
            lab.network.set_link("net0", True, "test")
            await until(path.exists)
            lab.network.set_link("net0", False, "test")
            assert not path.exists()

    run(main())


def test_link_propagate_without_reconnect_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lab() as lab:
            addr = UnixAddress(path=str(tmp_path / "cable.sock"))
            with pytest.raises(NetError, match="needs 'reconnect-ms'"):
                lab.add(StreamOptions(id="a", addr=addr, link_propagate=True))
            with pytest.raises(NetError, match="incompatible with a passed socket"):
                lab.add(StreamOptions(id="a", addr=FdAddress(text="9"), server=True, link_propagate=True))

    run(main())
