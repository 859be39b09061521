"""A VM whose saved state is invalid is disconnected, and the field is named."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec
import pytest
from tests.fakes.loops import open_fds
from tests.fakes.trips import ALL, vfio_user

from vnic.memory.map_record import MemoryMapRecord
from vnic.record import RecordError

pytestmark = pytest.mark.in_a_child

assert vfio_user


def test_refused_vm_leaves_no_descriptor() -> None:
    with ExitStack() as stack:
        trip = ALL["vfio-user attachment"](stack)
        record = trip.unit.save()
        session = msgspec.structs.replace(record.session, memory=MemoryMapRecord(regions=[]))
        new = trip.make(stack)
        before = open_fds()
        with pytest.raises(RecordError):
            trip.restore(new, msgspec.structs.replace(record, session=session))
        assert new.attachment.session is None
        assert new.attachment._keep.refusals == [("vm/nic0", "session.memory.regions")]
        # The end of the test's own connection, and the listener, with which the attachment starts anew.
        assert open_fds() <= before + 3
