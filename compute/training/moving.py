"""Trains the image-to-video model: taking a still apart as the words say, and reading from them how it moves.

Every map that the network gives is known exactly from the world, and so is every frame. The text encoder starts from
that of the bundled text-to-image model. Knows no benchmark.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from compute.nets.layering import Layers, Splitter, compose, layers
from compute.training import motions, network, tokens
from compute.training.autoencoder import to_tensor
from compute.training.course import Course, Measured
from compute.training.motions import Clip
from compute.training.world import Canvas, plain, render

TINY: Final = Path(__file__).parent.parent / "models" / "tiny"
_SIZES: Final = ((64, 64, 28), (64, 64, 28), (96, 64, 18), (64, 64, 28), (64, 96, 18))
Drawn: TypeAlias = Callable[[Sequence[Canvas]], torch.Tensor]
_RATE: Final = 1.5e-3
_MEASURED: Final = 64
_CHOICE: Final = 5.0  # how much more it counts which of the things moves than that the background does not
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_DECODED_EVERY: Final = 7  # one still in this many went through the picture code, as generated ones have


@dataclass(frozen=True, slots=True)
class Part:
    """The examples of one step, row by row. `front_known` is one where something moves and so may be hidden."""

    still: torch.Tensor
    clean: torch.Tensor
    frame: torch.Tensor
    part: torch.Tensor
    ids: torch.Tensor
    steering: torch.Tensor
    truth: Layers
    front_known: torch.Tensor


class Mover(nn.Module):
    """Text encoder and splitter, trained as one."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.text, self.splitter = text, Splitter()

    def forward(self, still: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        read = self.text(ids)
        words, gist = read.last_hidden_state, read.pooler_output
        return self.splitter(still, words, gist), self.splitter.steer(gist)


class Source:
    """Makes the examples of any step. Invariant: the same step gives the same part, in any process."""

    def __init__(self, tokenizer: CLIPTokenizer, vae: AutoencoderTiny) -> None:
        self._tokenizer, self._vae = tokenizer, vae

    def __call__(self, step: int) -> Part:
        rng = Random(f"moving:{step}")
        width, height, count = _SIZES[step % len(_SIZES)]
        clips = [motions.clip(rng) for _ in range(count)]
        return self.part(clips, [rng.random() for _ in clips], width, height)

    def part(self, clips: Sequence[Clip], parts: Sequence[float], width: int, height: int) -> Part:
        """What is to be learnt from these clips."""

        def drawn(canvases: Sequence[Canvas]) -> torch.Tensor:
            return to_tensor([render(canvas, width, height) for canvas in canvases])

        clean = drawn([made.at(0.0) for made in clips])
        still = clean.clone()
        with torch.no_grad():
            some = self._vae.encode(clean[::_DECODED_EVERY]).latents
            some = some + torch.randn(some.shape, generator=torch.Generator().manual_seed(len(clips))) * 0.02
            still[::_DECODED_EVERY] = self._vae.decode(some).sample.clamp(-1, 1)
        ids = torch.tensor(tokens.token_ids(self._tokenizer, [made.prompt for made in clips]))
        return Part(
            still=still,
            clean=clean,
            frame=drawn([made.at(part) for made, part in zip(clips, parts, strict=True)]),
            part=torch.tensor(parts),
            ids=ids,
            steering=torch.tensor([steering_of(made) for made in clips]),
            truth=_truth(clips, clean, drawn),
            front_known=torch.tensor([float(made.moving) for made in clips])[:, None, None, None],
        )


def steering_of(made: Clip) -> tuple[float, ...]:
    """The motion as the compositor takes it, in the order of STEERING."""
    motion = made.motion
    return (*motion.pan, motion.zoom, *motion.drift)


def loss(net: nn.Module, part: Part) -> torch.Tensor:
    """Maps against the world's, steering against the motion, a frame against the frame."""
    maps, steering = net(part.still.contiguous(memory_format=torch.channels_last), part.ids)
    made, truth = layers(maps), part.truth
    total = 3 * _shares(made.moving, truth.moving, 1 + _CHOICE * truth.marks)
    total = total + _shares(made.front, truth.front, part.front_known) + _shares(made.marks, truth.marks)
    total = total + 3 * _colours(made.behind, truth.behind, truth.moving)
    total = total + 2 * _colours(made.plate, truth.plate, truth.marks) + 2 * (made.tint - truth.tint).abs().mean()
    frame = compose(part.clean, made, part.steering, part.part)
    steer = functional.smooth_l1_loss(steering, part.steering, beta=0.05)
    return total + 4 * (frame - part.frame).abs().mean() + 10 * steer


def course(work: Path, minutes: float, say: Callable[[str], None] = print) -> Course:
    """The run that makes the mover. Its tokenizer is made on first use and stays in the work folder."""
    torch.manual_seed(0)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(work)
    text = _text_encoder(tokenizer)
    text.config._attn_implementation = "eager"  # on a CPU the backward pass of the fused kernel takes longer
    mover = Mover(text)
    mover.splitter.to(memory_format=torch.channels_last)
    vae = AutoencoderTiny.from_pretrained(TINY / "vae", local_files_only=True, torch_dtype=torch.float32)
    source = Source(tokenizer, vae.requires_grad_(False))
    return Course(
        work=work,
        minutes=minutes,
        model=mover,
        loss=lambda model, step: loss(model, source(step)),
        measure=lambda model: measure(model, source),
        export=lambda model, folder: export(model, tokenizer, folder),
        rate=_RATE,
        look_minutes=3.0,
        say=say,
    )


@torch.no_grad()
def measure(mover: Any, source: Source) -> Measured:
    """The last frames of clips that no step has drawn, and how far off the motion is that was read from their words."""
    rng = Random("moving, measured")
    part = source.part([motions.clip(rng) for _ in range(_MEASURED)], [1.0] * _MEASURED, 64, 64)
    maps, steering = mover(part.clean, part.ids)
    frame = compose(part.clean, layers(maps), steering, part.part)
    errors = (frame - part.frame).square().mean(dim=(1, 2, 3)).clamp(min=1e-9)
    decibel = (10 * torch.log10(4 / errors)).mean().item()
    off = (steering - part.steering).abs()
    rates = {
        "last frames against the world's, mean dB": decibel,
        "motion read from the words off by, share of a side": off.amax(1).mean().item(),
    }
    return Measured(decibel, rates)


def export(mover: Any, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the weights in half precision, with tokenizer and text encoder."""
    shutil.rmtree(folder, ignore_errors=True)
    text = network.text_encoder(tokenizer)
    text.load_state_dict(mover.text.state_dict())
    text.to(torch.float16).save_pretrained(folder / "text_encoder", safe_serialization=True)
    network.rewrite(folder / "text_encoder" / "config.json", dtype="float32")
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "splitter").mkdir()
    weights = {name: value.half().contiguous() for name, value in mover.splitter.state_dict().items()}
    save_file(weights, folder / "splitter" / "model.safetensors")


def _tokenizer(work: Path) -> CLIPTokenizer:
    """One in which the words of motion are single tokens too, made on first use."""
    if not (work / "tokenizer").exists():
        rng = Random("words of motion")
        texts = [motions.clip(rng).prompt for _ in range(20_000)]
        tokens.build(texts + [motions.camera(rng)[0] for _ in range(5_000)]).save_pretrained(work / "tokenizer")
    return CLIPTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The bundled text encoder for a larger vocabulary: what both know starts from what was learnt."""
    known = CLIPTokenizer.from_pretrained(TINY / "tokenizer", local_files_only=True).get_vocab()
    bundled = CLIPTextModel.from_pretrained(TINY / "text_encoder", local_files_only=True, dtype=torch.float32)
    text, learnt = network.text_encoder(tokenizer), bundled.state_dict()
    rows = next(name for name in learnt if name.endswith("token_embedding.weight"))
    fresh = text.state_dict()[rows].clone()
    for piece, index in tokenizer.get_vocab().items():
        if piece in known:
            fresh[index] = learnt[rows][known[piece]]
    text.load_state_dict({**learnt, rows: fresh})
    return text


def _truth(clips: Sequence[Clip], clean: torch.Tensor, drawn: Drawn) -> Layers:
    """The world's layers. What is not there needs no drawing."""
    stills = [made.at(0.0) for made in clips]
    behind = [replace(still, marks=still.marks[: made.first] + still.marks[made.last :]) if made.moving else None
              for still, made in zip(stills, clips, strict=True)]  # fmt: skip
    behind_drawn = _or(clean, behind, drawn)
    evening = [motions.tinted(one, made.day, 1.0) if one and made.motion.dusk else None
               for one, made in zip(behind, clips, strict=True)]  # fmt: skip
    black = torch.full_like(clean, -1.0)
    moving = _share(_or(black, [_silhouette(made) if made.moving else None for made in clips], drawn))
    hiding = _share(_or(black, [_hiding(made) if made.moving else None for made in clips], drawn))
    white = [plain(_BLACK, tuple(replace(mark, colour=_WHITE) for mark in one.canvas.marks)) for one in clips]
    return Layers(
        moving=moving,
        front=hiding * (1 - moving),
        marks=_share(drawn(white)),
        behind=behind_drawn,
        plate=drawn([replace(one.canvas, marks=()) for one in clips]),
        tint=_or(behind_drawn, evening, drawn) - behind_drawn,
    )


def _or(default: torch.Tensor, canvases: Sequence[Canvas | None], drawn: Drawn) -> torch.Tensor:
    there = [index for index, canvas in enumerate(canvases) if canvas is not None]
    out = default.clone()
    if there:
        out[there] = drawn([canvas for canvas in canvases if canvas is not None])
    return out


def _silhouette(made: Clip) -> Canvas:
    """White where what moves is to be seen in the still."""
    marks = made.at(0.0).marks
    shown = [replace(mark, colour=_WHITE) for mark in marks[made.first : made.last]]
    return plain(_BLACK, (*shown, *(replace(mark, colour=_BLACK) for mark in marks[made.last :])))


def _hiding(made: Clip) -> Canvas:
    """White where it would be hidden."""
    later = tuple(replace(mark, colour=_WHITE) for mark in made.canvas.marks[made.last :])
    if not made.sinks:
        return plain(_BLACK, later)
    return Canvas(_BLACK, _BLACK, _WHITE, made.canvas.horizon, later)


def _share(drawn: torch.Tensor) -> torch.Tensor:
    return (drawn[:, :1] + 1) / 2


def _shares(made: torch.Tensor, truth: torch.Tensor, known: torch.Tensor | float = 1.0) -> torch.Tensor:
    made = made.clamp(1e-4, 1 - 1e-4)
    return (functional.binary_cross_entropy(made, truth, reduction="none") * known).mean()


def _colours(made: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    weight = functional.max_pool2d(where, 3, 1, 1) + 0.02
    return ((made - truth).abs() * weight).sum() / (3 * weight.sum())
