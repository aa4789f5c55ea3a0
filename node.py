"""Pasar's one program: parse, check, build, run. Roles with ``--role``, everything else as a command.

    python node.py --role orchestrator|gateway|bootstrap      a node, until it is told to stop
    python node.py bid text-to-image --prompt "a red circle"   a light client
    python node.py --help                                      all commands

Nobody imports this file: it is the only one that joins network, ledger, compute and market.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

import ledger.commands
import market.commands
import market.live_commands
import market.wallet_commands
import market.worker_commands
from market.config import ROLES, Config, load_config
from market.console import configure_logs, run_app
from market.instance import claim
from market.lifeline import Lifeline
from market.servicenotice import ServiceNotice
from market.supervisor import Supervisor
from p2p.errors import Misconfigured

if TYPE_CHECKING:
    from compute.fleet import Fleet
    from market.instance import Instance

# What only some commands need is imported where they begin: `--help` and `devchain` load no network.


def machine_of(config: Config, instance: Instance, keeper: int = 0) -> Fleet:
    """The workers of an orchestrator, one for each device; ``keeper`` would restart this node."""
    from market.devices import fleet_of

    return fleet_of(config, instance.path, keeper)


def role_library() -> ModuleType:
    """What a node is made of, imported in the node alone: its supervisor needs none of it."""
    return import_module("market.roles")


def chain_port() -> int:
    """Where the development chain of this configuration answers: a command that needs it asks."""
    return load_config().chain_port


app = typer.Typer(
    name="pasar",
    help="A peer-to-peer market for AI compute. Start a node with --role, or use one of the commands.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (
    market.commands.app,
    market.live_commands.app,
    market.worker_commands.app,
    market.wallet_commands.app,
    ledger.commands.app,
):
    app.registered_commands += part.registered_commands
    app.registered_groups += part.registered_groups


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    role: Annotated[str | None, typer.Option(help="orchestrator, gateway or bootstrap.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this node; else the first free one.")] = None,
    listen: Annotated[list[str] | None, typer.Option(help="Multiaddr to listen on; may be repeated.")] = None,
    announce: Annotated[list[str] | None, typer.Option(help="Multiaddr under which others reach us.")] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: Annotated[str | None, typer.Option(help="Name of the network; main.")] = None,
    mdns: Annotated[
        bool | None, typer.Option(help="Find and be found on the LAN; else where it listens there.")
    ] = None,
    rpc: Annotated[str | None, typer.Option(help="JSON-RPC of the chain; else the development chain here.")] = None,
    broker: Annotated[str | None, typer.Option(help="Address of the broker contract.")] = None,
    http: Annotated[str | None, typer.Option(help="HOST:PORT of the HTTP face, on loopback.")] = None,
    price: Annotated[str | None, typer.Option(help="Wei per million units; also 500gwei.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to serve: bundled, a folder, ORG/NAME[@REVISION]; may be repeated.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="auto, cpu, cuda:1, mps, or HOST:PORT for workers of other hosts; may be repeated."),
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What loaded models may take: 6GB; else a share.")] = None,
    pulls: Annotated[
        bool | None, typer.Option("--pulls/--no-pulls", help="Fetch models that are missing from the hub.")
    ] = None,
    log_json: Annotated[bool | None, typer.Option("--log-json", help="Logs as JSON lines.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every message, on stderr.")] = False,
    supervised: Annotated[
        bool, typer.Option("--supervisor/--no-supervisor", help="Restart the node when it dies or hangs.")
    ] = True,
) -> None:
    """Start a node with --role, or use one of the commands."""
    quiet = context.invoked_subcommand is not None
    context.obj = chain_port
    configure_logs(as_json=bool(log_json), level="debug" if verbose else "warning" if quiet else "info")
    if role is None:
        if not quiet:
            raise Misconfigured("name a --role (orchestrator, gateway, bootstrap) or a command; --help lists them")
        return
    if quiet or role not in ROLES:
        raise Misconfigured(f"role: {role!r} is none of orchestrator, gateway, bootstrap")
    config = load_config(
        data_dir=data_dir,
        listen=tuple(listen or ()),
        announce=tuple(announce or ()),
        bootstrap=tuple(bootstrap or ()),
        network=network,
        mdns=mdns,
        rpc=rpc,
        broker=broker,
        http=http,
        price=price,
        models=tuple(model or ()),
        devices=tuple(device or ()),
        shelf={name: told for name, told in (("memory", memory), ("pulls", pulls)) if told is not None},
        log_json=log_json,
    )
    instance = claim(config.home, config.network, role, config.data_dir)
    lifeline = Supervisor(role_library).run() if supervised else Lifeline(notice=ServiceNotice.take(os.environ))
    role_library().run_role(config, role, partial(machine_of, keeper=lifeline.keeper), instance, lifeline)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; the exit code: 0 done, 2 bad usage or configuration, 3 no match, 4 failed, 5 no gateway."""
    return run_app(app, argv)


if __name__ == "__main__":
    sys.exit(main())
