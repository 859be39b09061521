"""Carries out `-run-with` and `-sandbox` for `vnic run`: what is given up before the set-up, and what after it.

The order matters: the user first, so that all files are the user's; then the starter, which is outside of the sandbox;
then landlock, while there is one thread; then the set-up, by `run`; then the capabilities of the set-up and seccomp.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vnic import children
from vnic.backend.bridge import HELPERS
from vnic.backend.interface import enter_namespace
from vnic.cli.run_options import OptionError, RunOptions, Setting
from vnic.dataplane.wire.process import command_line
from vnic.machine.datapath import WireCommand, wire_command
from vnic.net.errors import NetError
from vnic.sandbox import landlock, seccomp
from vnic.sandbox.identity import Capability, hold
from vnic.sandbox.paths import BRIDGE_HELPER, PASST, AnyPath, Kind, NamedPaths, PathRule, Purpose, Use, uses
from vnic.sandbox.rules import rules
from vnic.sandbox.starter import Starter, fork_starter
from vnic.sockets.rundir import RunDirError, own_folder
from vnic.state import place

log = logging.getLogger(__name__)


class Confinement:
    """Of one `vnic run`."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._sandbox = options.sandbox
        self._uses = list(_uses(options))
        self._starter: Starter | None = None

    def begin(self) -> None:
        """Before anything is opened, and before the process has a second thread. Raises OptionError."""
        user = self._options.run_with
        if user is not None:
            try:
                user.become(_for_the_set_up(self._options))
            except (NetError, OSError) as error:
                why = error.desc if isinstance(error, NetError) else f"capabilities: {error.strerror}"
                raise OptionError(f"-run-with user={user.name}", why) from None
            unreadable = [path for path in (os.__file__, __file__) if not os.access(path, os.R_OK)]
            if unreadable:
                raise OptionError(
                    f"-run-with user={user.name}", f"that user cannot read the program: {unreadable[0]}"
                )
            if os.geteuid():
                hold(_for_the_set_up(self._options), ambient=self._programs_need_capabilities())
        if self._sandbox.on:
            self._check_programs()
            self._fork_starter()
            self._lock_files()

    def end(self) -> None:
        """After the set-up. Raises OptionError."""
        if self._options.run_with is not None:
            programs_are_ours = not self._sandbox.on
            hold(
                _needed(self._options),
                ambient=programs_are_ours and self._programs_need_capabilities(),
            )
        if self._sandbox.on:
            try:
                seccomp.restrict()
            except seccomp.Unsupported as error:
                raise OptionError("-sandbox on", str(error)) from None

    def paths(self) -> PathRule:
        """What monitors' clients may name."""
        if not self._sandbox.on:
            return AnyPath()
        return NamedPaths((use for _, use in self._uses), self._sandbox.folders)

    def close(self) -> None:
        """At the end of vnic: the starter has nothing to start any more."""
        if self._starter is not None:
            children.start_by(None)
            self._starter.close()

    # -- programs -----------------------------------------------------------------------------------------------

    def _programs(self) -> Iterator[tuple[str, ...]]:
        """How the command lines begin that the starter runs."""
        wire = wire_command(self._options.datapath)
        if isinstance(wire, WireCommand):
            yield command_line(wire.command)
        for _, use in self._uses:
            if not self._sandbox.spawn:
                return
            if use.purpose is Purpose.NAMESPACE:
                yield (sys.executable, "-I", "-S", enter_namespace.__file__)
            elif use.purpose is Purpose.PROGRAM and use.path == BRIDGE_HELPER:
                yield from ((path,) for path in HELPERS)
            elif use.purpose is Purpose.PROGRAM:
                yield tuple(shlex.split(use.path)) if use.parameter == "helper" else (use.path,)

    def _check_programs(self) -> None:
        if self._sandbox.spawn:
            return
        for where, use in self._uses:
            starts = use.purpose in (Purpose.PROGRAM, Purpose.NAMESPACE) and use.path != BRIDGE_HELPER
            if starts:
                raise OptionError(where, "it starts a program, and -sandbox has spawn=deny")

    def _fork_starter(self) -> None:
        try:
            commands = list(self._programs())
            self._starter = fork_starter(commands, may_gain_privileges=self._sandbox.children_may_gain)
        except (OSError, ValueError) as error:
            raise OptionError("-sandbox on", f"cannot start a process: {error}") from None
        children.start_by(self._starter)

    def _programs_need_capabilities(self) -> bool:
        """Scripts, and the child that enters a namespace."""
        return any(
            use.purpose is Purpose.NAMESPACE or use.parameter in ("script", "downscript")
            for _, use in self._uses
        )

    # -- files --------------------------------------------------------------------------------------------------

    def _lock_files(self) -> None:
        if landlock.version() < 1:
            why = "this kernel has no landlock"
            if self._sandbox.needs_landlock:
                raise OptionError("-sandbox on", why)
            log.warning("-sandbox on: %s: all files of this user stay within reach of this process", why)
            return
        folders = [*self._sandbox.folders, *self._own_folders()]
        tokens = (
            Use(Purpose.KEY, "token-file", web.token_file) for web in self._options.webs if web.token_file
        )
        allowed = rules((*(use for _, use in self._uses), *tokens), _own_files(self._options), folders)
        try:
            landlock.confine(allowed)
        except OSError as error:
            reason = "too many paths" if error.errno == errno.E2BIG else error.strerror
            raise OptionError("-sandbox on", f"landlock: {reason}") from None

    def _own_folders(self) -> Iterator[str]:
        """Made here where they do not exist: a rule is for a folder that is there."""
        if self._options.default_qmp or self._options.daemonize:
            try:
                yield str(own_folder())
            except RunDirError:
                pass  # the claim of the name says so
        if self._options.journal.on and self._options.journal.path is None:
            try:
                folder = place.folder()
                place.make_folder(folder)
                yield str(folder)
            except (OSError, place.Unusable):
                pass  # the journal says so
        if any(use.path == PASST or use.parameter == "path" for _, use in self._uses if _is_program(use)):
            yield from {tempfile.gettempdir(), "/tmp"}  # passt's private folders


def _is_program(use: Use) -> bool:
    return use.purpose is Purpose.PROGRAM


def _uses(options: RunOptions) -> Iterator[tuple[str, Use]]:
    """With the option that has it."""
    kinds: tuple[tuple[Kind, list[Setting]], ...] = (
        ("netdev", options.netdevs),
        ("device", options.devices),
        ("object", options.objects),
        ("chardev", options.chardevs),
    )
    for kind, settings in kinds:
        for setting in settings:
            for use in uses(kind, setting.tree):
                yield setting.where, use


def _own_files(options: RunOptions) -> Iterator[str]:
    metrics = None if options.metrics is None else options.metrics.path
    for path in (options.pidfile, options.log_file, options.journal.path, metrics):
        if path is not None:
            yield str(Path(path).absolute())


def _for_the_set_up(options: RunOptions) -> frozenset[Capability]:
    """Those to open what the options name."""
    found = {Capability.CAP_NET_BIND_SERVICE, *_needed(options)}
    for setting in options.netdevs:
        tree = setting.tree
        if tree.get("type") == "bridge" or (tree.get("type") == "tap" and not {"fd", "fds"} & tree.keys()):
            found.add(Capability.CAP_NET_ADMIN)
    return frozenset(found)


def _needed(options: RunOptions) -> frozenset[Capability]:
    """The capabilities that netdevs need when all is set up."""
    found: set[Capability] = set()
    for setting in options.netdevs:
        tree = setting.tree
        if tree.get("type") == "interface":
            found.add(Capability.CAP_NET_RAW)
            if tree.get("propagate") in ("on", True):
                found.add(Capability.CAP_NET_ADMIN)
            if tree.get("netns"):
                found |= {Capability.CAP_SYS_ADMIN, Capability.CAP_SYS_PTRACE}
        if tree.get("type") == "tap" and {tree.get("script"), tree.get("downscript")} - {None, "no", ""}:
            found.add(Capability.CAP_NET_ADMIN)
    return frozenset(found)
