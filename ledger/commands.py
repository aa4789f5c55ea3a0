"""Commands of the ledger: ``devchain``. They only parse and call; node.py joins them and brings the port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ledger.devchain import main

app = typer.Typer()

PORT = 4702  # where nobody configured another one


@app.command()
def devchain(
    context: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(help="Port on 127.0.0.1; 0 takes a free one; else 1 above PASAR_LOCAL_PORT.", min=0, max=65535),
    ] = None,
    linger: Annotated[
        float | None, typer.Option(help="End after so many seconds without a request, and on no signal.", min=1)
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory for its log, devchain.log; nothing else of a chain is kept.")
    ] = None,
) -> None:
    """Run a development chain: a fresh settlement with a broker and a faucet, whose money is worth nothing."""
    if port is None:
        port = context.obj() if callable(context.obj) else PORT
    raise typer.Exit(main(port, linger, data_dir))
