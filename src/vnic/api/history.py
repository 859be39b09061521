"""What happened to the links of a vnic since some time, as the lines of `vnic log`, for the report of a test."""

from __future__ import annotations

import time
from typing import Final

from vnic.api.blocking import Vnic
from vnic.api.errors import VnicError
from vnic.cli.log import row
from vnic.net.journal import LIMIT_MAX
from vnic.printable import printable

LINES_MAX: Final = 200


def history(vnic: Vnic, since: float) -> str:
    """The newest records since then (seconds since 1970), the oldest first; why there are none."""
    try:
        found = vnic.execute("query-journal", {"since": since, "limit": LIMIT_MAX})
    except VnicError as error:
        return f"no journal: {error}"
    left_out = [f"({len(found) - LINES_MAX} earlier records)"] if len(found) > LINES_MAX else []
    by_id = {entry["id"]: printable(entry) for entry in found}
    now = time.time()
    lines = []
    for entry in found[-LINES_MAX:]:
        at, number, name, what, seen, follows, why = row(printable(entry), by_id, now)
        steps = f", seen after {seen}" if seen != "-" else ""
        cause = f", follows {follows}" if follows != "-" else ""
        lines.append(f"{at} {number} {name} {what}: {why}{steps}{cause}")
    return "\n".join([*left_out, *lines]) or "nothing happened to them"
