"""Suggestions for misspelt names: what the command line adds to the text of an error.

`run` and `vnic netdev add` call `suggestion` for an option that was refused; `spelling` has what all verbs share."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vnic.cli.spelling import closest, meant
from vnic.monitor.schema.shapes import Enumeration, Object, Shape, Union

_UNKNOWN = re.compile(
    r"does not accept value|Invalid parameter|is unexpected|is not a valid device model name|not found|is no verb"
)


def suggestion(desc: str, shape: Union, tree: Mapping[str, object]) -> str:
    """What to add to the error `desc` of a conversion of `tree`: ` (did you mean 'netdev'?)`, or nothing."""
    words = re.findall(r"'([^']+)'", desc)
    if not words or _UNKNOWN.search(desc) is None:
        return ""
    branch = shape.branches.get(str(tree.get(shape.tag)))
    if branch is None:
        near = closest(words[-1], shape.branches)
        return meant(near)
    if "does not accept value" in desc:
        values = _values(branch, words[0].rpartition(".")[2])
        if len(values) == 1:
            return f" ({tree[shape.tag]} takes only '{values[0]}')"
        near = closest(words[-1], values)
        return meant(near)
    return meant(closest(words[0].rpartition(".")[2], [member.name for member in branch.members]))


def _values(shape: Shape, name: str) -> list[str]:
    """The values that a member of that name takes, at any depth: the texts name `addr.type` by its last part."""
    match shape:
        case Object():
            for member in shape.members:
                if member.name == name and isinstance(member.shape, Enumeration):
                    return list(member.shape.values)
                if found := _values(member.shape, name):
                    return found
        case Union() if name == shape.tag:
            return list(shape.branches)
    return []
