"""Domains of a real libvirt, under real QEMUs, become part of a running vnic."""

from __future__ import annotations

import json
import os
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.fakes.libvirt_daemon import LibvirtDaemon, interface, libvirt_daemon
from tests.integration.process import Place, Running, wait_for

pytestmark = pytest.mark.needs("libvirtd", "libvirt-python", "qemu")


@pytest.fixture(scope="module")
def daemon() -> Iterator[LibvirtDaemon]:
    """It has the domain `one`, which runs: net0 is up, net1 down."""
    with libvirt_daemon() as made:
        made.define("one", interface(0), interface(1, "down", "e1000"))
        made.boot("one")
        made.define("two", interface(2))
        yield made


class Lab:
    """A running vnic that has adopted a domain as vm1."""

    def __init__(self, place: Place, running: Running, daemon: LibvirtDaemon) -> None:
        self.place = place
        self.running = running
        self.daemon = daemon

    def json(self, *words: str) -> Any:
        done = self.place.verb(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def verb(self, *words: str) -> str:
        done = self.place.verb(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def links(self) -> dict[str, Any]:
        return {each["name"]: each for each in self.json("link")}

    def link(self, name: str) -> str:
        found = self.links().get(name)
        return "gone" if found is None else str(found["link"])

    def wait(self, name: str, link: str) -> None:
        wait_for(lambda: self.link(name) == link)

    def in_xml(self, alias: str, domain: str = "one") -> str:
        """The link that libvirt shows."""
        for each in ET.fromstring(self.daemon.xml(domain)).iterfind("devices/interface"):
            name, state = each.find("alias"), each.find("link")
            if name is not None and name.get("name") == alias:
                return "up" if state is None else state.get("state", "up")
        return "gone"

    def wait_in_xml(self, alias: str, link: str) -> None:
        wait_for(lambda: self.in_xml(alias) == link)


@contextmanager
def adopted(place: Place, daemon: LibvirtDaemon, domain: str = "one") -> Iterator[Lab]:
    options = ("-object", f"libvirt,id=vm1,uri={daemon.uri},domain={domain}")
    with place.run(*options) as running:
        lab = Lab(place, running, daemon)
        wait_for(lambda: lab.link("vm1/net0") != "gone")
        try:
            yield lab
        finally:
            for name in ("vm1/net0", "vm1/net1"):
                place.verb("link", "set", name, "up" if name.endswith("0") else "down")
                wait_for(lambda name=name: lab.in_xml(name[4:]) == lab.link(name))  # type: ignore[misc]


def test_links_are_those_of_the_domain_and_are_set_there(place: Place, daemon: LibvirtDaemon) -> None:
    with adopted(place, daemon) as lab:
        links = lab.links()
        assert [links[name]["link"] for name in ("vm1/net0", "vm1/net1")] == ["up", "down"]
        assert not any(each.get("assumed") for each in links.values())
        (hold,) = links["vm1/net1"]["holds"]
        assert (hold["kind"], hold["by"]) == ("operator", "vm1")
        assert (lab.in_xml("net0"), lab.in_xml("net1")) == ("up", "down")
        for name, alias, link in (("vm1/net0", "net0", "down"), ("vm1/net1", "net1", "up")):
            lab.verb("link", "set", name, link)
            lab.wait_in_xml(alias, link)
        assert "QEMU" in lab.verb("hmp", "qom-get /objects/vm1 status")


def test_another_clients_change_is_an_operators(place: Place, daemon: LibvirtDaemon) -> None:
    with adopted(place, daemon) as lab:
        daemon.set_link("one", "net0", "down")
        lab.wait("vm1/net0", "down")
        assert "another client" in lab.verb("why", "vm1/net0")


def test_the_wanted_link_is_put_back_when_the_domain_starts_anew(place: Place, daemon: LibvirtDaemon) -> None:
    with adopted(place, daemon) as lab:
        lab.verb("link", "set", "vm1/net0", "down")
        lab.wait_in_xml("net0", "down")
        os.kill(daemon.pid("one"), signal.SIGKILL)
        wait_for(lambda: "shut off" in lab.verb("hmp", "qom-get /objects/vm1 status"))
        assert lab.link("vm1/net0") == "down"
        daemon.boot("one")
        lab.wait_in_xml("net0", "down")


def test_a_libvirtd_that_was_killed_comes_back(place: Place, daemon: LibvirtDaemon) -> None:
    with adopted(place, daemon) as lab:
        daemon.kill()
        wait_for(lambda: "not there" in lab.verb("hmp", "qom-get /objects/vm1 status"))
        lab.verb("link", "set", "vm1/net0", "down")
        daemon.start()
        lab.wait_in_xml("net0", "down")


def test_a_libvirtd_that_does_not_answer_holds_up_nothing(place: Place, daemon: LibvirtDaemon) -> None:
    with adopted(place, daemon) as lab:
        daemon.send(signal.SIGSTOP)
        try:
            lab.verb("link", "set", "vm1/net0", "down")
            lab.verb("link", "set", "vm1/net0", "up")
            lab.verb("link", "set", "vm1/net0", "down")
        finally:
            daemon.send(signal.SIGCONT)
        lab.wait_in_xml("net0", "down")


def test_a_nic_that_is_plugged_in_is_adopted(place: Place, daemon: LibvirtDaemon) -> None:
    with adopted(place, daemon) as lab:
        daemon.attach("one", interface(7, "down"))
        lab.wait("vm1/net2", "down")
        lab.verb("link", "set", "vm1/net2", "up")
        lab.wait_in_xml("net2", "up")


def test_domains_are_found_adopted_and_released(place: Place, daemon: LibvirtDaemon) -> None:
    uri = ("--uri", daemon.uri)
    with place.run() as running:
        lab = Lab(place, running, daemon)
        found = {each["id"]: each for each in lab.json("adopt", "--scan", *uri)}
        assert found["one"]["options"] == {"uri": daemon.uri, "domain": "one"}
        assert lab.json("adopt", "one", "--id", "vm9", *uri) == [
            {"id": "vm9", "nics": [name for name in lab.links() if name.startswith("vm9/")]}
        ]
        (again,) = [each for each in lab.json("adopt", "--scan", *uri) if each["id"] == "one"]
        assert (again["adopted-by"], again["adopted-as"]) == ("vnic", "vm9")
        assert place.verb("adopt", "one", *uri).stderr == "vnic: 'one' is adopted already, as vm9\n"
        assert lab.json("adopt", "--release", "vm9") == [{"id": "vm9", "nics": []}]
        assert lab.links() == {}
        assert lab.verb("adopt", "two", *uri) == "two: not there: it is shut off\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("uri=qemu:///x", "Parameter 'domain' is missing"),
        ("domain=", "Parameter 'domain' expects a text of 1 to 1024 characters"),
        ("domain=x,uri=", "Parameter 'uri' expects a text of 1 to 1024 characters"),
    ],
)
def test_options_that_cannot_be_are_refused(place: Place, options: str, text: str) -> None:
    done = place.command("run", "-object", f"libvirt,id=vm1,{options}")
    assert done.returncode == 1
    assert text in done.stderr


def test_a_libvirt_that_is_not_there_is_one_line_in_the_log(place: Place) -> None:
    with place.run("-object", "libvirt,id=vm1,uri=qemu+unix:///session?socket=/nowhere,domain=x") as running:
        lab = Lab(place, running, None)  # type: ignore[arg-type]
        wait_for(lambda: "not there: Failed to connect" in lab.verb("hmp", "qom-get /objects/vm1 status"))
        _, stderr = running.end()
    assert stderr == ""
