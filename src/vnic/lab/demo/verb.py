"""`vnic demo`: boots a small Linux guest on one NIC, pulls its cable in every way, and shows what the guest saw.

`cli.main` calls it. The steps are in steps.py; this module chooses the guest, runs the steps, and draws the table. Exit
code 0 only if every row is as it should be, 3 if they are but no kernel could be had and the built-in guest took its
place.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from vnic.cli.client import Refused
from vnic.cli.show import (
    COLUMN_GAP,
    WRAPPED_WIDTH,
    Lines,
    micros,
    print_json,
)
from vnic.lab.demo.lab import (
    GUEST_ADDRESS,
    NIC,
    PING_ADDRESS,
    VFIO_USER,
    VHOST_USER,
    Lab,
)
from vnic.lab.demo.steps import (
    STEPS,
    Row,
    RowShown,
    first_row,
    run_step,
)
from vnic.lab.guest.apt import Progress
from vnic.lab.guest.base import Guest
from vnic.lab.guest.cache import cache_folder
from vnic.lab.guest.drivers import DRIVERS, modules_of
from vnic.lab.guest.errors import BootFailed, GuestError, GuestUnavailable

if TYPE_CHECKING:
    from rich.console import Console

Kit = TypeVar("Kit")

NO_KERNEL = "NO KERNEL: this shows no real guest."

PIPE_WIDTH = 120
"""Columns of the table where the output is no terminal."""

EXIT_NO_KERNEL = 3

_COLUMNS = (("<", 5), ("<", max(len(step.title) for step in STEPS)), ("^", 7), (">", 10), (">", 9), ("<", 6))
"""How the cells of a row stand, and how wide: right or not, what was done, carrier, seen after, ping, path."""
_MARGIN = _COLUMNS[0][1] + COLUMN_GAP
"""Where what is said below a row begins."""


class NoKernel(msgspec.Struct):
    """Why no kernel could be booted, and what mends that."""

    reason: str
    remedy: str


class DemoShown(msgspec.Struct, rename="kebab", omit_defaults=True):
    """The demo for programs."""

    guest: str
    rows: list[RowShown]
    no_kernel: NoKernel | None = None
    """Present if the built-in driver took the place of a guest."""


def escape(text: str) -> str:
    """Text of others, not to be read as rich's markup."""
    return text.replace("[", r"\[")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "demo",
        help="boot a small Linux guest and pull its cable in every way",
        description="Boot a small Linux guest on one NIC and pull its cable in every way that vnic knows; each row"
        " of the table shows the guest's own /sys/class/net/eth0/carrier. Needs no root; what is not installed is"
        " downloaded into a cache folder.",
    )
    parser.add_argument(
        "--guest",
        choices=("auto", "uml", "qemu", "fake"),
        default="auto",
        help="uml: User-Mode Linux, over vhost-user; qemu: a Debian kernel in QEMU, over vfio-user; fake: the"
        " built-in driver without a kernel; auto (the default): uml, or fake where no kernel can be had",
    )
    parser.add_argument(
        "-web",
        "--web",
        metavar="[HOST:]PORT",
        action="append",
        default=[],
        help="serve the page of the demo's vnic meanwhile, as `vnic run -web` does; its URL goes to stderr",
    )
    parser.add_argument(
        "--model",
        choices=tuple(DRIVERS),
        help="the NIC of a QEMU guest, as -device names it (default: virtio-net-pci); implies --guest qemu",
    )
    parser.add_argument("-j", "--json", action="store_true", help="print the rows as JSON, and nothing else")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from vnic.cli.web_option import passed_on

    web = passed_on(args.web)
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, highlight=False, quiet=args.json)
    started = time.monotonic()
    # A SIGTERM ends it as Ctrl-C does: guest and programs first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    kind = "qemu" if args.model and args.guest == "auto" else args.guest
    if args.model and kind != "qemu":
        raise Refused(f"--model is for --guest qemu: the {kind} guest has a virtio-net over vhost-user")
    place = VHOST_USER if kind != "qemu" else (args.model or VFIO_USER[0], VFIO_USER[1])
    async with Lab(*place, web) as lab:
        for line in lab.pages:
            print(line, file=sys.stderr, flush=True)
        guest, missing = await _boot(kind, lab, console)
        try:
            rows = await _run_steps(lab, guest, console)
        finally:
            await asyncio.to_thread(guest.close)
    wrong = sum(not row.right for row in rows)
    if args.json:
        no_kernel = None if missing is None else NoKernel(missing.what, missing.remedy)
        print_json(msgspec.to_builtins(DemoShown(guest.label, [row.shown() for row in rows], no_kernel)))
    seconds = time.monotonic() - started
    verdict = f"[bold red]{wrong} wrong[/]" if wrong else "[green]all as they should be[/]"
    console.print(f"{len(rows)} rows, {verdict}, in {seconds:.1f} s. Guest: {guest.label}.")
    if missing is not None:
        console.print(f"[bold red]{NO_KERNEL}[/] Mend it with: {escape(missing.remedy)}")
    return 1 if wrong else EXIT_NO_KERNEL if missing is not None else 0


# -- the guest ------------------------------------------------------------------------------------------------------


async def _boot(kind: str, lab: Lab, console: Console) -> tuple[Guest, GuestUnavailable | None]:
    """The guest, booted and with an address; the fake one, and why, if `kind` lets it be and no kernel boots.

    The first line that is printed for good tells which of the two it is.
    """
    make = {"fake": _fake, "qemu": _qemu}.get(kind, _uml)
    try:
        return await _take(await make(lab, console), console), None
    except (GuestUnavailable, BootFailed) as error:
        if kind != "auto":
            raise Refused(str(error)) from None
        missing = error if isinstance(error, GuestUnavailable) else _does_not_boot(error)
    console.print(f"[bold red]{NO_KERNEL}[/] Mend it with: {escape(missing.remedy)}")
    console.print(f"[yellow]The reason:[/] {escape(missing.what)}")
    console.print(
        "[yellow]In its place, the built-in guest driver: real rings, but no Linux. Exit code 3.[/]"
    )
    return await _take(await _fake(lab, console), console), missing


def _does_not_boot(error: BootFailed) -> GuestUnavailable:
    """Another kernel may: that of QEMU needs neither ptrace nor this machine's memory layout."""
    return GuestUnavailable(str(error), "vnic demo --guest qemu")


async def _fake(lab: Lab, _console: Console) -> Guest:
    from vnic.lab.guest.fake import FakeGuest

    return FakeGuest(lab.nic_socket)


async def _uml(lab: Lab, console: Console) -> Guest:
    from vnic.lab.guest import kit
    from vnic.lab.guest.uml import UmlGuest

    found = kit.find_uml() or await _download("User-Mode Linux", kit.download_kit, console)
    return UmlGuest([lab.nic_socket], kit=found)


async def _qemu(lab: Lab, console: Console) -> Guest:
    from vnic.lab.guest import qemu_kit
    from vnic.lab.guest.qemu import QemuGuest

    found = qemu_kit.find_qemu() or await _download("QEMU and a kernel", qemu_kit.download_kit, console)
    return QemuGuest([lab.nic_socket], kit=found, modules=modules_of([lab.driver]))


async def _download(what: str, download: Callable[[Progress], Kit], console: Console) -> Kit:
    """Run one of the kits' downloads behind a progress bar; Ctrl-C ends it."""
    from rich.progress import Progress as Bar

    broken_off = threading.Event()
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"downloading {what}", total=1.0)

        def tell(done: float, text: str) -> None:
            if broken_off.is_set():  # the thread cannot be cancelled, and asyncio waits for its end
                raise GuestError("the download was broken off")
            bar.update(task, completed=done, description=escape(f"{what}: {text}"))

        try:
            found = await asyncio.to_thread(download, tell)
        finally:
            broken_off.set()
    console.print(f"downloaded {what} into {escape(str(cache_folder()))}")
    return found


async def _take(guest: Guest, console: Console) -> Guest:
    started = time.monotonic()
    try:
        with console.status(f"booting {guest.label} …"):
            await asyncio.to_thread(guest.boot)
        await asyncio.to_thread(guest.set_address, GUEST_ADDRESS)
    except BaseException:
        guest.close()
        raise
    console.print(f"booted {guest.label} in {time.monotonic() - started:.2f} s")
    return guest


# -- the table ------------------------------------------------------------------------------------------------------


async def _run_steps(lab: Lab, guest: Guest, console: Console) -> list[Row]:
    """All rows, each printed as it comes."""
    console.print(
        f"carrier: the guest's /sys/class/net/eth0/carrier; while it is 1, it pings {PING_ADDRESS}\n"
        "path: who moves the packets: vnic-wire, Python, or nobody\n"
    )
    header = ["", "what was done", "carrier", "seen after", "ping", "path", f"vnic why {NIC}"]
    _lines(console).print(header, ["bold"] * len(header))
    _lines(console).rule()
    rows = [await first_row(lab, guest)]
    print_row(console, rows[0])
    for step in STEPS:
        if step.virtio and not lab.is_virtio:
            continue
        try:
            row = await run_step(step, lab, guest)
        except (GuestError, Refused, TimeoutError) as error:
            row = Row.failed(step, str(error))
        rows.append(row)
        print_row(console, row)
    console.print()
    return rows


def print_row(console: Console, row: Row) -> None:
    """One line of the table, and what is wrong with it."""
    from rich.text import Text

    carrier = "-" if row.carrier is None else str(int(row.carrier))
    seen = "-" if row.latency_us is None else micros(row.latency_us)
    cells = ["ok" if row.right else "WRONG", row.title, carrier, seen, row.ping_text(), row.path, row.why]
    styles = ["green" if row.right else "bold red", "", "green" if row.carrier else "red", "", "", "", ""]
    _lines(console).print(cells, styles)
    if row.wrong:
        console.print(Text(f"{'':{_MARGIN}}{row.wrong}", "bold red"))


def _lines(console: Console) -> Lines:
    return Lines(console, _COLUMNS, WRAPPED_WIDTH, _MARGIN)
