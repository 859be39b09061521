"""The session of a domain, in its threads, with a libvirt that the tests play."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence

import pytest
from tests.fakes.fake_libvirt import PAUSED, RUNNING, FakeDomain, FakeLibvirt, libvirtError
from tests.fakes.loops import fresh_loop, run_for, until

from vnic.adopt.domain import connection, session, visitor
from vnic.adopt.domain.session import DomainSession
from vnic.adopt.hypervisor import AgentRefused, FoundNic, HypervisorError

URI = "qemu:///fake"


class Listener:
    """A VmListener that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.nics: Sequence[FoundNic] = ()

    def words(self) -> list[object]:
        return [each[0] for each in self.told]

    def vm_there(self, nics: Sequence[FoundNic], state: str, text: str) -> None:
        self.nics = nics
        self.told.append(("there", state, text))

    def vm_gone(self, text: str, *, violated: bool = False) -> None:
        self.told.append(("gone", text))

    def nics_changed(self, nics: Sequence[FoundNic]) -> None:
        self.nics = nics
        self.told.append(("nics", *(f"{nic.name} {'up' if nic.up else 'down'}" for nic in nics)))

    def run_state(self, state: str) -> None:
        self.told.append(("state", state))

    def guest_reset(self) -> None:
        self.told.append(("reset",))

    def netdev_connected(self, nic: str, connected: bool, text: str, link: bool | None = None) -> None:
        self.told.append(("netdev", nic, connected, link))

    def agent_changed(self, there: bool, text: str) -> None:
        self.told.append(("agent", there, text))


class Lab:
    """A loop, a libvirt, and sessions."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.libvirt = FakeLibvirt()
        self.sessions: list[DomainSession] = []

    def session(self, domain: str = "one") -> tuple[DomainSession, Listener]:
        made, listener = DomainSession(self.loop, self.libvirt.library, URI, domain), Listener()
        self.sessions.append(made)
        made.start(listener)
        return made, listener

    def until(self, condition: Callable[[], object]) -> None:
        until(self.loop, condition)

    def there(self, domain: FakeDomain) -> tuple[DomainSession, Listener]:
        made, listener = self.session(domain.name())
        self.until(lambda: "agent" in listener.words())
        return made, listener

    def wait(self, future: asyncio.Future[object] | asyncio.Future[None]) -> object:
        self.until(future.done)
        return future.result()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(visitor, "AGAIN_S", 0.01)
    monkeypatch.setattr(visitor, "LOOK_S", 0.01)
    monkeypatch.setattr(visitor, "LOOK_SHARE", 1)
    monkeypatch.setattr(connection, "AGAIN_S", 0.01)
    with fresh_loop() as loop:
        made = Lab(loop)
        yield made
        for each in made.sessions:
            each.close()
        made.libvirt.answers.set()
        made.libvirt.never.set()
        until(loop, lambda: URI not in connection.connections.known())


def test_a_domain_is_told_with_its_nics_and_their_links(lab: Lab) -> None:
    domain = lab.libvirt.add("one", nics=2)
    domain.set_link("net1", "down")
    _, listener = lab.there(domain)
    assert [(nic.name, nic.model, nic.mac.hex(), nic.up) for nic in listener.nics] == [
        ("net0", "virtio", "525400000000", True),
        ("net1", "virtio", "525400000001", False),
    ]
    assert listener.told == [
        ("there", "running", "QEMU 7.2.22, libvirt 9.0.0"),
        ("agent", False, "its guest agent does not run"),
    ]


def test_a_domain_is_found_by_its_uuid(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    _, listener = lab.session(domain.UUIDString().upper())
    lab.until(lambda: "there" in listener.words())
    domain.stop()
    lab.until(lambda: "gone" in listener.words())


def test_links_are_set_in_order(lab: Lab) -> None:
    domain = lab.libvirt.add("one", nics=2)
    made, _ = lab.there(domain)
    asked = [made.set_link(*each) for each in (("net0", False), ("net1", False), ("net0", True))]
    for future in asked:
        lab.wait(future)
    assert domain.updates == ["net0 down", "net1 down", "net0 up"]


def test_a_link_that_vnic_set_is_no_news(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, listener = lab.there(domain)
    lab.wait(made.set_link("net0", False))
    run_for(lab.loop, 0.1)
    assert "nics" not in listener.words()


def test_a_link_that_another_client_set_is_told(lab: Lab) -> None:
    domain = lab.libvirt.add("one", nics=2)
    _, listener = lab.there(domain)
    domain.set_link("net1", "down")
    lab.until(lambda: ("nics", "net0 up", "net1 down") in listener.told)


def test_an_unknown_nic_is_refused(lab: Lab) -> None:
    made, _ = lab.there(lab.libvirt.add("one"))
    with pytest.raises(HypervisorError, match="has no NIC 'net7'"):
        lab.wait(made.set_link("net7", False))


def test_an_error_of_libvirt_is_the_answer(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, _ = lab.there(domain)
    del domain.nics["net0"]
    with pytest.raises(HypervisorError, match="device not found"):
        lab.wait(made.set_link("net0", False))


def test_a_nic_that_was_unplugged_is_told(lab: Lab) -> None:
    domain = lab.libvirt.add("one", nics=2)
    _, listener = lab.there(domain)
    del domain.nics["net0"]
    lab.until(lambda: listener.told[-1] == ("nics", "net1 up"))


def test_a_domain_that_is_not_there_is_waited_for(lab: Lab) -> None:
    _, listener = lab.session()
    lab.until(lambda: listener.told == [("gone", "there is no domain 'one'")])
    domain = lab.libvirt.add("one", start=False)
    lab.until(lambda: listener.told[-1] == ("gone", "it is shut off"))
    domain.start()
    lab.until(lambda: "there" in listener.words())


def test_each_start_of_a_domain_is_another_vm(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, listener = lab.there(domain)
    before = made.identity
    domain.number = -1
    domain.start()
    lab.until(lambda: listener.words().count("there") == 2)
    assert ("gone", "it was started anew") in listener.told
    assert made.identity != before


def test_a_domain_that_pauses_is_told(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    _, listener = lab.there(domain)
    for number, word in ((PAUSED, "paused"), (RUNNING, "running")):
        domain.state_number = number
        domain.changed()
        lab.until(lambda word=word: listener.told[-1] == ("state", word))  # type: ignore[misc]


def test_a_guest_that_boots_anew_is_told(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    _, listener = lab.there(domain)
    domain.rebooted()
    lab.until(lambda: listener.told[-1] == ("reset",))


def test_resets_while_libvirt_does_not_answer_are_told_once(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, listener = lab.there(domain)
    lab.libvirt.answers.clear()
    waiting = made.set_link("net0", False)
    lab.until(lambda: lab.libvirt.waiting)
    for _ in range(10_000):
        domain.rebooted()
    lab.libvirt.answers.set()
    lab.wait(waiting)
    lab.until(lambda: ("reset",) in listener.told)
    lab.wait(made.set_link("net0", True))
    assert listener.words().count("reset") == 1
    domain.rebooted()
    lab.until(lambda: listener.words().count("reset") == 2)


def test_the_last_of_too_many_events_of_a_netdev_is_told(lab: Lab) -> None:
    domain = lab.libvirt.add("one", nics=2)
    made, listener = lab.there(domain)
    lab.libvirt.answers.clear()
    waiting = made.set_link("net0", False)
    lab.until(lambda: lab.libvirt.waiting)
    for number in range(3 * visitor.EVENTS_MAX):
        netdev = f"hostnet{number % 2}" if number % 3 else f"unknown{number}"
        lab.libvirt.tell_monitor(domain, "NETDEV_STREAM_CONNECTED", {"netdev-id": netdev})
    for alias, word in (("net0", "DISCONNECTED"), ("net1", "CONNECTED")):
        lab.libvirt.tell_monitor(domain, f"NETDEV_STREAM_{word}", {"netdev-id": f"host{alias}"})
    lab.libvirt.answers.set()
    lab.wait(waiting)
    lab.until(lambda: ("netdev", "net0", False, None) in listener.told)
    lab.wait(made.set_link("net0", True))
    told = {each[1]: each[2] for each in listener.told if each[0] == "netdev"}
    assert told == {"net0": False, "net1": True}
    assert listener.words().count("netdev") <= visitor.EVENTS_MAX + 2


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("NETDEV_STREAM_DISCONNECTED", ("netdev", "net0", False, None)),
        ("NETDEV_STREAM_CONNECTED", ("netdev", "net0", True, None)),
        ("NETDEV_VHOST_USER_DISCONNECTED", ("netdev", "net0", False, False)),
        ("NETDEV_VHOST_USER_CONNECTED", ("netdev", "net0", True, True)),
    ],
)
def test_events_of_netdevs_are_passed_on(lab: Lab, event: str, told: tuple[object, ...]) -> None:
    domain = lab.libvirt.add("one")
    _, listener = lab.there(domain)
    for details in (
        "{",
        "[]",
        "[" * 100_000,
        {"netdev-id": 7},
        {"netdev-id": "hostnet9"},
        {"netdev-id": "hostnet0"},
    ):
        lab.libvirt.tell_monitor(domain, event, details)
    lab.until(lambda: listener.told[-1] == told)
    assert listener.words().count("netdev") == 1


def test_a_libvirt_that_dies_and_comes_back(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, listener = lab.there(domain)
    lab.libvirt.die()
    lab.until(lambda: listener.told[-1] == ("gone", "Failed to connect socket"))
    lab.libvirt.refuses = None
    lab.until(lambda: listener.words().count("there") == 2)
    lab.wait(made.set_link("net0", False))
    assert domain.updates == ["net0 down"]


def test_what_is_pending_fails_when_the_domain_ends(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, _ = lab.there(domain)
    lab.libvirt.answers.clear()
    future = made.set_link("net0", False)
    domain.number = -1
    del domain.nics["net0"]
    lab.libvirt.answers.set()
    with pytest.raises(HypervisorError):
        lab.wait(future)


def test_a_libvirt_that_does_not_answer_is_said_to_be_silent(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CHECK_S", 0.01)
    monkeypatch.setattr(session, "SLOW_S", 0.02)
    lab.libvirt.add("one")
    lab.libvirt.answers.clear()
    _, listener = lab.session()
    lab.until(lambda: listener.told == [("gone", f"{URI} does not answer")])
    lab.libvirt.answers.set()
    lab.until(lambda: "there" in listener.words())


def test_a_domain_whose_calls_wait_does_not_hold_up_others(lab: Lab) -> None:
    one, two = (lab.libvirt.add(name) for name in ("one", "two"))
    first, _ = lab.there(one)
    second, _ = lab.there(two)
    one.answers["guest-info"] = lab.libvirt.never
    waiting = first.ask_agent("guest-info", {})
    lab.wait(first.set_link("net0", False))
    lab.wait(second.set_link("net0", False))
    assert not waiting.done()
    assert (one.updates, two.updates) == (["net0 down"], ["net0 down"])
    lab.libvirt.never.set()
    with pytest.raises(HypervisorError, match="not responding"):
        lab.wait(waiting)


def test_sessions_of_one_uri_share_a_connection(lab: Lab) -> None:
    for name in ("one", "two", "three"):
        lab.there(lab.libvirt.add(name))
    assert lab.libvirt.opened == 1
    for each in lab.sessions:
        each.close()
    lab.until(lambda: URI not in connection.connections.known())
    assert all(each.is_closed and not each.callbacks for each in lab.libvirt.connections)


def test_the_guest_agent_answers(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, listener = lab.there(domain)
    domain.agent = "connected"
    domain.answers["guest-info"] = {"version": "7.2"}
    domain.changed()
    lab.until(lambda: listener.told[-1] == ("agent", True, ""))
    assert lab.wait(made.ask_agent("guest-info", {})) == {"version": "7.2"}


@pytest.mark.parametrize(
    "answer",
    [
        *("", "{", "[]", "7", '{"error": {}}', json.dumps({"x": 1})),
        *('{"return": ' + "[" * 100_000, json.dumps({"return": "x" * visitor.ANSWER_MAX})),
    ],
    ids=range(8),
)
def test_an_answer_of_the_agent_that_is_none_is_an_error(lab: Lab, answer: str) -> None:
    domain = lab.libvirt.add("one")
    made, _ = lab.there(domain)
    domain.answers["guest-info"] = answer
    with pytest.raises(HypervisorError, match="its answer to guest-info is none"):
        lab.wait(made.ask_agent("guest-info", {}))


def test_an_error_of_the_agent_is_told_from_its_silence(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, _ = lab.there(domain)
    domain.answers["guest-file-open"] = libvirtError("unable to execute QEMU agent command")
    with pytest.raises(AgentRefused):
        lab.wait(made.ask_agent("guest-file-open", {}))
    with pytest.raises(HypervisorError) as silent:
        lab.wait(made.ask_agent("guest-info", {}))
    assert not isinstance(silent.value, AgentRefused)


def test_a_domain_without_a_channel_has_no_agent(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    domain.agent = ""
    _, listener = lab.there(domain)
    assert listener.told[-1] == ("agent", False, "the domain has no channel for a guest agent")


def test_a_closed_session_tells_nothing(lab: Lab) -> None:
    domain = lab.libvirt.add("one")
    made, listener = lab.there(domain)
    lab.libvirt.answers.clear()
    future = made.set_link("net0", False)
    made.close()
    told = list(listener.told)
    lab.libvirt.answers.set()
    domain.stop()
    lab.until(lambda: URI not in connection.connections.known())
    assert listener.told == told
    with pytest.raises(HypervisorError):
        future.result()
