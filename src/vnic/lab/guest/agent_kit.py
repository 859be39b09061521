"""Finds QEMU's guest agent for the tests: Debian's package, with its libraries, for the root of a guest.

`make guests` fetches it into the cache folder. A guest of `qemu.QemuGuest` runs it by its own loader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vnic.lab.guest import cache
from vnic.lab.guest.apt import Progress
from vnic.lab.guest.debian import LOADER, copy_files, find_file, libraries, obtain_program

SUITE = "trixie"
PACKAGE = "qemu-guest-agent"
PROGRAM = "qemu-ga"
_ENTRY = f"agent-{SUITE}-1"
_PLACE = "/agent"


@dataclass(frozen=True, slots=True)
class AgentKit:
    """An agent that was fetched."""

    folder: Path

    def version_text(self) -> str:
        return f"{PACKAGE} of {SUITE}"

    def files(self) -> dict[str, bytes]:
        """By their paths in a guest."""
        return {
            f"{_PLACE}/{path.name}": path.read_bytes() for path in sorted((self.folder / "agent").iterdir())
        }

    @property
    def command(self) -> str:
        """Starts it in the guest, on the only port of its virtio-serial devices; what it says is in /tmp/agent, its pid
        in /tmp/agent.pid."""
        program = f"{_PLACE}/{LOADER} --library-path {_PLACE} {_PLACE}/{PROGRAM}"
        return (
            f"{program} -p $(echo /dev/vport*) -t /tmp </dev/null >/tmp/agent 2>&1 & echo $! >/tmp/agent.pid"
        )


def find_agent() -> AgentKit | None:
    """The one that is in the cache folder already."""
    folder = cache.entry(_ENTRY)
    return None if folder is None else AgentKit(folder)


def obtain_agent(progress: Progress | None = None) -> AgentKit:
    """The one in the cache folder, or else a downloaded one; GuestUnavailable says why there is none."""
    return AgentKit(obtain_program(SUITE, PACKAGE, _ENTRY, _take, progress))


def _take(root: Path, folder: Path) -> None:
    """Of packages unpacked at `root`: the program and its libraries."""
    program = find_file(root, f"*bin/{PROGRAM}")
    copy_files([program, *libraries(root, [program])], folder / "agent")
