"""Link changes for a person: each with its steps and the chain of what it follows from.

`vnic why` prints them, with `--at` and without."""

from __future__ import annotations

from collections.abc import Iterator

from vnic.cli.client import Entry
from vnic.cli.show import Now, change_text, link_word, micros, style, when

CHAIN_MAX = 12
"""Links of one chain of causes that are shown."""


def history(
    changes: list[Entry],
    causes: dict[int, Entry],
    now: Now,
    title: str = "last changes, newest first:",
) -> Iterator[str]:
    """The changes, newest first, each with its steps and the chain of what it follows from."""
    if not changes:
        yield "  no change is recorded"
        return
    by_id = causes | {change["id"]: change for change in changes}
    yield style(title, "dim")
    for change in reversed(changes):
        time_text = when(change["time"], change["monotonic-us"], now, change.get("boot-id"))
        yield f"  #{change['id']} {time_text}: {headline(change)}"
        if steps := steps_text(change):
            yield f"      {steps}"
        follows = change.get("caused-by")
        for _ in range(CHAIN_MAX):
            if follows is None:
                break
            cause = by_id.get(follows)
            if cause is None:
                yield f"      follows from #{follows}, which the journal has forgotten"
                break
            yield f"      follows from #{follows}, {cause.get('name', 'vnic')} {headline(cause)}"
            follows = cause.get("caused-by")
        else:
            if follows is not None:
                yield f"      follows from #{follows}, and so on; --json has the whole chain"


def headline(change: Entry) -> str:
    if "link" not in change:
        return str(change["text"])
    return f"{link_word(change['link'])}, {change_text(change['link'], change['cause'])}"


def steps_text(change: Entry) -> str:
    """What followed the change, with the time after it: `device told 3 µs, interrupt 12 µs, guest saw it 412 µs`."""
    steps = []
    for key, text in (
        ("notified-us", "device changed after"),
        ("interrupt-us", "guest interrupted after"),
        ("seen-us", "guest saw it after"),
    ):
        if key in change:
            steps.append(f"{text} {micros(change[key])}")
    return ", ".join(steps)
