"""Completion: the place in a command line, and what may stand there. No vnic runs, but where one is played."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vnic.cli.main import VERBS, main
from vnic.reference.completion import running
from vnic.reference.completion.candidates import Candidate, Candidates
from vnic.reference.completion.sources import source_of
from vnic.reference.completion.verb import lines, split
from vnic.reference.completion.words import complete
from vnic.reference.forms import forms

LINKS = [{"name": "nic0", "type": "nic", "model": "e1000", "link": "up"}, {"name": "net0", "type": "netdev"}]


def words(*given: str) -> list[str]:
    return [each.word for each in complete(given).beginning_with(given[-1])]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A running vnic that is asked for names; what it was asked."""
    asked: list[tuple[Any, ...]] = []

    def query(command: str, name: str | None, path: str | None) -> list[dict[str, Any]]:
        asked.append((command, name, path))
        return LINKS if command == "query-links" else [{"id": "flap-1", "name": "nic0"}]

    monkeypatch.setattr(running, "query", query)
    monkeypatch.setattr(running, "instances", lambda: ["lab", "vnic"])
    return asked


def test_each_argument_of_each_verb_is_in_a_table() -> None:
    unknown = [
        f"vnic {form}: {'/'.join(action.option_strings) or 'argument'} {action.metavar or action.dest}"
        for verb in VERBS
        for form, parser in forms(verb)
        for action in parser._actions
        if action.nargs != 0
        and action.choices is None
        and source_of(form, action.dest, action.metavar if isinstance(action.metavar, str) else None) is None
    ]
    assert not unknown, (
        f"completion does not know these: add them to reference/completion/sources.py: {unknown}"
    )


def test_each_verb_completes_its_options() -> None:
    for verb in VERBS:
        assert words(verb) == [verb] or verb in words(verb)
        assert "--help" in words(verb, "--h"), verb


def test_verbs_come_first() -> None:
    assert {"run", "help", *VERBS} == set(words(""))
    assert words("wh") == ["why"]
    assert words("help", "wh") == ["why"]
    assert words("--json", "wh") == ["why"]
    assert words("unheard-of", "") == []


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["link", "s"], ["show", "set"]),
        (["link", "set", ""], ["nic0", "net0"]),
        (["link", "set", "nic0", ""], ["up", "down"]),
        (["link", "set", "nic0", "down", ""], []),
        (["link", "set", "nic0", "--wait", "3", "d"], ["down"]),
        (["link", "set", "--wait", ""], []),
        (["link", "show", "--sort", "na"], ["name"]),
        (["link", "show", "--sort=na"], ["--sort=name"]),
        (["link", "show", "type", ""], ["nic", "netdev"]),
        (["link", "show", "model", ""], ["e1000"]),
        (["link", "show", "dev", "n"], ["nic0", "net0"]),
        (["link", "show", "held", "oper"], ["operator"]),
        (["link", "fault", "nic0", "one-way", ""], ["tx", "rx"]),
        (["link", "impair", "nic0", "--distribution", "pareton"], ["paretonormal"]),
        (["link", "set", "nic0", "down", "--wait", "1", "--w"], []),
        (["-n", "l"], ["lab"]),
        (["stop", ""], ["lab", "vnic"]),
        (["why", "-n", ""], ["lab", "vnic"]),
        (["netdev", "del", ""], ["net0"]),
        (["device", "del", ""], ["nic0"]),
        (["flap", "--stop", ""], ["flap-1"]),
        (["log", "--cause", "disc"], ["disconnected"]),
        (["hmp", "set_l"], ["set_link"]),
        (["hmp", "set_link", "ni"], ["nic0"]),
        (["bench", "sta"], ["start"]),
        (["bench", "start", "lin"], ["link"]),
        (["demo", "--guest", "qe"], ["qemu"]),
        (["netdev", "add", "strea"], ["stream"]),
    ],
)
def test_a_word_is_completed_by_its_place(
    played: list[tuple[Any, ...]], given: list[str], found: list[str]
) -> None:
    assert words(*given) == found


@pytest.mark.parametrize(
    ("given", "name", "path"),
    [
        (["link", "set", "-n", "lab", ""], "lab", None),
        (["-n", "lab", "link", "set", ""], "lab", None),
        (["link", "set", "--name=lab", ""], "lab", None),
        (["link", "-n", "lab", "set", ""], "lab", None),
        (["--qmp=a.qmp", "why", ""], None, "a.qmp"),
    ],
)
def test_the_vnic_that_is_meant_is_asked(
    played: list[tuple[Any, ...]], given: list[str], name: str | None, path: str | None
) -> None:
    assert words(*given) == ["nic0", "net0"]
    assert played == [("query-links", name, path)]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["-netd"], ["-netdev"]),
        (["-netdev", "strea"], ["stream"]),
        (["-netdev", "hubport,hu"], ["hubport,hubid="]),
        (["-netdev", "stream,addr.type=u"], ["stream,addr.type=unix"]),
        (["-netdev", "stream,server="], ["stream,server=on", "stream,server=off"]),
        (["-netdev", "stream,id=a,i"], []),
        (["-netdev", "nothing-like-it,"], ["nothing-like-it,help"]),
        (["-netdev", "{"], []),
        (["-netdev", "echo,id=e0", "-device", "e1000,netdev="], ["e1000,netdev=e0"]),
        (["-chardev", "socket,id=c0", "-netdev", "vhost-user,chardev="], ["vhost-user,chardev=c0"]),
        (["-monitor-policy", "l"], ["links"]),
        (["-datapath", "p"], ["python"]),
    ],
)
def test_options_of_run_are_completed(given: list[str], found: list[str]) -> None:
    assert words("run", *given) == found


def test_paths_within_an_option_string_are_completed(tmp_path: Path) -> None:
    (tmp_path / "a.sock").touch()
    (tmp_path / "folder").mkdir()
    lead = f"stream,addr.type=unix,addr.path={tmp_path}/"
    assert words("run", "-netdev", lead) == [f"{lead}a.sock", f"{lead}folder/"]


def test_files_are_the_shells() -> None:
    for given in (["guest", ""], ["lab", "up", ""], ["link", "--qmp", ""], ["run", "-D", ""]):
        assert complete(given).files


def test_what_no_line_can_hold_is_left_out() -> None:
    found = Candidates(
        [Candidate("a\nb"), Candidate("a\x1b[31m"), Candidate("a", "one\ntwo"), Candidate("a")]
    )
    assert [each.word for each in found.beginning_with("")] == ["a"]
    assert all("\n" not in line for line in lines(found, "", 0))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("vnic link s", ["vnic", "link", "s"]),
        ("vnic link ", ["vnic", "link", ""]),
        ("vnic", ["vnic"]),
        ("vnic link 'a b", ["vnic", "link", "a b"]),
        ('vnic link "a b" ', ["vnic", "link", "a b", ""]),
        ("cd /tmp && vnic why n", ["vnic", "why", "n"]),
        ("", [""]),
    ],
)
def test_a_line_is_split_as_the_shell_does(line: str, found: list[str]) -> None:
    assert split(line) == found


def test_bash_gets_what_is_behind_its_word_break(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["completion", "words", "--breaks", " =:", "--line", "vnic run -netdev stream,addr.type=u"]) == 0
    )
    assert capsys.readouterr().out == "-\nunix\n"


def test_words_behind_two_minuses_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "words", "--", "link", "show", "--so"]) == 0
    assert capsys.readouterr().out.startswith("-\n--sort\t")
    assert main(["completion", "words", "--", "guest", "a.sock", "--", ""]) == 0
    assert capsys.readouterr().out == "files\n"


# -- hostile and slow vnics -------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """A QMP socket that says what the list holds, and then nothing."""
    path, says = str(tmp_path / "s"), [b'{"QMP": {}}\n']
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                for each in says:
                    client.sendall(each)
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path, says
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_names_are_asked_for_by_qmp(server: tuple[str, list[bytes]]) -> None:
    path, says = server
    says += [b'{"event": "STOP"}\n{"return": {}}\n', json.dumps({"return": LINKS}).encode() + b"\n"]
    assert running.query("query-links", None, path) == LINKS


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}\n", b"[1]\n", b"\xff\n", b'{"error": {}}\n', b'{"return": {}}\n{"return": 7}\n', b"{" * 100],
)
def test_a_vnic_that_does_not_answer_has_no_names(server: tuple[str, list[bytes]], answer: bytes) -> None:
    path, says = server
    says.append(answer)
    assert running.query("query-links", None, path) == []


def test_without_a_vnic_there_are_no_names(tmp_path: Path) -> None:
    assert running.query("query-links", None, str(tmp_path / "nothing")) == []
    assert running.query("query-links", None, "x" * 200) == []
