"""Parses QEMU's option strings (`stream,id=net0,addr.type=unix,addr.path=a,,b`) to a tree of strings.

`vnic run` reads its options with it and HMP its netdev_add and device_add; both then convert the strings by
the types of the options' own Struct. The grammar is that of QEMU's util/keyval.c and, for short-form booleans,
of util/qemu-option.c:opts_do_parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from vnic.net.errors import NetError

Tree: TypeAlias = "dict[str, Value]"
Value: TypeAlias = "str | Tree | list[Value]"

KEY_FRAGMENT_MAX = 127
"""The longest fragment of a dotted key (keyval.c: `char key_in_cur[128]`)."""

DEPTH_MAX = 16
"""The limit on nesting: QEMU's options have at most three levels, and the tree is walked recursively."""

# qapi-name: an optional reverse-domain prefix, then a letter and letters, digits, '-' and '_'.
_NAME = re.compile(r"(?:__[A-Za-z0-9.-]+_)?[A-Za-z][A-Za-z0-9_-]*")
_INDEX = re.compile(r"[0-9]+")
_HELP = ("help", "?")


class Repeated(str):
    """The value of a key that was given several times: the last one, and `all` of them for an option that is a list
    (`hostfwd=…,hostfwd=…`)."""

    all: tuple[str, ...] = ()

    @classmethod
    def after(cls, earlier: str, value: str) -> Repeated:
        """`value`, given after `earlier`."""
        made = cls(value)
        made.all = (*(earlier.all if isinstance(earlier, cls) else (earlier,)), value)
        return made


class KeyvalError(NetError):
    """The text is no option string; `desc` is QEMU's."""


def parse(
    text: str,
    implied: str | None = None,
    *,
    short_booleans: bool = False,
    deprecated: Callable[[str, str], None] | None = None,
) -> tuple[Tree, bool]:
    """Parse one option string into a tree of strings; the second member is whether `help` was a key.

    `implied` names the key of a first value that has none (`-device virtio-net` is `driver=virtio-net`).
    `short_booleans` takes `server` for `server=on` and `nowait` for `wait=off`, as QEMU's older options do;
    `deprecated(given, replacement)` is told of each. A key given twice has its last value, as a Repeated.
    """
    root: Tree = {}
    wants_help = False
    at = 0
    first = implied
    while at < len(text):
        end = _find_any(text, "=,", at)
        key = text[at:end]
        if end == len(text) or text[end] == ",":  # a word without '='
            if key in _HELP:
                wants_help = True
                at = end + 1
                first = None
                continue
            if first is not None:
                value, at = _value(text, at)
                _put(root, first, value)
                first = None
                continue
            if not short_booleans or not key:
                _fragments(key)
                raise KeyvalError(f"Expected '=' after parameter '{key}'")
            name, value = (key[2:], "off") if key.startswith("no") and len(key) > 2 else (key, "on")
            _put(root, name, value)
            if deprecated is not None:
                deprecated(key, f"{name}={value}")
            at = end + 1
        else:
            first = None
            _fragments(key)  # a bad key is reported before its value is parsed
            value, at = _value(text, end + 1)
            _put(root, key, value)
    return _listify(root, ""), wants_help


def _find_any(text: str, chars: str, start: int) -> int:
    """The position of the first of `chars` at or after `start`, else the end (C's strcspn)."""
    found = [i for i in (text.find(c, start) for c in chars) if i >= 0]
    return min(found, default=len(text))


def _value(text: str, start: int) -> tuple[str, int]:
    """A value up to an unescaped comma, and the start of the next key; `,,` is one comma."""
    parts = []
    at = start
    while True:
        comma = text.find(",", at)
        if comma < 0:
            parts.append(text[at:])
            return "".join(parts), len(text)
        if not text.startswith(",,", comma):
            parts.append(text[at:comma])
            return "".join(parts), comma + 1
        parts.append(text[at : comma + 1])
        at = comma + 2


def _fragments(key: str) -> list[str]:
    """Split a dotted key; the first fragment is a name, the others names or list indices."""
    fragments: list[str] = []
    at = 0
    while True:
        match = (_INDEX.match(key, at) if fragments else None) or _NAME.match(key, at)
        if match is None or (match.end() < len(key) and key[match.end()] != "."):
            raise KeyvalError(f"Invalid parameter '{key}'")
        if match.end() - at > KEY_FRAGMENT_MAX:
            raise KeyvalError(f"Parameter '{key[:32]}…' is too long")
        fragments.append(match.group())
        if len(fragments) > DEPTH_MAX:
            raise KeyvalError(f"Parameter '{key[:32]}…' is nested too deeply")
        if match.end() == len(key):
            return fragments
        at = match.end() + 1


def _put(root: Tree, key: str, value: str) -> None:
    """Store `value` under the dotted key, making the inner trees (keyval.c:keyval_parse_put)."""
    *path, last = _fragments(key)
    here = root
    for depth, fragment in enumerate(path, 1):
        inner = here.setdefault(fragment, {})
        if not isinstance(inner, dict):
            raise KeyvalError(f"Parameters '{'.'.join(path[:depth])}.*' used inconsistently")
        here = inner
    there = here.get(last)
    if isinstance(there, dict):
        raise KeyvalError(f"Parameters '{key}.*' used inconsistently")
    here[last] = Repeated.after(there, value) if isinstance(there, str) else value


def _listify(tree: Tree, prefix: str) -> Tree:
    """Turn each inner tree with the keys 0, 1, … into a list (keyval.c:keyval_listify)."""
    return {key: _listify_value(value, f"{prefix}{key}.") for key, value in tree.items()}


def _listify_value(value: Value, prefix: str) -> Value:
    if not isinstance(value, dict):
        return value
    inner = _listify(value, prefix)
    indices = [_INDEX.fullmatch(key) is not None for key in inner]
    if not any(indices):
        return inner
    if not all(indices):
        raise KeyvalError(f"Parameters '{prefix}*' used inconsistently")
    by_index = {int(key): item for key, item in inner.items()}
    for index in range(len(inner)):  # bounded by the number of given keys, whatever their values
        if index not in by_index:
            raise KeyvalError(f"Parameter '{prefix}{index}' missing")
    return [by_index[index] for index in range(len(inner))]


def spell_out_netdev(tree: Tree) -> None:
    """`ipv6-net=PREFIX[/LENGTH]`, which only option strings of `user` have, as the equivalent members
    (net/net.c: net_client_init)."""
    given = tree.get("ipv6-net")
    if tree.get("type") != "user" or not isinstance(given, str):
        return
    prefix, slash, length = given.partition("/")
    if slash and not (length.isascii() and length.isdecimal()):
        raise NetError("parameter 'ipv6-net' expects a number after '/'")
    del tree["ipv6-net"]
    tree |= {"ipv6-prefix": prefix, "ipv6-prefixlen": length or "64"}
