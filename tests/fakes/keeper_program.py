"""The supervisor as a program: its own words are settings and the command, `NAME=VALUE… -- COMMAND…`.

Tests run it as a script; what it says goes to stderr, and `up PID` when a child is set up.
"""

from __future__ import annotations

import sys

from vnic.keeper import supervisor


def main() -> int:
    at = sys.argv.index("--")
    first_fd, other_programs = 3, True
    for setting in sys.argv[1:at]:
        name, _, value = setting.partition("=")
        if name == "first_fd":
            first_fd = int(value)
        elif name == "sandbox":
            other_programs = False
        else:
            assert name in vars(supervisor)
            vars(supervisor)[name] = float(value)
    program, *words = sys.argv[at + 1 :]
    kept = supervisor.Supervisor(
        [program],
        words,
        first_fd=first_fd,
        other_programs=other_programs,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        up=lambda pid: print(f"up {pid}", file=sys.stderr, flush=True),
    )
    return kept.run()


if __name__ == "__main__":
    code = main()
    print(f"outcome {code}", file=sys.stderr, flush=True)
