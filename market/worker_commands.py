"""Command ``worker``: lends a device of this host to an orchestrator on another one.

It parses, opens the key, and runs the outpost. What happens is told on stderr.
"""

from __future__ import annotations

import re
import secrets
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import trio
import typer

from market.config import load_config
from p2p.errors import Misconfigured

app = typer.Typer()
INSTANCE_FILE = "instance"
NAME = re.compile(r"[A-Za-z0-9-]{1,32}")


@app.command()
def worker(
    connect: Annotated[str, typer.Option(help="HOST:PORT of the orchestrator, as in its --device.")],
    key: Annotated[Path, typer.Option(help="Its file worker.key, copied here; readable by you alone.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:1, mps.")] = "auto",
    name: Annotated[
        str | None, typer.Option(help="What this worker is called there; else the host and device.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model that it could serve: bundled, a folder, ORG/NAME; may be repeated.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What loaded models may take: 6GB; else a share.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this worker; else one by its name.")] = None,
) -> None:
    """Lend a device of this host to an orchestrator on another one, until Ctrl-C."""
    from compute.joinkey import read_join_key
    from compute.outpost import Door, Outpost
    from compute.served import serve
    from market.config import is_doorway
    from market.devices import wanted, worker_configs
    from market.instance import claim

    if not is_doorway(connect):
        raise Misconfigured(f"connect: {connect!r} is no HOST:PORT")
    if name is not None and not NAME.fullmatch(name):
        raise Misconfigured(f"name: {name!r} is not of 1 to 32 letters, digits and -")
    told = {"memory": memory} if memory is not None else {}
    config = load_config(data_dir=data_dir, models=tuple(model or ()), devices=(device,), shelf=told)
    called, join_key = name or _called(device), read_join_key(key)
    host, _, port = connect.rpartition(":")
    instance = claim(config.home, "workers", called, config.data_dir)
    try:
        served = serve(wanted(config, instance.path))
        own = replace(worker_configs(config, instance.path, (device,))[0], checking=served.checking)
        door = Door(host.strip("[]"), int(port), join_key, called, _instance_of(instance.path))
        outpost = Outpost(own, door, {entry.model: Path(entry.folder) for entry in served.entries}, _say)
        trio.run(_until_told, outpost)
    finally:
        instance.release()


async def _until_told(outpost: object) -> None:
    """Ctrl-C and SIGTERM end it in order."""
    from compute.outpost import Outpost

    assert isinstance(outpost, Outpost)
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            nursery.start_soon(outpost.run)
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def _called(device: str) -> str:
    host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname().partition(".")[0])
    return f"{host[:20] or 'host'}-{device.replace(':', '')}"[:32]


def _instance_of(folder: Path) -> bytes:
    """Sixteen bytes that are this directory's for ever. Raises Misconfigured."""
    path = folder / INSTANCE_FILE
    try:
        if not path.exists():
            path.write_bytes(secrets.token_bytes(16))
        found = path.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"data-dir: {path} cannot be used: {exc.strerror}") from exc
    if len(found) != 16:
        raise Misconfigured(f"data-dir: {path} is not what we wrote; remove it")
    return found


def _say(text: str) -> None:
    print(f"pasar worker: {text}", file=sys.stderr, flush=True)
