"""How fast the page is: first paint, change to screen, frames while all links flap. `python -m tests.browser.measure`

Not a test: times depend on the machine. A change is timed from before the command is sent on another connection to the
second frame after the drawing has changed, by when the first is on the screen.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import cast

from tests.browser.chromium import Window, chromium
from tests.browser.vnic_page import VnicPage, cable, page_of
from tests.integration.process import new_place, wait_for

CHANGES = 40
FLAPS_S = 10

WATCH = """
window.shown = null;
const half = document.querySelector(`[data-link="nic:${given[0]}"]`);
new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame((now) => {
  window.shown = { words: [...half.classList], at: performance.timeOrigin + performance.now() };
}))).observe(half, { attributes: true, attributeFilter: ["class"] });
"""
FRAMES = """
window.frames_ms = [];
let before = performance.now();
const frame = (now) => { window.frames_ms.push(now - before); before = now; requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""


def paint(window: Window) -> tuple[float, float]:
    """First contentful paint, and the drawing of the whole network, in ms from the start of the navigation."""
    script = "return Object.fromEntries(performance.getEntries().map((each) => [each.name, each.startTime]))"
    entries = cast("dict[str, float]", window.run(script))
    return entries["first-contentful-paint"], entries["vnic-drawn"]


def changes(window: Window, page: VnicPage, name: str) -> list[float]:
    """From command to screen, in ms."""
    window.run(WATCH, name)
    found = []
    with contextlib.closing(page.qmp()) as qmp:
        for at in range(CHANGES):
            word = "up" if at % 2 else "down"
            window.run("window.shown = null")
            begin = time.time()
            qmp.ask("set_link", {"name": name, "up": word == "up"})
            wait_for(lambda word=word: word in window.run("return window.shown?.words ?? []"))  # type: ignore[misc]
            found.append(cast(float, window.run("return window.shown.at")) - begin * 1000)
    return found


def frames(window: Window, page: VnicPage, names: list[str]) -> list[float]:
    """The times between frames while all links flap, each some twice a second."""
    with contextlib.closing(page.qmp()) as qmp:
        flap = {"down-ms": 250, "up-ms": 250, "jitter": 40}
        ids = [qmp.value("flap-start", {"name": name, **flap})["id"] for name in names]
        window.run(FRAMES)
        time.sleep(FLAPS_S)
        found = cast("list[float]", window.run("return window.frames_ms"))
        for each in ids:
            qmp.ask("flap-stop", {"id": each})
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nics", type=int, default=200)
    nics = parser.parse_args().nics
    options = [word for at in range(nics // 2) for word in cable(f"a{at}", f"b{at}", ",follow=operator")]
    with new_place() as place, page_of(place, *options) as page, chromium((1440, 900)) as window:
        for what in ("first visit", "reload"):
            if what == "reload":
                window.driver.refresh()
                window.await_connected()
            else:
                window.open(page.url)
            first, drawn = paint(window)
            print(f"{nics} NICs, {what}: first paint {first:.0f} ms, network drawn {drawn:.0f} ms")
        times = changes(window, page, "a0")
        print(
            f"change to screen: median {statistics.median(times):.1f} ms, max {max(times):.1f} ms of {len(times)}"
        )
        gaps = frames(window, page, [f"a{at}" for at in range(nics // 2)])
        late = sum(each > 50 for each in gaps)
        print(
            f"all links flap: {len(gaps) / FLAPS_S:.0f} frames a second, median {statistics.median(gaps):.1f} ms, "
            f"99th percentile {statistics.quantiles(gaps, n=100)[-1]:.1f} ms, {late} of {len(gaps)} above 50 ms"
        )


if __name__ == "__main__":
    main()
