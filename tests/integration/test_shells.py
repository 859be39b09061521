"""Completion in the real shells: what Tab makes of a command line."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.process import COMMAND, PATIENCE_S, SOURCE, Running
from tests.needs import need

from vnic.reference.completion.shells import SCRIPTS

PROGRAM = """\
#!/bin/sh
if [ "$1" = completion ]; then
    exec {python} -m vnic "$@"
fi
echo "given:$*:" | tr ' ' '+'
"""
"""A `vnic` that completes, and says what else it was given."""
START = {
    "bash": ("bash", "--norc", "--noprofile", "--noediting", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
RUN = {
    "bash": "set -o emacs\n",
    "zsh": "autoload -U compinit; compinit -u -d $XDG_RUNTIME_DIR/dump; unsetopt zle_bracketed_paste\n",
    "fish": "",
}


@pytest.fixture(scope="module")
def program(shared_echo: Running) -> Path:
    """The folder of a `vnic`."""
    folder = Path(shared_echo.place.path("bin"))
    folder.mkdir(exist_ok=True)
    vnic = folder / "vnic"
    vnic.write_text(PROGRAM.format(python=COMMAND[0]))
    vnic.chmod(0o700)
    return folder


def environment(running: Running, program: Path) -> dict[str, str]:
    return {
        **running.place.environment,
        "PATH": f"{program}:{os.environ['PATH']}",
        "PYTHONPATH": str(SOURCE),
        "HOME": running.place.path("home"),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "PS1": "",
    }


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, words: tuple[str, ...], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)
        self._said = b""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while text.encode() not in self._said:
            assert time.monotonic() < end, self._said
            if select.select([self._master], [], [], 0.2)[0]:
                self._said += os.read(self._master, 4096)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture
def shell(request: pytest.FixtureRequest, shared_echo: Running, program: Path) -> Iterator[Shell]:
    name = request.param
    need(name)
    words = tuple(word for word in START[name] if word != "--noediting")
    made = Shell(words, environment(shared_echo, program))
    try:
        made.type(f'{RUN[name]}eval "$(vnic completion {name})"; echo read""y\n')
        made.wait_for("ready")
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("shell", ["bash", "zsh"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("vnic wh\tni\t\n", "given:why+nic0:"),
        ("vnic run -netdev stream,addr.type=un\t\n", "given:run+-netdev+stream,addr.type=unix:"),
        ("vnic netdev add hubport,hubi\t3\n", "given:netdev+add+hubport,hubid=3:"),
    ],
)
def test_tab_completes(shell: Shell, typed: str, given: str) -> None:
    shell.type(typed)
    shell.wait_for(given)


@pytest.mark.needs("fish")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("vnic wh", "why\tsay why a link is up or down"),
        ("vnic link set ni", "nic0\tvirtio-net, up"),
        ("vnic run -netdev stream,addr.type=un", "stream,addr.type=unix"),
    ],
)
def test_fish_completes(shared_echo: Running, program: Path, typed: str, found: str) -> None:
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"vnic completion fish | source; complete -C '{typed}'"],
        env=environment(shared_echo, program),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.splitlines() == [found], done.stderr


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "fish"])
def test_a_script_is_one(name: str) -> None:
    need(name)
    subprocess.run([name, "-n", "/dev/stdin"], input=SCRIPTS[name], text=True, timeout=PATIENCE_S, check=True)
