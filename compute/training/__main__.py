"""Command line of the training: `python -m compute.training --help`."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(
    "Make the bundled models from scratch. Text to image: run `train` and `decoder` on the same folder (in any order, "
    "or side by side), then `export`. The others: `small` and a name."))  # fmt: skip

Work = Annotated[Path, typer.Option(help="Folder for checkpoints and exports.")]
Threads = Annotated[int, typer.Option(help="Threads for the arithmetic.", min=1)]


@app.command()
def train(
    work: Work = Path(".training"),
    minutes: Annotated[float, typer.Option(help="Training time over all resumes.")] = 100.0,
    threads: Threads = 2,
    batch: Annotated[int, typer.Option(help="Pictures in a step.", min=3)] = 48,
    seed: int = 1,
) -> None:
    """Train text encoder and denoiser; run it again to go on after a stop."""
    from compute.training.train import Settings, Trainer

    torch.set_num_threads(threads)
    Trainer(
        Settings(work=work, minutes=minutes, batch=batch, seed=seed), say=lambda line: print(line, flush=True)
    ).run()


@app.command()
def decoder(
    work: Work = Path(".training"),
    minutes: Annotated[float, typer.Option(help="Training time over all resumes.")] = 40.0,
    threads: Threads = 1,
) -> None:
    """Train the decoder of the picture code; may run beside `train`."""
    from compute.training import decoder as training
    from compute.training.train import prepare

    torch.set_num_threads(threads)
    training.train(work, prepare(work)[1], minutes, say=lambda line: print(line, flush=True))


@app.command()
def export(
    work: Work = Path(".training"),
    to: Annotated[Path, typer.Option(help="The diffusers folder to write.")] = Path("compute/models/tiny"),
) -> None:
    """Write the averaged weights of the last checkpoint and the trained decoder as one folder with its model card."""
    from diffusers import AutoencoderTiny

    from compute.training import card
    from compute.training import decoder as training
    from compute.training.train import Settings, Trainer

    trainer = Trainer(Settings(work=work, minutes=0.0))
    trainer.export(to)
    quality = training.evaluate(AutoencoderTiny.from_pretrained(work / "vae"))
    card.write(to, card.Run(trainer.step, trainer.samples, trainer.seconds / 60, quality))


class Small(StrEnum):
    """A model that is one run: the value of `_MODULES` makes its course."""

    LISTENER = "listener"
    DESCRIBER = "describer"
    SEGMENTER = "segmenter"
    MOVER = "mover"
    UPSCALER = "upscaler"


_MODULES = {
    Small.LISTENER: "compute.training.listening",
    Small.DESCRIBER: "compute.training.describing",
    Small.SEGMENTER: "compute.training.outlining",
    Small.MOVER: "compute.training.moving",
    Small.UPSCALER: "compute.training.upscaling",
}


@app.command()
def small(
    name: Small,
    work: Work = Path(".training"),
    minutes: Annotated[float, typer.Option(help="Processor minutes over all resumes.")] = 12.0,
    threads: Threads = 1,
    to: Annotated[Path, typer.Option(help="Where the finished model's folder goes.")] = Path("compute/models"),
) -> None:
    """Train one small model, or go on after a stop, and write it with its card."""
    from compute.training import course, smallcards

    torch.set_num_threads(threads)
    made = importlib.import_module(_MODULES[name]).course(work / name, minutes, lambda line: print(line, flush=True))
    smallcards.publish(name, work / name / "export", to / f"tiny-{name}", course.run(made))


@app.command()
def utterances(
    to: Annotated[Path, typer.Option(help="Folder for the WAV files and texts.json.")],
    count: Annotated[int, typer.Option(help="How many sentences.", min=1)] = 12,
    seed: str = "vectors",
) -> None:
    """Have held-out sentences said by espeak-ng, for tests on machines without it."""
    from compute.training import saying

    saying.write(to, count, seed)


if __name__ == "__main__":
    app()
