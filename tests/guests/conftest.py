"""Every test here boots a real kernel, or drives one that its module booted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.places import short_folder


@pytest.fixture(scope="module")
def _own_run_folder() -> Iterator[None]:
    """Labs of this process have their sockets there, and not among the user's."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield
        assert not list(folder.glob("vnic/*")), "of labs that have ended"


@pytest.fixture(scope="module")
def own_labs(_own_run_folder: None, vnic_module_labs: None) -> None:
    """For files whose tests use the fixtures of vnic's own plugin for pytest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.guest)
