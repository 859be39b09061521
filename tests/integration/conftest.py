"""A place for each test of whole processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.process import Place, Running, new_place


@pytest.fixture
def place() -> Iterator[Place]:
    with new_place() as made:
        yield made


@pytest.fixture(scope="module")
def shared_echo() -> Iterator[Running]:
    """One `vnic run` for all tests of a file that leave it as it is, but for its link: nic0 plugged into an echo."""
    nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
    with new_place() as place, place.run("-netdev", "echo,id=net0", "-device", nic) as running:
        yield running
