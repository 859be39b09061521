"""`vnic run`: a machine from the options, its monitors, and its life until quit or a signal.

Everything that can be wrong with the options ends in one line on stderr and an exit code; what was set up until then
is taken down again in order.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from vnic import __version__
from vnic.backend.options import Size
from vnic.cli.kept import Service
from vnic.cli.option_file import OptionFileError, expand
from vnic.cli.options import parse_run
from vnic.cli.run_options import HelpTopic, OptionError, RunOptions, Setting, UsageError
from vnic.cli.set_up import SetUp, naming
from vnic.keep import Keep
from vnic.machine import Machine
from vnic.machine.datapath import wire_command
from vnic.machine.record import MachineRecord
from vnic.memory import sigbus
from vnic.memory.address_space import SPACE, NoRoom
from vnic.monitor.passed_fds import inherited_fds
from vnic.monitor.schema import convert_to_shape
from vnic.monitor.schema.shapes import object_of
from vnic.monitor.server import Monitors
from vnic.net.errors import NetError
from vnic.observe import logs
from vnic.observe.lag import LagLoop
from vnic.pidfile import PidFile
from vnic.printable import lines
from vnic.quota import allow_open_files
from vnic.scratch import remove_leftovers
from vnic.sockets import unblock
from vnic.sockets.rundir import Claim, RunDirError, own_folder
from vnic.web.choice import PAGE
from vnic.web.server import Web

if TYPE_CHECKING:
    from vnic.cli.confine import Confinement
    from vnic.cli.daemon import Background
    from vnic.machine.metrics import Metrics, MetricsChoice
    from vnic.observe.logfile import LogFile

log = logging.getLogger(__name__)

EXIT_REFUSED = 1
EXIT_USAGE = 2


def run(argv: Sequence[str]) -> int:
    """The verb. Returns the exit code when the machine has ended."""
    try:
        options = parse_run(expand(argv))
        if options.help is not None:
            return _help(options.help)
        if options.version:
            print(f"vnic {__version__}")
            return 0
        return _start(options)
    except OptionError as refused:
        print(f"vnic: {lines(str(refused))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(refused, UsageError) else EXIT_REFUSED
    except OptionFileError as refused:
        print(f"vnic: {lines(str(refused))}", file=sys.stderr)
        return EXIT_REFUSED


def _help(topic: HelpTopic) -> int:
    from vnic.cli.help import help_text

    try:
        print(help_text(topic), end="")
    except NetError as refused:
        print(f"vnic: -{topic.option} {topic.type},help: {refused.desc}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _start(options: RunOptions) -> int:
    """Go to the background if `-daemonize` says so, and run the loop."""
    service = Service()
    background: Background | None = None
    if options.daemonize and not service.supervised:
        from vnic.cli.daemon import fork_to_background

        forked = fork_to_background()
        if isinstance(forked, int):
            return forked
        background = forked
    allow_open_files()
    confinement = _confine(options, service)
    ready: Callable[[], None] = _foreground_ready
    if options.daemonize:
        log_file = _background_log(options)
        ready = functools.partial(_leave_terminal, log_file)
        if background is not None:
            ready = functools.partial(_to_background, background, log_file)
    wrong = logs.set_up(None if options.log_file is None else _open_log(options.log_file))
    for text in (*([wrong] if wrong else []), *options.notes()):
        print(f"vnic: {lines(text)}", file=sys.stderr)
    remove_leftovers()
    try:
        with asyncio.Runner(loop_factory=LagLoop) as runner:
            runner.run(_guarded(options, service, ready, confinement))
    finally:
        if confinement is not None:
            confinement.close()
    return 0


def _confine(options: RunOptions, service: Service) -> Confinement | None:
    """Give up what the set-up does not need."""
    if options.run_with is None and not options.sandbox.on:
        return None
    from vnic.cli.confine import Confinement  # here, since few runs have it

    confinement = Confinement(options)
    service.connect()
    confinement.begin()
    service.end_with_supervisor()
    return confinement


def _open_log(path: str, max_bytes: int | None = None) -> LogFile:
    from vnic.observe.logfile import LogFile

    try:
        return LogFile(path, max_bytes)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"-D {path}", f"Could not open '{path}': {why}") from None


def _background_log(options: RunOptions) -> LogFile | None:
    """Where a vnic in the background writes to: -D's file, else NAME.log in the folder where the verbs look."""
    from vnic.observe.logfile import BACKGROUND_MAX_BYTES

    if options.log_file is not None:
        return _open_log(options.log_file)
    try:
        path = own_folder() / f"{options.instance}.log"
        return _open_log(str(path), BACKGROUND_MAX_BYTES)
    except (RunDirError, OptionError) as error:
        print(f"vnic: warning: no log is kept in the background: {error}", file=sys.stderr)
        return None


def _to_background(background: Background, log_file: LogFile | None) -> None:
    _leave_terminal(log_file)
    background.ready()


def _leave_terminal(log_file: LogFile | None) -> None:
    from vnic.cli.daemon import leave_terminal

    if log_file is not None:
        logs.set_up(log_file)
    leave_terminal(None if log_file is None else log_file.fileno())


def _foreground_ready() -> None:
    """In the foreground: no parent process waits for the set-up."""


# -- in the loop ----------------------------------------------------------------------------------------------------


async def _guarded(
    options: RunOptions, service: Service, ready: Callable[[], None], confinement: Confinement | None
) -> None:
    """End it before the loop: a signal that finds the loop half closed prints an error on stderr."""
    with unblock.guarded():
        await _live(options, service, ready, confinement)


async def _live(
    options: RunOptions, service: Service, ready: Callable[[], None], confinement: Confinement | None
) -> None:
    """Set up, run, take down. The monitors are closed last, so that clients get all events of the end."""
    loop = asyncio.get_running_loop()
    lag = loop.lag if isinstance(loop, LagLoop) else None
    gc.freeze()  # a collection of the modules and their types would hold up the loop for tens of milliseconds
    machine = Machine(
        loop,
        options.name,
        paused=options.paused,
        lag=lag,
        inherited=inherited_fds(),
        wire=wire_command(options.datapath),
        keep=service.open_keep(loop),
    )
    monitors = Monitors(machine, loop)
    webs = [Web(loop, choice, monitors, options.monitor_policy, machine.keep) for choice in options.webs]
    pidfile = claim = metrics = None
    # Installed before there is anything to clean up; an early signal takes effect when the set-up is done.
    service.take_signals(loop, machine)
    # unblock's timer fills it in a turn of seconds: Python would print a traceback, and the loop is awake anyway.
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
    with sigbus.survived(lambda: loop.call_soon_threadsafe(machine.memory_lost)):
        try:
            if options.pidfile is not None and not service.supervised:
                with naming(""):
                    pidfile = PidFile(options.pidfile)
            before = machine.before()
            claim = _claim(options, machine.keep)
            await machine.journal.open(options.journal, options.instance, machine.keep)
            if options.guest_memory is not None:
                _limit_memory(options.guest_memory)
            set_up = SetUp(machine, monitors, options, claim)
            if before is None:
                machine.journal.started()
                await set_up.create()
            if confinement is not None:
                machine.paths = confinement.paths()
            if before is None:
                await set_up.open_monitors()
                machine.stay(set_up.texts())
            else:
                await _take_place(machine, set_up, service, before, webs)
            if options.metrics is not None:
                metrics = await _open_metrics(options.metrics, machine, goes_on=before is not None)
            for web in webs:
                await _open_web(web, goes_on=before is not None)
            if confinement is not None:
                confinement.end()
            ready()
            service.ready(loop)
            if before is None and not options.daemonize and sys.stderr.isatty():
                print(_hello(options, claim), file=sys.stderr)
            if lag is not None:
                await asyncio.sleep(0)  # this turn, too
                lag.reset()
            await machine.wait_quit()
            service.stopping()
        finally:
            try:
                await machine.close()
            finally:
                monitors.close()
                if metrics is not None:
                    await metrics.close()
                for web in webs:
                    await web.close()
                await machine.journal.close(machine.ends_by)
                if claim is not None:
                    claim.release()
                if pidfile is not None:
                    pidfile.remove()
                machine.keep.end()
                service.end(loop)


async def _open_metrics(choice: MetricsChoice, machine: Machine, *, goes_on: bool) -> Metrics | None:
    """`goes_on`: there are guests already, who are not given up for that."""
    where = f"-metrics {choice}"
    try:
        with naming(where):
            return await choice.open(asyncio.get_running_loop(), machine)
    except OptionError as refused:
        if not goes_on:
            raise
        log.error("%s", refused)
        return None


async def _open_web(web: Web, *, goes_on: bool) -> None:
    """As `_open_metrics`. The URL is for people: it is no line of the log."""
    try:
        with naming(web.where):
            url = await web.open()
    except OptionError as refused:
        if not goes_on:
            raise
        log.error("%s", refused)
        return
    if url is not None:
        print(f"{PAGE}{url}", file=sys.stderr, flush=True)


async def _take_place(
    machine: Machine, set_up: SetUp, service: Service, before: MachineRecord, webs: Sequence[Web]
) -> None:
    """Go on where the process before was killed. Up to `go_on` the loop makes no turn: nothing that comes from outside
    is taken before all that is known of it is stored again."""
    machine.restore(before)
    set_up.open_monitors_again(before.settings)
    for web in webs:
        web.take_up()
    machine.go_on(before, service.last_end, service.ended_ns)
    machine.stay(await set_up.difference(before.settings))
    await machine.start_anew()


class _GuestMemory(msgspec.Struct):
    """-guest-memory."""

    max: Size | None = None
    total: Size | None = None


def _limit_memory(setting: Setting) -> None:
    with naming(setting.where):
        limits = convert_to_shape(object_of(_GuestMemory), setting.tree, strings=True)
        assert isinstance(limits, _GuestMemory)
        try:
            SPACE.limit(limits.max, limits.total)
        except NoRoom as error:
            raise NetError(str(error)) from None


def _claim(options: RunOptions, keep: Keep) -> Claim | None:
    """The name, by which the verbs find this vnic; None with an option about QMP. It comes first: a second vnic of that
    name is not to meddle with the journal of the one that runs."""
    if not options.default_qmp:
        return None
    try:
        return Claim(options.instance, keep)
    except (RunDirError, OSError) as error:
        raise OptionError(f"-name {options.instance}", str(error)) from None


def _hello(options: RunOptions, claim: Claim | None) -> str:
    """One line for a person at a terminal."""
    where = f", QMP at {claim.socket_path}" if claim is not None else ""
    paused = "; paused, no guest is let in before `cont`" if options.paused else ""
    return f"vnic: {options.instance} runs{where}{paused}; Ctrl-C ends it"
