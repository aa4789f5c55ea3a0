"""Commands of the market: ``bid``, ``offers``, ``models``, ``verify``, ``demo``. They parse, call, and show.

Results go to stdout, progress and logs to stderr. What a command needs is imported where it begins: the network's
library takes a second to import, and a mistake on the command line should not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import trio
import typer

import market.model_commands
from ledger.money import parse_wei
from market.bid import Prefer
from market.config import load_config
from market.console import Exit, configure_logs, nobody, read_file, show_table
from p2p.errors import Misconfigured

app = typer.Typer()
app.add_typer(market.model_commands.models, name="models")
MAX_PROMPT_FILE = 64 * 1024


@app.command()
def bid(
    pipeline: Annotated[str, typer.Argument(help="text-to-image, image-to-image, image-to-video, upscale, and more.")],
    prompt: Annotated[str | None, typer.Option(help="What the picture shows.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File with the prompt.")] = None,
    file: Annotated[Path | None, typer.Option(help="The picture, sound or film that is worked on.")] = None,
    frames: Annotated[int, typer.Option(help="Of a clip; 0: sixteen.", min=0)] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: an option of the pipeline, as box=[8,8,40,40].")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What it must not show.")] = "",
    width: Annotated[int, typer.Option(help="Pixels, a multiple of 8; 0: the model's own.", min=0)] = 0,
    height: Annotated[int, typer.Option(help="Pixels, a multiple of 8; 0: the model's own.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps.", min=1, max=4096)] = 20,
    guidance: Annotated[
        float, typer.Option(help="How closely to follow the prompt; 1 or less: not guided.", min=0)
    ] = 4.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture.", min=0)] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model, or the head of its hash.")] = None,
    limit: Annotated[str | None, typer.Option(help="The most it may cost: wei, 0.001eth, 500gwei.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds it may take.", min=0.001, max=86_400)] = 120.0,
    price_of_time: Annotated[str | None, typer.Option(help="What a second of waiting is worth, in wei.")] = None,
    prefer: Annotated[Prefer, typer.Option(help="speed or price.")] = Prefer.SPEED,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a place until the deadline.")] = False,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: Annotated[str | None, typer.Option(help="Name of the network.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this client.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the result goes; pasar-JOB.png or as it ends.")] = None,
    finish: Annotated[str, typer.Option(help="2x: have the picture made twice as large by a second bid.")] = "",
    previews: Annotated[Path | None, typer.Option(help="Folder for small pictures while it is made.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object on stdout, progress as JSON on stderr.")] = False,
) -> None:
    """Have one job done: finds a gateway, follows the auction and the work, checks the result and its Receipt."""
    from market.asking import ask
    from market.bidding import Errand, run_bid
    from market.client import Wish

    config = load_config(data_dir=data_dir, bootstrap=tuple(bootstrap or ()), network=network)
    wish = Wish(
        prompt=_prompt(prompt, prompt_file),
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance=_thousandths(guidance, "guidance"),
        seed=seed,
        model=model,
        limit=parse_wei(limit) if limit else 0,
        deadline_ms=max(1, _thousandths(deadline, "deadline")),
        price_of_time=parse_wei(price_of_time) if price_of_time else None,
        prefer=prefer,
        wait=wait,
        length=frames,
    )
    if limit and not wish.limit:
        raise Misconfigured("limit: a job for nothing is nobody's; leave the flag out to take twice the cheapest offer")
    if as_json:
        configure_logs(as_json=True, level="warning")  # stderr is JSON lines, warnings too
    asked = ask(pipeline, wish, file, option or (), previews=previews is not None)
    errand = Errand(pipeline, asked.wish, out, as_json, asked.files, asked.names, finish, previews)
    code = trio.run(run_bid, config, errand)
    if code:
        raise Exit(code)


@app.command()
def verify(
    receipt: Annotated[Path, typer.Argument(help="The Receipt that came with the result.")],
    files: Annotated[list[Path], typer.Argument(help="The result; all files of it, in their order.")],
    steps: Annotated[
        int, typer.Option(help="Have so many drawn steps run again; of a job without steps the whole.", min=0, max=8)
    ] = 0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Have the whole job run again, also where its trace is gone.")
    ] = False,
    own: Annotated[bool, typer.Option("--own", help="Run them again on this machine, instead of buying that.")] = False,
    job: Annotated[Path | None, typer.Option(help="What was asked; else it is looked for beside the Receipt.")] = None,
    inputs: Annotated[list[Path] | None, typer.Option("--input", help="A file that the job worked on.")] = None,
    limit: Annotated[str | None, typer.Option(help="The most that one verdict may cost.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds that one may take.", min=1, max=86_400)] = 120.0,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: Annotated[str | None, typer.Option(help="Name of the network.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this client.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object on stdout.")] = False,
) -> None:
    """Check a Receipt against its files: signatures and digests, alone; with --steps also the work itself."""
    from market.verifying import Proof, Wanted, verify_alone, verify_work

    proof = Proof(receipt, tuple(files), job, tuple(inputs or ()))
    if not steps and not whole:
        code = verify_alone(proof, as_json=as_json)
    else:
        config = load_config(data_dir=data_dir, bootstrap=tuple(bootstrap or ()), network=network)
        wanted = Wanted(steps, whole, own, parse_wei(limit) if limit else 0, round(deadline * 1000))
        code = verify_work(config, proof, wanted, as_json=as_json)
    if code:
        raise Exit(code)


@app.command()
def offers(
    pipeline: Annotated[str | None, typer.Option(help="Of this kind of work only.")] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: Annotated[str | None, typer.Option(help="Name of the network.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this client.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One array on stdout.")] = False,
) -> None:
    """List what is on offer, pipeline by pipeline: models, sizes, prices, who sells."""
    from market.looking import HEADINGS, offers_on
    from market.rolekit import PIPELINES

    config = load_config(data_dir=data_dir, bootstrap=tuple(bootstrap or ()), network=network)
    rows = trio.run(offers_on, config, (pipeline,) if pipeline else PIPELINES)
    if rows is None:
        raise nobody()
    if as_json:
        print(json.dumps([row.as_dict() for row in rows]))
    else:
        show_table(HEADINGS, [row.cells() for row in rows])
        print(f"{len(rows)} on offer; typical jobs:")
        for name, job in sorted({(row.offer.pipeline, row.typical) for row in rows}):
            print(f"  {name}: {job}")


@app.command()
def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="One object on stdout at the end, the story on stderr.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the market running until Ctrl-C.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("pasar-demo"),
) -> None:
    """A whole market on this machine: chain, bootstrap, two orchestrators, a gateway, three bids, and the money."""
    from market.demo import Plan, run_demo

    code = run_demo(Plan(as_json, keep, folder))
    if code:
        raise Exit(code)


def _thousandths(value: float, name: str) -> int:
    if not math.isfinite(value):
        raise Misconfigured(f"{name}: {value} is no number to count with")
    return round(value * 1000)


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise Misconfigured("name the prompt with --prompt, or a file with --prompt-file, not with both")
    if file is None:
        return prompt or ""
    try:
        return read_file(file, MAX_PROMPT_FILE).decode().strip()
    except UnicodeDecodeError as exc:
        raise Misconfigured(f"prompt-file: {file} is no text in UTF-8") from exc
