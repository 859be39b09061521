"""pytest's plugin: the fixtures `vnic_lab`, `nic` and `guest`, on a lab of the tests' own or on a vnic that runs.

A lab is started once for each process of the run (each worker of pytest-xdist has its own) and is put back after each
test. A failing test's report has the journal of its time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:  # a run without these fixtures pays for none of it
    from vnic.api.blocking import Guest, Nic, Vnic

DEFAULT_LAB: Final = {
    "name": "pytest",
    "nodes": {"guest": {"kind": "uml"}, "lan": {"kind": "hub"}},
    "links": [{"endpoints": ["guest:eth0", "lan:port0"]}],
}
"""One guest with one NIC: what `nic` and `guest` are where no lab is named."""
EMPTY_LAB: Final = {"name": "pytest", "nodes": {"lan": {"kind": "hub"}}}
"""What vnic_lab is where no lab is named and neither `nic` nor `guest` is asked for."""
SEEN_S: Final = 30.0
"""How long, after a test, the guests are waited for until they see that the links are back."""

_labs = pytest.StashKey["_Labs"]()
_used = pytest.StashKey["tuple[Vnic, float]"]()
"""The vnic of a test, and when it began, in seconds since 1970."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vnic", "links of virtual machines")
    group.addoption("--vnic-lab", metavar="FILE", help="the lab file that vnic_lab, nic and guest use")
    group.addoption(
        "--vnic", metavar="INSTANCE", help="a vnic that runs already, in place of a lab of the tests' own"
    )
    parser.addini("vnic_lab", "the lab file that vnic_lab, nic and guest use", type="string")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_labs] = _Labs(config)
    config.addinivalue_line(
        "markers", "vnic_lab(source): the lab of vnic_lab, nic and guest: a file, or a mapping with its keys"
    )
    config.addinivalue_line("markers", "vnic_nic(name): the NIC of the fixture nic, as 'a:eth1'")
    config.addinivalue_line("markers", "vnic_guest(name): the node of the fixture guest")


def pytest_unconfigure(config: pytest.Config) -> None:
    if (labs := config.stash.get(_labs, None)) is not None:
        labs.close()


class _Labs:
    """The labs that run, by their source; each is started when a test first asks for it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._running: dict[str, Vnic] = {}

    def get(self, item: pytest.Function) -> Vnic:
        from vnic.api.blocking import Lab, connect

        instance = self._config.getoption("--vnic")
        marker = item.get_closest_marker("vnic_lab")
        source: Any = DEFAULT_LAB if {"nic", "guest"} & set(item.fixturenames) else EMPTY_LAB
        if marker is not None:
            (source,) = marker.args
        elif instance is not None:
            source = None
        elif given := self._config.getoption("--vnic-lab"):
            source = str(self._config.invocation_params.dir / given)
        elif given := self._config.getini("vnic_lab"):
            source = str(self._config.rootpath / given)
        key = repr(source)
        if key not in self._running:
            if source is None:
                self._running[key] = connect(instance)
            else:
                lab = Lab(source)
                lab.up()
                self._running[key] = lab
        return self._running[key]

    def end(self, vnic: Vnic) -> None:
        """The next test gets another."""
        from vnic.api.blocking import Lab

        self._running = {key: each for key, each in self._running.items() if each is not vnic}
        if isinstance(vnic, Lab):
            vnic.down()
        else:
            vnic.close()

    def close(self) -> None:
        for vnic in list(self._running.values()):
            self.end(vnic)


@pytest.fixture(scope="module")
def vnic_module_labs(request: pytest.FixtureRequest) -> Iterator[None]:
    """A file of tests that uses it has labs of its own: what it started ends with it, not with the run."""
    yield
    request.config.stash[_labs].close()


@pytest.fixture
def vnic_lab(request: pytest.FixtureRequest) -> Iterator[Vnic]:
    """The lab: of the marker `vnic_lab(source)`, of --vnic-lab, of the ini file's vnic_lab, or one guest with one NIC;
    with --vnic, the running vnic of that name. After the test its links, flaps, impairments and faults are as before;
    a lab of which something was deleted or added, or a guest ended, is made anew for the next test."""
    from vnic.api.blocking import Lab
    from vnic.api.errors import VnicError

    labs, began = request.config.stash[_labs], time.time()
    vnic = labs.get(request.node)
    try:
        baseline = vnic.baseline()
    except VnicError:  # something beyond the tests has ended it
        labs.end(vnic)
        vnic = labs.get(request.node)
        baseline = vnic.baseline()
    request.node.stash[_used] = (vnic, began)
    yield vnic
    try:
        for vm in vnic.vms:
            vm.release()
        left = baseline.put_back(wait=SEEN_S)
    except VnicError as error:
        left = [str(error)]
    if isinstance(vnic, Lab):
        left += [f"guest {guest.name} has ended" for guest in vnic.guests() if not guest.running()]
        if left:
            labs.end(vnic)
    elif left:
        pytest.fail(
            f"the links of vnic '{request.config.getoption('--vnic')}' cannot be put back: {'; '.join(left)}"
        )


@pytest.fixture
def nic(request: pytest.FixtureRequest, vnic_lab: Vnic) -> Nic:
    """The NIC of the marker `vnic_nic(name)`, else the first one of the lab."""
    marker = request.node.get_closest_marker("vnic_nic")
    if marker is not None:
        return vnic_lab.nic(*marker.args)
    nics = vnic_lab.nics()
    if not nics:
        pytest.fail("the lab has no NIC")
    return nics[0]


@pytest.fixture
def guest(request: pytest.FixtureRequest, vnic_lab: Vnic) -> Guest:
    """The guest of the marker `vnic_guest(name)`, else the first one of the lab."""
    from vnic.api.blocking import Lab

    if not isinstance(vnic_lab, Lab):
        pytest.fail("a vnic that runs already (--vnic) has no guests of the tests")
    marker = request.node.get_closest_marker("vnic_guest")
    return vnic_lab.guest(*(marker.args if marker is not None else ()))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Beside what a failing test printed, its report has what happened to the links meanwhile."""
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    used = item.stash.get(_used, None)
    if used is not None and report.failed and report.when != "teardown":
        from vnic.api.history import history

        report.sections.append(("vnic: links during the test", history(*used)))
