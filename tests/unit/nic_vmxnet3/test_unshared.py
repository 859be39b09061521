"""A VM that does not share its memory is refused when it opens the device, with what to do."""

from __future__ import annotations

import pytest
from tests.fakes.irq import FakeIrq
from tests.unit.nic_vmxnet3.conftest import Rig

from vnic.attach.vfio_user.function import VfioPciPort
from vnic.memory.guest import GuestMemory
from vnic.protocol.vfio_user.messages import DmaMap, Refused


def test_vm_without_shared_memory_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    memory = GuestMemory()
    port = VfioPciPort(
        rig.device, memory, FakeIrq(), "nic0", lambda forget: pytest.fail("there is no shadow copy")
    )
    port.dma_map(DmaMap(0x100000, 16 << 20, 0, readable=True, writable=True), None)
    with pytest.raises(
        Refused, match=r"needs a VM that shares its memory: QEMU with -object memory-backend-memfd"
    ):
        port.opened()
    assert len(caplog.records) == 1
    port.close(memory.close)
    rig.close()
