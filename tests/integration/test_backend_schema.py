"""Our netdev options beside a real QEMU's: its query-qmp-schema has no member that ours lack or type otherwise."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from msgspec import inspect
from tests.needs import need

from vnic.backend import netdev_structs

GONE = {("stream", "reconnect")}
"""What QEMU had for a while and newer ones have no more."""


def qemu_schema() -> dict[str, dict[str, Any]]:
    need("qemu")
    words = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    script = "".join(
        json.dumps({"execute": command}) + "\n"
        for command in ("qmp_capabilities", "query-qmp-schema", "quit")
    )
    done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=100, check=True)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    entries = next(reply["return"] for reply in replies if isinstance(reply.get("return"), list))
    return {entry["name"]: entry for entry in entries}


def kind_of_qemus(schema: dict[str, dict[str, Any]], name: str) -> str:
    entry = schema[name]
    meta = str(entry["meta-type"])
    return str(entry["json-type"]) if meta == "builtin" else {"enum": "string"}.get(meta, meta)


def kind_of_ours(info: inspect.Type) -> str:
    if isinstance(info, inspect.UnionType):
        rest = [each for each in info.types if not isinstance(each, inspect.NoneType)]
        return kind_of_ours(rest[0])
    if isinstance(info, inspect.Metadata):
        return kind_of_ours(info.type)
    return {
        inspect.StrType: "string",
        inspect.BoolType: "boolean",
        inspect.IntType: "int",
        inspect.ListType: "array",
        inspect.StructType: "object",
    }[type(info)]


def test_members_and_types_are_those_of_qemus_schema() -> None:
    schema = qemu_schema()
    netdev = schema[schema["netdev_add"]["arg-type"]]
    compared = 0
    for variant in netdev["variants"]:
        struct = netdev_structs().get(variant["case"])
        if struct is None:
            continue
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        ours = {field.encode_name: field for field in info.fields}
        for member in schema[variant["type"]]["members"]:
            if (variant["case"], member["name"]) in GONE:
                continue
            where = f"{variant['case']}.{member['name']}"
            assert member["name"] in ours, where
            field = ours[member["name"]]
            assert field.required == ("default" not in member), where
            assert kind_of_ours(field.type) == kind_of_qemus(schema, member["type"]), where
            compared += 1
    assert compared > 50
