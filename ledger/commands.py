"""Commands of the ledger: ``devchain``. They only parse and call; node.py joins them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ledger.devchain import main

app = typer.Typer()


@app.command()
def devchain(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 4702,
    linger: Annotated[
        float | None, typer.Option(help="End after so many seconds without a request, and on no signal.", min=1)
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory for its log, devchain.log; nothing else of a chain is kept.")
    ] = None,
) -> None:
    """Run a development chain: a fresh settlement with a broker and a faucet, whose money is worth nothing."""
    raise typer.Exit(main(port, linger, data_dir))
