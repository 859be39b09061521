"""Runs rounds for a while, and says what held; exits with 1 if something did not."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import time
from pathlib import Path

from tests.places import make_run_folder
from tests.soak.lab import FAR_GUESTS, SoakLab, cables
from tests.soak.monitor import NoAnswer
from tests.soak.rounds import VICTIMS, Rounds, Tally

from vnic.lab.bench.testpmd import available
from vnic.lab.guest import qemu_kit
from vnic.lab.guest.errors import GuestError

MOST_FAULTS = 10


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def waiting(pid: int) -> list[str]:
    """What the threads of a guest's process wait for, with the descriptor in question."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            words = (thread / "syscall").read_text().split()
            name = (thread / "wchan").read_text()
            where = os.readlink(f"/proc/{pid}/fd/{int(words[1], 16)}") if len(words) > 1 else ""
            found.append(f"{name} {words[0]} {where}")
    return found


def report(tally: Tally) -> None:
    kills = ", ".join(f"{count} of {victim}" for victim, count in sorted(tally.kills.items()))
    say(f"{tally.rounds} rounds; deaths: {kills}; {tally.changes} link changes ordered")
    latest = f"the latest answer after {tally.longest_ms:.0f} ms"
    say(f"{tally.pings} pings, {tally.lost} lost, {tally.repeated} answered twice, {latest}")
    if tally.back_ms:
        middle, most = statistics.median(tally.back_ms), max(tally.back_ms)
        say(f"control answered again after {middle:.0f} ms (median), {most:.0f} ms (most)")
    say(f"{len(tally.faults)} faults")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--cables", metavar="NAME,…", default=",".join(FAR_GUESTS), help="which there are")
    parser.add_argument("--victims", metavar="NAME,…", default=",".join(VICTIMS), help="what is killed")
    arguments = parser.parse_args()
    victims = [name for name in arguments.victims.split(",") if name in VICTIMS]
    missing = {"" if available() else "dpdk", "" if qemu_kit.find_qemu() else "qemu"}
    names = [name for name in arguments.cables.split(",") if FAR_GUESTS[name] not in missing]
    make_run_folder()
    say(f"cables to {', '.join(names)}; seed {arguments.seed}")
    with SoakLab(cables(names)) as lab:
        rounds = Rounds(lab, arguments.seed, say, victims)
        say("all guests are up")
        end = time.monotonic() + arguments.seconds
        try:
            while time.monotonic() < end and len(rounds.tally.faults) < MOST_FAULTS:
                rounds.run()
        except (NoAnswer, GuestError, TimeoutError) as error:
            rounds.fault(str(error))
        if "Traceback" in lab.log():
            rounds.fault("a traceback in the log")
        report(rounds.tally)
        if rounds.tally.faults:
            with contextlib.suppress(NoAnswer):
                for link in lab.monitor.execute("query-links"):
                    shown = ("name", "link", "datapath", "datapath-reason", "holds", "guest")
                    print(*(f"{key}={link[key]}" for key in shown if key in link))
            for name, guest in lab.guests.items():
                print(name, "waits in", *waiting(guest.pid))
                print(f"{name} {'runs' if guest.running else 'HAS ENDED'}: {guest.log()[-1000:]}")
            print(lab.log()[-6000:])
        return 1 if rounds.tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
