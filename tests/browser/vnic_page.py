"""A vnic whose page tests open: two NICs at the ends of a cable, and what else a test asks for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.integration.process import Place, Running, wait_for
from tests.integration.qmp import Qmp

TOKEN = "a-token-that-only-tests-know"
URL = re.compile(r"the page is at (http://\S+)")


def cable(a: str, b: str, follow: str = "") -> list[str]:
    """Two NICs and the cable between them."""
    words = []
    for name in (a, b):
        words += ["-netdev", f"cable,id={name}-end,cable={a}--{b}{follow}"]
        words += [
            "-device",
            f"virtio-net,id={name},netdev={name}-end,attach.type=vhost-user,attach.path={name}.sock",
        ]
    return words


class VnicPage(NamedTuple):
    """A running vnic."""

    running: Running
    url: str

    def qmp(self) -> Qmp:
        return Qmp(self.running.qmp_path)


@contextlib.contextmanager
def page_of(place: Place, *options: str, web: str = "0") -> Iterator[VnicPage]:
    """`web`: the option's text, without the token, which is always the same."""
    token_file = Path(place.path("token"))
    token_file.write_text(f"{TOKEN}\n")
    token_file.chmod(0o600)
    errors = Path(place.path("err"))
    with open(errors, "w") as output:
        process = place.start("run", *options, "-web", f"{web},token-file={token_file}", output=output)
    running = Running(place, process, place.qmp_path())
    try:
        wait_for(lambda: URL.search(errors.read_text()))
        found = URL.search(errors.read_text())
        assert found is not None
        yield VnicPage(running, f"{found[1]}?token={TOKEN}")
    finally:
        running.end()
        said = errors.read_text()
        print(said)
    assert "Traceback" not in said
