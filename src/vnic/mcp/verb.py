"""`vnic mcp [--allow-write]`: serve MCP on stdin and stdout. `cli.main` calls it; the SDK is imported late."""

from __future__ import annotations

import argparse
import sys

from vnic.cli.client import add_instance_options

EXIT_REFUSED = 1


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "mcp",
        help="serve the Model Context Protocol to an agent, on stdio",
        description="Serve the Model Context Protocol on stdin and stdout: an agent asks about links, why they are as"
        " they are, and what happened. Each answer has the change's id, its cause, and what the guest saw and when.",
    )
    parser.add_argument(
        "--allow-write",
        action="store_true",
        help="the agent may also set links, impair and flap them; else it only asks",
    )
    add_instance_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from vnic.mcp.server import make_server
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("mcp", "mcp_types", "pydantic", "anyio"):
            raise
        print("vnic: mcp needs the MCP SDK: pip install 'vnic[mcp]'", file=sys.stderr)
        return EXIT_REFUSED
    make_server(args.name, args.qmp, allow_write=args.allow_write).run("stdio")
    return 0
