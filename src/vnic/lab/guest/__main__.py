"""`python -m vnic.lab.guest KIND…` fetches guests ahead, for the tests; exit code 1 if one is not to be had."""

from __future__ import annotations

import sys
from collections.abc import Callable

from vnic.lab.guest import agent_kit, kit, passt_kit, qemu_kit
from vnic.lab.guest.errors import GuestUnavailable

Kit = kit.UmlKit | qemu_kit.QemuKit | passt_kit.PasstKit | agent_kit.AgentKit

KINDS: dict[str, tuple[str, Callable[[], Kit]]] = {
    "uml": ("User-Mode Linux", kit.obtain_uml),
    "newer-uml": ("a newer User-Mode Linux", kit.obtain_newer_uml),
    "qemu": ("the QEMU guest", qemu_kit.obtain_qemu),
    "newer-passt": ("a newer passt", passt_kit.obtain_passt),
    "agent": ("QEMU's guest agent", agent_kit.obtain_agent),
}


def main(kinds: list[str]) -> int:
    failures = 0
    for kind in kinds:
        name, obtain = KINDS[kind]
        print(f"guests: {name} … ", end="", flush=True)
        try:
            print(obtain().version_text())
        except GuestUnavailable as error:
            print(f"cannot be had: {error}")
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
