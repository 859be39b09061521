"""One browser for the tests of a file, and a vnic with a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.needs import need

if TYPE_CHECKING:
    from tests.browser.chromium import Window


@pytest.fixture(scope="module")
def window() -> Iterator[Window]:
    need("browser", "web")
    from tests.browser.chromium import chromium

    with chromium() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_errors_in_the_console(window: Window) -> Iterator[None]:
    """Each test leaves the log as it found it, and one window."""
    window.problems()
    yield
    problems = window.problems()
    window.driver.get("about:blank")
    assert problems == []
