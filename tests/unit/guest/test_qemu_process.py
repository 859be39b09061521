"""QEMU ends with the process that started it, also where that is killed at the very moment."""

from __future__ import annotations

import os
import subprocess

import pytest

from vnic.guest.qemu import with_us


def outcome(words: list[str]) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.needs("setpriv")
def test_nothing_is_started_for_a_parent_that_is_gone() -> None:
    words = with_us(["echo", "here", "and there"])
    assert outcome(words) == (0, "here and there\n")
    words[words.index(str(os.getpid()))] = str(os.getpid() + 1)  # as init is the parent of an orphan
    assert outcome(words) == (1, "")
