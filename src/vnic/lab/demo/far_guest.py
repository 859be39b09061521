"""`python -m vnic.lab.demo.far_guest SOCKET ADDRESS`: the VM at the other end of the demo's cable, a played one.

`demo.lab` starts it as a process of its own, so that it can be killed. It has a virtio-net driver and no kernel, and
answers pings to its address until its NIC is gone.
"""

from __future__ import annotations

import select
import sys

from vnic.backend.echo import Responder
from vnic.lab.guest.fake import RX_BUFFERS
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import Disconnected, SocketWire, VhostUserClient

READY = "ready"
"""What it prints when its driver runs."""
_MAC_BYTES = 6
_ANY_IP6 = "fec0::2"


def main(socket_path: str, address: str) -> int:
    with FakeGuestMemory() as memory:
        driver = NetDriver(memory)
        client = VhostUserClient(SocketWire.connect(socket_path), memory, driver)
        try:
            client.start()
            driver.fill_rx(RX_BUFFERS)
            host = Responder(client.read_config(0, _MAC_BYTES), address, _ANY_IP6)
            client.link_up()
            print(READY, flush=True)
            _serve(client, driver, host)
        except Disconnected:
            print("the NIC is gone", file=sys.stderr)
        finally:
            client.close()
            driver.close()
    return 0


def _serve(client: VhostUserClient, driver: NetDriver, host: Responder) -> None:
    """Answer frames, and read the link whenever the device says that it changed, until the NIC is gone."""
    assert client.requests is not None
    receiving, requests = driver.rings[0], client.requests.fileno()
    while True:
        readable = select.select([requests, receiving.call_fd], [], [])[0]
        if requests in readable:
            if not client.config_changes():
                return
            client.link_up()
        if receiving.call_fd in readable:
            receiving.calls()
            frames = driver.received()
            driver.fill_rx(len(frames))
            for answer in map(host.answer, frames):
                if answer is not None:
                    driver.send(answer)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
