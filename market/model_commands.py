"""Commands ``models ...``: what the market offers, what this machine has, fetching, pinning, measuring, removing.

They parse, ask, and show. Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from compute.spec import TEXT_TO_IMAGE
from compute.yardstick import MEASURES
from ledger.money import wei_text
from market.config import Config, load_config
from market.console import nobody, show_table
from p2p.errors import Misconfigured

models = typer.Typer(help="Models on offer, and the models of this machine.", invoke_without_command=True)

NetworkOption = Annotated[str | None, typer.Option(help="Name of the network.")]
DataDirOption = Annotated[Path | None, typer.Option(help="Directory of the node.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One value on stdout.")]
RefArgument = Annotated[str, typer.Argument(help="A bundled model, a folder, or ORG/NAME with an optional @REVISION.")]


@models.callback()
def on_offer(
    context: typer.Context,
    pipeline: Annotated[str, typer.Option(help="What kind of work.")] = TEXT_TO_IMAGE,
    local: Annotated[bool, typer.Option("--local", help="The same as `models list`.")] = False,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: NetworkOption = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this client.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models on offer in the market, the most offered first; or a command for those of this machine."""
    if context.invoked_subcommand is not None:
        return
    config = load_config(data_dir=data_dir, bootstrap=tuple(bootstrap or ()), network=network)
    if local:
        _show(_local(config), as_json)
        return
    from market.looking import model_as_dict, models_on

    known = trio.run(models_on, config, pipeline)
    if known is None:
        raise nobody()
    _show([model_as_dict(model) for model in known], as_json)


@models.command("list")
def list_models(
    model: Annotated[list[str] | None, typer.Option(help="As a node would be told; else the configuration.")] = None,
    network: NetworkOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """The models of this machine: served, pulled, their licence, size, hash, and where a running node has them."""
    _show(_local(load_config(data_dir=data_dir, network=network, models=tuple(model or ()))), as_json)


@models.command()
def pull(
    model: Annotated[str, typer.Argument(help="ORG/NAME of the hub, with an optional @REVISION.")],
    network: NetworkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model from the hub: safetensors and configurations only; goes on where an earlier try stopped."""
    from compute.modelref import HubModel
    from compute.pulling import pull as fetch
    from market.modeldoor import cache_of, store_of

    config = load_config(network=network)
    store = store_of(config)
    ref = store.parse(model)
    if not isinstance(ref, HubModel):
        raise Misconfigured(f"{model} is on this machine already")
    with _bar() as tell:
        pulled = fetch(ref, store, cache_of(config), config.shelf.disk, _say, tell)
    entry = pulled.entry
    shown = {
        "model": str(ref),
        "commit": pulled.commit,
        "pipeline": entry.pipeline,
        "model_hash": entry.model.hex(),
        "licence": entry.licence,
        "weight_bytes": entry.weight_bytes,
        "folder": entry.folder,
    }
    if as_json:
        print(json.dumps(shown))
        return
    for key, value in shown.items():
        print(f"{key:14} {value or '-'}")
    _say(f"serve it with --model {ref}, or keep it loaded with: models pin {ref}")


@models.command()
def pin(model: RefArgument, network: NetworkOption = None, data_dir: DataDirOption = None) -> None:
    """Serve a model and keep it loaded, whatever else needs memory."""
    _order_pin(load_config(network=network, data_dir=data_dir), model, pinned=True)


@models.command()
def unpin(model: RefArgument, network: NetworkOption = None, data_dir: DataDirOption = None) -> None:
    """Let a pinned model go when its memory is needed."""
    _order_pin(load_config(network=network, data_dir=data_dir), model, pinned=False)


@models.command()
def bench(
    model: Annotated[
        list[str] | None, typer.Argument(help="Bundled models, folders, ORG/NAME; else all that a node would serve.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps of each job.", min=1, max=4096)] = 20,
    jobs: Annotated[int, typer.Option(help="Warm jobs to measure.", min=1, max=1000)] = 3,
    price: Annotated[str | None, typer.Option(help="Wei per million units; also 500gwei.")] = None,
    network: NetworkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run real jobs on this machine: what a unit costs here beside text-to-image, and what an hour would earn."""
    from compute.modelfolder import bundled_names
    from compute.served import installed
    from market.modelbench import bench as measure
    from market.modeldoor import cache_of, store_of

    config = load_config(network=network, price=price)
    names = tuple(model or ()) or config.models or installed(bundled_names(), cache_of(config))
    folders = [store_of(config).require(name) for name in names]
    found = trio.run(measure, config, folders, steps, jobs, _say)
    if as_json:
        shown = [one.as_dict() for one in found]
        print(json.dumps(shown[0] if len(names) == 1 else shown))
        return
    for one in found:
        print(f"{one.name} ({one.pipeline}) on {one.device}: {one.units_per_second / 1e6:.2f} million units/s")
        per = f"{one.unit_ps / 1e12:.3g} s a unit, {one.relative_cost:.3g} times one of {TEXT_TO_IMAGE}"
        print(f"  {per}; a unit is {MEASURES[one.pipeline].unit}")
        print(f"  {one.job}: {min(one.job_ms)} ms; memory {one.memory / 1e6:.0f} MB")
        print(f"  load {one.load_ms} ms, from a cold start {one.cold_ms} ms")
        print(f"  at {wei_text(one.price)} per million units: {wei_text(one.wei_per_hour)} an hour, when always busy")


@models.command()
def remove(
    model: Annotated[str, typer.Argument(help="ORG/NAME of a pulled model; all its revisions go.")],
    network: NetworkOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Delete a pulled model from this machine."""
    from compute.modelref import HubModel
    from market.modeldoor import in_use, store_of

    config = load_config(network=network, data_dir=data_dir)
    store = store_of(config)
    ref = store.parse(model)
    if not isinstance(ref, HubModel):
        raise Misconfigured(f"{model} was not pulled: what is bundled or in a folder of yours is not removed")
    user = trio.run(in_use, config, ref)
    if user:
        raise Misconfigured(f"{ref.repo} is {user}; unpin it, or stop the node, first")
    print(f"removed {ref.repo}: {store.remove(ref) / 1e6:.1f} MB are free")


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, with the bytes of each large file; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, have: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=size)
            bar.update(tasks[name], completed=have)

        yield tell


def _order_pin(config: Config, model: str, *, pinned: bool) -> None:
    from market.modeldoor import PinOrder, order_pin

    named = str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model
    path, running, now = trio.run(order_pin, config, PinOrder(named, pinned))
    done = "pinned" if pinned else "unpinned"
    when = "now" if now else "from the next start on" if running else "when a node starts there"
    print(f"{named} is {done} in {path}, {when}")


def _local(config: Config) -> list[dict[str, object]]:
    from market.localmodels import local_models

    return trio.run(local_models, config)


def _show(found: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
    else:
        show_table(tuple(found[0]) if found else ("model",), [tuple(map(_cell, row.values())) for row in found])


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
