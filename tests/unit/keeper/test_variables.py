"""Whose child this process is, by the variable that the supervisor sets."""

from __future__ import annotations

import os

from vnic.keeper.variables import KEEPER, Keeper, encoded, is_orphaned, take_keeper


def of(pid: int) -> dict[str, str]:
    return {KEEPER: encoded(Keeper(pid, 1, "", 0, ""))}


def test_the_parent_is_the_supervisor() -> None:
    environment = of(os.getpid())
    assert not is_orphaned(environment, os.getpid())
    found = take_keeper(environment, os.getpid())
    assert found is not None
    assert found.pid == os.getpid()
    assert KEEPER not in environment


def test_one_further_above_is_none_but_no_dead_one() -> None:
    assert not is_orphaned(of(os.getppid()), os.getpid())
    assert take_keeper(of(os.getppid()), os.getpid()) is None


def test_without_the_variable_nobody_has_died() -> None:
    assert not is_orphaned({}, 1)
    assert not is_orphaned({KEEPER: "x"}, 1)


def test_a_supervisor_that_ended_leaves_an_orphan() -> None:
    child = os.posix_spawnp("true", ["true"], os.environ)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert is_orphaned(of(child), 1)  # a zombie
    os.waitpid(child, 0)
    assert is_orphaned(of(child), 1)
