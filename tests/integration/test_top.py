"""`vnic top` on a terminal, and query-traffic, which it reads."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time

from tests.integration.process import COMMAND, PATIENCE_S, Running


def test_top_shows_links_until_q_and_leaves_the_terminal_as_it_was(shared_echo: Running) -> None:
    master, slave = pty.openpty()
    env = {**shared_echo.place.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "20"}
    process = subprocess.Popen(
        [*COMMAND, "top", "--interval", "0.2"], stdin=slave, stdout=slave, stderr=slave, env=env
    )
    os.close(slave)
    said, end, asked = b"", time.monotonic() + PATIENCE_S, False
    try:
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            assert time.monotonic() < end, said
            if not asked and b"nic0" in said and b"2 links, 0 down" in said:
                os.write(master, b"sq")
                asked = True
            try:
                if select.select([master], [], [], 0.1)[0]:
                    said += os.read(master, 65536)
            except OSError:  # the other side is closed
                break
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"\x1b[?1049l" in said  # back from the alternate screen
    assert b"Traceback" not in said


def test_top_without_a_terminal_prints_as_often_as_it_is_told(shared_echo: Running) -> None:
    verb = shared_echo.place.verb
    lines = verb("top", "--interval", "0.1", "nic0").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["NAME", "nic0", "net0"]
    looks = verb("top", "--interval", "0.1", "--count", "3", "--json").stdout.splitlines()
    assert len([json.loads(each) for each in looks]) == 3
    assert verb("top", "--interval", "0").returncode == 2
    assert verb("top", "typ", "nic").returncode == 2


def test_traffic_of_all_ends_is_told(shared_echo: Running) -> None:
    found = shared_echo.place.verb("top", "--interval", "0.1", "--json").stdout
    for each in json.loads(found)["links"]:
        assert set(each["rates"].values()) == {0}
