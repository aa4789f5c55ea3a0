"""Command line of the training: `python -m compute.training --help`."""

from pathlib import Path
from typing import Annotated

import torch
import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(
    "Make the bundled text-to-image model from scratch. Run `train` and `decoder` on the same folder (in any order, or "
    "side by side), then `export`."))  # fmt: skip

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


if __name__ == "__main__":
    app()
