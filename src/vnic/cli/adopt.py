"""`vnic adopt`: finds the VMs of this host, and makes them part of a running vnic, or ends that.

`main` calls it. `adopt.scan` finds the VMs; a running vnic adopts by QMP's object-add.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Sequence

import msgspec

from vnic.adopt.scan.domains import local_uris
from vnic.adopt.scan.find import FoundVm, find_vms
from vnic.cli.client import Entry, Refused, Session, add_instance_options, session, session_at
from vnic.cli.show import print_json, print_table
from vnic.printable import one_line
from vnic.sockets import rundir

COLUMNS = ("VM", "TYPE", "STATE", "PID", "BY", "ADOPTED BY", "NOTE")
EXPENDABLE = ("PID", "ADOPTED BY")
NICS_TIMEOUT_S = 5.0
NICS_POLL_S = 0.05
NOT_THERE = "not there"
"""How the status of an adopted VM begins that is not there."""
DESCRIPTION = (
    "Make VMs that run already part of a running vnic: their NICs are in `vnic link` then, and their links can be set,"
    " watched and explained. A VM is named as --scan does, by its process id, or by the path of its QMP socket."
    " Without a VM, as --scan."
)


class ScannedVm(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """One entry of `vnic adopt --scan --json`."""

    id: str
    type: str
    name: str
    state: str
    options: dict[str, str]
    pid: int | None = None
    option: str | None = None
    """What `vnic run` takes to adopt it; None: see `problem`."""
    problem: str | None = None
    adopted_by: str | None = None
    """The vnic that has it."""
    adopted_as: str | None = None
    """The id of its object there."""


class AdoptedVm(msgspec.Struct, frozen=True, kw_only=True):
    """What `vnic adopt VM --json` prints of each."""

    id: str
    nics: list[str]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "adopt",
        help="find the VMs of this host, and make them part of a running vnic",
        usage="vnic adopt --scan [--uri URI] [--json]\n"
        "       vnic adopt VM... [--id ID] [--uri URI] [--json] [-n INSTANCE | --qmp PATH]\n"
        "       vnic adopt --release ID... [-n INSTANCE | --qmp PATH]",
        description=DESCRIPTION,
    )
    parser.add_argument("vms", metavar="VM", nargs="*", help="a VM to adopt")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--scan", action="store_true", help="show the VMs of this host, and the options")
    what.add_argument(
        "--release", action="store_true", help="end the adoption: the VM keeps the link that it has"
    )
    what.add_argument("--id", metavar="ID", help="the id of its object, which its NICs' names begin with")
    parser.add_argument(
        "--uri",
        metavar="URI",
        action="append",
        default=[],
        help="ask this libvirt, too; those that run on this host are always asked",
    )
    parser.add_argument("-j", "--json", action="store_true", help="print JSON")
    add_instance_options(parser)
    parser.set_defaults(run=run, check=lambda args: _check(parser, args))


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.scan and args.vms:
        parser.error("--scan takes no VM")
    if args.release and not args.vms:
        parser.error("--release takes the ids of adopted VMs")
    if args.id is not None and len(args.vms) != 1:
        parser.error("--id is for one VM")


async def run(args: argparse.Namespace) -> int:
    if args.release:
        return await _release(args)
    return await _adopt(args) if args.vms else await _scan(args)


# -- scan -----------------------------------------------------------------------------------------------------------


async def _scan(args: argparse.Namespace) -> int:
    found, problems = await _find(args.uri)
    adopted = await _all_adopted()
    scanned = [_scanned(vm, adopted) for vm in found]
    for problem in problems:
        print(f"vnic: {one_line(problem)}", file=sys.stderr)
    if args.json:
        print_json(msgspec.to_builtins(scanned))
    elif scanned:
        _print(scanned)
    else:
        print("No VM was found: no QEMU runs here, and no libvirt has a domain.")
    return 0


async def _find(uris: Sequence[str]) -> tuple[list[FoundVm], list[str]]:
    return await asyncio.to_thread(find_vms, [*dict.fromkeys([*local_uris(), *uris])])


async def _all_adopted() -> dict[tuple[str, ...], tuple[str, str]]:
    """By what identifies a VM: the vnic that has it, and the id of its object there."""
    adopted: dict[tuple[str, ...], tuple[str, str]] = {}
    for name, path in (await asyncio.to_thread(rundir.running)).items():
        try:
            async with session_at(qmp=path) as qmp:
                for vm_id, key in await _adopted(qmp):
                    adopted[key] = (name, vm_id)
        except Refused:  # it has ended, or is an older vnic
            continue
    return adopted


async def _adopted(qmp: Session) -> list[tuple[str, tuple[str, ...]]]:
    """The ids of a vnic's adopted VMs, and what identifies each."""
    found = []
    for entry in await qmp.execute("qom-list", path="/objects"):
        keys = {"child<qemu>": ("qmp",), "child<libvirt>": ("uri", "domain")}.get(entry["type"])
        if keys is not None:
            path = f"/objects/{entry['name']}"
            values = [await qmp.execute("qom-get", path=path, property=key) for key in keys]
            found.append((str(entry["name"]), tuple(map(str, values))))
    return found


def _key(vm: FoundVm) -> tuple[str, ...]:
    return (vm.options.get("qmp", ""),) if vm.type == "qemu" else (vm.options["uri"], vm.options["domain"])


def _scanned(vm: FoundVm, adopted: dict[tuple[str, ...], tuple[str, str]]) -> ScannedVm:
    by, vm_id = adopted.get(_key(vm), (None, None))
    problem = None if by is not None else vm.problem  # the client that its QMP socket has is that vnic
    return ScannedVm(
        id=vm.id,
        type=vm.type,
        name=vm.name,
        state=vm.state,
        options=vm.options,
        pid=vm.pid,
        option=None if problem else vm.option,
        problem=problem,
        adopted_by=by,
        adopted_as=vm_id,
    )


def _print(scanned: Sequence[ScannedVm]) -> None:
    print_table(COLUMNS, [_row(vm) for vm in scanned], EXPENDABLE)
    free = [vm for vm in scanned if vm.option is not None and vm.adopted_by is None]
    if free and sys.stdout.isatty():
        print("\nAdopt them in a vnic that starts:")
        print(f"  vnic run -name lab {one_line(' '.join(str(vm.option) for vm in free))}")
        print("or in one that runs:")
        print(f"  vnic adopt {' '.join(vm.id for vm in free)}")
    else:
        for vm in free:
            print(one_line(str(vm.option)))
    sys.stdout.flush()


def _row(vm: ScannedVm) -> tuple[str, ...]:
    return (
        vm.id,
        vm.type,
        vm.state,
        "-" if vm.pid is None else str(vm.pid),
        vm.options.get("qmp") or vm.options.get("uri") or "-",
        "-" if vm.adopted_by is None else f"{vm.adopted_by}, as {vm.adopted_as}",
        vm.problem or "-",
    )


# -- adopt and release ----------------------------------------------------------------------------------------------


async def _adopt(args: argparse.Namespace) -> int:
    problems: list[str] = []
    found: list[FoundVm] = []
    if not all("/" in vm for vm in args.vms):
        found, problems = await _find(args.uri)
    vms = [_by_path(vm) if "/" in vm else _choose(found, vm, problems) for vm in args.vms]
    if args.id is not None:
        vms = [msgspec.structs.replace(vm, id=args.id) for vm in vms]
    async with session(args) as qmp:
        there = {key: vm_id for vm_id, key in await _adopted(qmp)}
        done = []
        for vm in vms:
            if _key(vm) in there:
                raise Refused(f"'{vm.name}' is adopted already, as {there[_key(vm)]}")
            if vm.problem is not None:
                raise Refused(f"'{vm.name}' cannot be adopted: {vm.problem}")
            await qmp.execute_with("object-add", {"qom-type": vm.type, "id": vm.id, **vm.options})
            done.append(vm.id)
        nics, texts = await _nics(qmp, done)
    if args.json:
        print_json(msgspec.to_builtins([AdoptedVm(id=each, nics=nics[each]) for each in done]))
        return 0
    for each in done:
        print(one_line(f"{each}: {', '.join(nics[each]) or texts[each]}"))
    return 0


def _by_path(path: str) -> FoundVm:
    """The VM behind a QMP socket."""
    name = os.path.basename(path).partition(".")[0]
    vm_id = "".join(char for char in name if char.isascii() and (char.isalnum() or char in "-_"))
    return FoundVm(
        id=vm_id if vm_id[:1].isalpha() else f"vm{vm_id}",
        type="qemu",
        name=path,
        state="unknown",
        options={"qmp": os.path.abspath(path)},
    )


def _choose(found: Sequence[FoundVm], vm: str, problems: Sequence[str]) -> FoundVm:
    """The one that is meant."""
    matching = [each for each in found if vm == each.id]
    if not matching:
        matching = [each for each in found if vm in (each.name, str(each.pid))]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise Refused(f"several VMs are named '{vm}': {_listed(matching)}")
    others = f"; there are {_listed(found)}" if found else ""
    raise Refused("; ".join([f"no VM of this host is named '{vm}'{others}", *problems]))


def _listed(found: Iterable[FoundVm]) -> str:
    return ", ".join(f"{each.id} ({each.type}, {each.where})" for each in found)


async def _nics(qmp: Session, ids: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The NICs of each, for which the VMs have some time, and what is known of each VM."""
    loop = asyncio.get_running_loop()
    end = loop.time() + NICS_TIMEOUT_S
    while True:
        links: list[Entry] = await qmp.links()
        nics = {each: [link["name"] for link in links if link["name"].startswith(f"{each}/")] for each in ids}
        texts = {each: await _status(qmp, each) for each in ids}
        if loop.time() > end or all(nics[each] or texts[each].startswith(NOT_THERE) for each in ids):
            return nics, texts
        await asyncio.sleep(NICS_POLL_S)


async def _status(qmp: Session, vm_id: str) -> str:
    return str(await qmp.execute("qom-get", path=f"/objects/{vm_id}", property="status"))


async def _release(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        adopted = [vm_id for vm_id, _ in await _adopted(qmp)]
        for each in args.vms:
            if each not in adopted:
                others = f"; there are {', '.join(adopted)}" if adopted else ""
                raise Refused(f"no adopted VM has the id '{each}'{others}")
            await qmp.execute("object-del", id=each)
    if args.json:
        print_json(msgspec.to_builtins([AdoptedVm(id=each, nics=[]) for each in args.vms]))
    return 0
