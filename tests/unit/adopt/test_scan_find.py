"""Which VMs the scan proposes, and as what; how it asks libvirts."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from tests.needs import need

from vnic.adopt.domain import library
from vnic.adopt.domain.library import LibraryMissing
from vnic.adopt.scan import domains as listing
from vnic.adopt.scan.domains import Domain, domains, local_uris
from vnic.adopt.scan.find import combine
from vnic.adopt.scan.processes import Qemu


def qemu(pid: int = 7, **others: object) -> Qemu:
    given = {"name": "web", "uuid": None, "qmp": "/q", "qga": None, "by_libvirt": False, "problem": None}
    return Qemu(pid=pid, **{**given, **others})  # type: ignore[arg-type]


def domain(name: str = "web", uuid: str = "u1") -> Domain:
    return Domain(name=name, uuid=uuid, uri="qemu:///system", state="running")


def test_a_qemu_is_adopted_by_its_sockets() -> None:
    (found,) = combine([qemu(qga="/a,b")], [])
    assert found.option == "-object qemu,id=web,qmp=/q,qga=/a,,b"


def test_the_option_is_quoted_for_a_shell() -> None:
    (found,) = combine([qemu(qmp="/my vm/q")], [])
    assert found.option == "-object 'qemu,id=web,qmp=/my vm/q'"


def test_a_domain_and_its_process_are_one_vm() -> None:
    (found,) = combine([qemu(uuid="u1", by_libvirt=True)], [domain()])
    assert (found.type, found.pid, found.problem) == ("libvirt", 7, None)
    assert found.option == "-object libvirt,id=web,uri=qemu:///system,domain=web"


def test_libvirts_own_monitor_is_not_proposed() -> None:
    (found,) = combine([qemu(uuid="u1", by_libvirt=True)], [])
    assert "libvirt manages it" in (found.problem or "")
    assert found.options == {}


@pytest.mark.parametrize(
    ("name", "vm_id"),
    [
        ("web", "web"),
        ("Web 1", "Web-1"),
        ("7up", "vm-7up"),
        ("ü", "vm"),
        ("a/b,c", "a-b-c"),
        (None, "qemu-7"),
    ],
)
def test_an_id_resembles_the_name(name: str | None, vm_id: str) -> None:
    (found,) = combine([qemu(name=name)], [])
    assert found.id == vm_id


def test_ids_differ() -> None:
    found = combine([qemu(1), qemu(2), qemu(3, name="web-2")], [])
    assert [each.id for each in found] == ["web", "web-2", "web-2-2"]


def test_only_libvirts_that_listen_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    session, run = tmp_path / "session", tmp_path / "run"
    environ = {"XDG_RUNTIME_DIR": str(session)}
    assert local_uris(environ, run) == []
    for folder in (session, run):
        (folder / "libvirt").mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(folder / "libvirt" / "virtqemud-sock"))
    environ["LIBVIRT_DEFAULT_URI"] = "test:///default"
    assert local_uris(environ, run) == ["qemu:///system", "qemu:///session", "test:///default"]


def test_domains_are_listed() -> None:
    """libvirt's test driver has a domain."""
    need("libvirt-python")
    found, problems = domains(["test:///default"])
    assert [(each.name, each.state) for each in found] == [("test", "running")]
    assert problems == []


def test_a_libvirt_that_refuses_is_a_problem() -> None:
    need("libvirt-python")
    found, problems = domains(["test:///default", "qemu+unix:///session?socket=/nowhere", "test:///default"])
    assert len(found) == 1
    (problem,) = problems
    assert problem.startswith("qemu+unix:///session?socket=/nowhere: ")


def test_a_libvirt_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    need("libvirt-python")
    end = threading.Event()
    monkeypatch.setattr(listing, "ANSWER_S", 0.01)
    monkeypatch.setattr(listing, "_ask", lambda uri: str(end.wait(60)))
    try:
        assert domains(["test:///default"]) == ([], ["test:///default does not answer"])
    finally:
        end.set()


def test_without_libvirt_python_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise LibraryMissing(library.MISSING)

    monkeypatch.setattr(listing, "load", load)
    found, problems = domains(["qemu:///system", "qemu:///session"])
    assert found == []
    (problem,) = problems
    assert "pip install 'vnic[libvirt]'" in problem


def test_no_libvirt_needs_no_libvirt_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "load", lambda: 1 / 0)
    assert domains([]) == ([], [])
