"""`-sandbox` and `-run-with` of `vnic run`: their texts in, choices or a NetError out. `options` calls it."""

from __future__ import annotations

from dataclasses import dataclass

from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.sandbox.identity import Identity


@dataclass(frozen=True, slots=True)
class SandboxChoice:
    """-sandbox."""

    on: bool = False
    spawn: bool = True
    """The programs that the command line names may be started."""
    children_may_gain: bool = True
    """Set-uid programs among them work."""
    needs_landlock: bool = False
    """The start is refused where the kernel has no landlock."""
    folders: tuple[str, ...] = ()
    """Monitors' clients may name sockets and files there."""


_VALUES = {
    "enable": ("on", "off"),
    "obsolete": ("deny",),
    "elevateprivileges": ("allow", "deny", "children"),
    "spawn": ("allow", "deny"),
    "resourcecontrol": ("deny",),
    "landlock": ("auto", "required"),
}
_NEVER = {
    "obsolete": "vnic makes no obsolete system calls",
    "resourcecontrol": "vnic sets no scheduler and no priority",
}
"""Why QEMU's `allow` of these is refused."""


def parse_sandbox(text: str) -> SandboxChoice:
    """`on[,spawn=…][,elevateprivileges=…][,obsolete=deny][,resourcecontrol=deny][,landlock=…][,folder=PATH]`."""
    tree, _ = keyval.parse(text, "enable", short_booleans=True)
    folders = tree.pop("folder", [])
    words = {key: _word(key, value) for key, value in tree.items()}
    if "enable" not in words:
        raise NetError("Parameter 'enable' is missing")
    if words["enable"] == "off":
        return SandboxChoice()
    return SandboxChoice(
        on=True,
        spawn=words.get("spawn") != "deny",
        children_may_gain=words.get("elevateprivileges") != "deny",
        needs_landlock=words.get("landlock") == "required",
        folders=tuple(_folder(each) for each in (folders if isinstance(folders, list) else [folders])),
    )


def _word(key: str, value: object) -> str:
    if key not in _VALUES:
        raise NetError(f"Invalid parameter '{key}'")
    if value not in _VALUES[key]:
        if value == "allow":
            raise NetError(f"Parameter '{key}' expects 'deny': {_NEVER[key]}")
        raise NetError(f"Parameter '{key}' expects {' or '.join(_VALUES[key])}, not '{value}'")
    return str(value)


def _folder(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise NetError("Parameter 'folder' expects a path")
    return value


_NOT_BUILT = {
    "chroot": "vnic has no chroot=: -sandbox on leaves it the folders that the command line names",
    "async-teardown": "vnic has no async-teardown=: it has no memory of a guest of its own to tear down",
    "exit-with-parent": "vnic has no exit-with-parent=: `vnic run --keep`, or a service, ends it",
}


def parse_run_with(text: str) -> Identity | None:
    """`user=NAME|UID:GID`; None: no user is given."""
    tree, _ = keyval.parse(text)
    for key, value in tree.items():
        if key in _NOT_BUILT and value != "off":
            raise NetError(_NOT_BUILT[key])
        if key not in ("user", *_NOT_BUILT) or key == "chroot":
            raise NetError(f"Invalid parameter '{key}'")
    return Identity.parse(str(tree["user"])) if "user" in tree else None
