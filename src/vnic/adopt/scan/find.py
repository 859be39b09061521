"""The VMs of this host that can be adopted, each with the option that does it. `vnic adopt` calls `find_vms`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Literal

import msgspec

from vnic.adopt.scan.domains import Domain, domains
from vnic.adopt.scan.processes import Qemu, qemus

BY_LIBVIRT = "libvirt manages it, and no libvirt that was asked lists it: give --uri"


class FoundVm(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """One VM. `options` are those of its object, without `id`."""

    id: str
    """The id that is proposed for its object."""
    type: Literal["qemu", "libvirt"]
    """That of its object."""
    name: str
    state: str
    pid: int | None = None
    options: dict[str, str] = {}
    problem: str | None = None
    """Why it cannot be adopted as it is now."""

    @property
    def where(self) -> str:
        return self.options.get("qmp") or self.options.get("uri") or "-"

    @property
    def object(self) -> str:
        """The value of its `-object`."""
        pairs = {"id": self.id, **self.options}
        return ",".join((self.type, *(f"{key}={value.replace(',', ',,')}" for key, value in pairs.items())))

    @property
    def option(self) -> str:
        """Its option of `vnic run`, for a shell."""
        return f"-object {shlex.quote(self.object)}"


def find_vms(uris: Sequence[str]) -> tuple[list[FoundVm], list[str]]:
    """All VMs, and what went wrong, a sentence each. `uris`: the libvirts to ask. It waits for them."""
    known, problems = domains(uris)
    return combine(list(qemus()), known), problems


def combine(processes: Sequence[Qemu], known: Sequence[Domain]) -> list[FoundVm]:
    """A QEMU that is a listed domain is found once, as that."""
    ids: set[str] = set()
    of_domains = {domain.uuid for domain in known}
    pids = {each.uuid: each.pid for each in processes if each.by_libvirt}
    found = [_of_domain(domain, pids.get(domain.uuid), ids) for domain in known]
    others = (each for each in processes if not (each.by_libvirt and each.uuid in of_domains))
    return [*found, *(_of_qemu(each, ids) for each in others)]


def _of_domain(domain: Domain, pid: int | None, ids: set[str]) -> FoundVm:
    return FoundVm(
        id=_new_id(domain.name, ids),
        type="libvirt",
        name=domain.name,
        state=domain.state,
        pid=pid,
        options={"uri": domain.uri, "domain": domain.name},
    )


def _of_qemu(qemu: Qemu, ids: set[str]) -> FoundVm:
    name = qemu.name or f"qemu-{qemu.pid}"
    options = {}
    if qemu.qmp is not None and not qemu.by_libvirt:
        options["qmp"] = qemu.qmp
        if qemu.qga is not None:
            options["qga"] = qemu.qga
    return FoundVm(
        id=_new_id(name, ids),
        type="qemu",
        name=name,
        state="running",
        pid=qemu.pid,
        options=options,
        problem=BY_LIBVIRT if qemu.by_libvirt else qemu.problem,
    )


def _new_id(name: str, ids: set[str]) -> str:
    """An identifier that resembles `name`, and no other in `ids`, where it is entered."""
    plain = re.sub(r"[^A-Za-z0-9\-._]+", "-", name).strip("-") or "vm"
    base = plain if plain[0].isalpha() else f"vm-{plain}"
    number, new = 1, base
    while new in ids:
        number += 1
        new = f"{base}-{number}"
    ids.add(new)
    return new
