"""Trains text encoder and denoiser together on pictures drawn as they are needed, for a budget of wall minutes.

Resumable: what a step sees is a function of seed and step, so a checkpoint holds weights, averages, optimiser and
counters only. Knows no benchmark; what it must not train on is the rule in `captions`.
"""

import copy
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from diffusers import AutoencoderTiny
from transformers import CLIPTokenizer

from compute.training import autoencoder, network, tokens
from compute.training.captions import example
from compute.training.optimiser import Split
from compute.training.world import Pixels, render

SQUARE = (64, 64)
# Other sizes with as many pictures as cost about the same as a batch of small squares.
_OTHER_SIZES: Final = (
    (128, 128, 8), (128, 128, 8), (128, 128, 8), (96, 64, 20), (64, 128, 14), (128, 96, 10), (192, 128, 4),
    (192, 192, 3), (256, 256, 2), (256, 256, 2), (256, 256, 2), (256, 256, 2),
)  # fmt: skip
_EMPTY_CAPTIONS: Final = 0.1  # the share that teaches the unguided prediction
_FLAT_UNTIL: Final = 0.6  # share of the budget at full learning rate
_TIMES: Final = 1000
_EARLY_UNTIL, _EARLY_SHARE = 450, 0.25  # the share of training that the less noisy levels get
_EARLY_SHARE_LARGE: Final = (
    0.1  # many cells show through more noise, so a large picture is laid out at later levels still
)
_SAVE_EVERY_S: Final = 180.0
_PRINT_EVERY: Final = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is given. `minutes` counts training time over all resumes."""

    work: Path
    minutes: float
    batch: int = 48
    rate: float = 1.2e-3
    seed: int = 1
    export_minutes: float = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """Pictures of one size: codes and token ids, row by row of the same examples."""

    codes: torch.Tensor
    ids: torch.Tensor


class Source:
    """Makes the examples of any step. Invariant: the same seed and step give the same parts, in any process."""

    def __init__(self, code: autoencoder.PatchCode, tokenizer: CLIPTokenizer, batch: int, seed: int) -> None:
        self._code, self._tokenizer, self._batch, self._seed = code, tokenizer, batch, seed

    def parts(self, step: int) -> list[Part]:
        """Small squares; at every second step two thirds of them, and some pictures of another size."""
        rng = Random(f"{self._seed}:{step}")
        if step % 2 == 0:
            return [self._part(rng, *SQUARE, self._batch)]
        return [self._part(rng, *SQUARE, self._batch * 2 // 3), self._part(rng, *rng.choice(_OTHER_SIZES))]

    def _part(self, rng: Random, width: int, height: int, count: int) -> Part:
        examples = [example(rng) for _ in range(count)]
        captions = ["" if rng.random() < _EMPTY_CAPTIONS else made.caption for made in examples]
        pictures: list[Pixels] = [render(made.canvas, width, height) for made in examples]
        codes = self._code.encode(autoencoder.to_tensor(pictures))
        return Part(codes, torch.tensor(tokens.token_ids(self._tokenizer, captions)))


def prepare(work: Path, seed: int = 0) -> tuple[CLIPTokenizer, autoencoder.PatchCode]:
    """Tokenizer and picture code of this work folder, made on first use."""
    work.mkdir(parents=True, exist_ok=True)
    rng = Random(f"prepare:{seed}")
    if not (work / "tokenizer").exists():
        tokens.build(example(rng).caption for _ in range(30_000)).save_pretrained(work / "tokenizer")
    if not (work / "code.pt").exists():
        pictures = [render(example(rng).canvas, *SQUARE) for _ in range(6_000)]
        autoencoder.fit(autoencoder.to_tensor(pictures)).save(work / "code.pt")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
    return tokenizer, autoencoder.PatchCode.load(work / "code.pt")


def learning_rate(done: float, step: int, peak: float) -> float:
    """Warm-up over 200 steps, flat, then a straight fall to a fiftieth at the end of the budget."""
    fall = 1.0 if done < _FLAT_UNTIL else max(0.02, (1.0 - done) / (1.0 - _FLAT_UNTIL))
    return peak * min(1.0, (step + 1) / 200) * fall


def average_decay(step: int) -> float:
    """The averages look back over about a tenth of the run so far, at most 2000 steps."""
    return min(0.9995, (1 + step) / (10 + step), 1.0 - 8.0 / (step + 16))


def times_for(chance: torch.Tensor, early_share: float = _EARLY_SHARE) -> torch.Tensor:
    """A noise level for each picture, from chance in [0, 1): one from each of equal spans.

    Late levels get more than their share: there the picture must come from the text, and there is most to learn.
    """
    spread = (torch.arange(len(chance)) + chance) / len(chance)
    early = spread / early_share * _EARLY_UNTIL
    late = _EARLY_UNTIL + (spread - early_share) / (1 - early_share) * (_TIMES - _EARLY_UNTIL)
    return torch.where(spread < early_share, early, late).long().clamp(0, _TIMES - 1)


class Trainer:
    """One run in one work folder. Invariant: `step` steps have been applied to weights and averages alike."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = print) -> None:
        self._settings, self._say = settings, say
        self._tokenizer, self.code = prepare(settings.work)
        torch.manual_seed(settings.seed)
        self._text, self._unet = network.text_encoder(self._tokenizer), network.denoiser()
        network.prepare_for_training(self._unet, self._text)
        self._mean_text, self._mean_unet = copy.deepcopy(self._text), copy.deepcopy(self._unet)
        self._weights = [*self._unet.parameters(), *self._text.parameters()]
        self._means = [*self._mean_unet.parameters(), *self._mean_text.parameters()]
        self._optimiser = Split([*self._unet.named_parameters(), *self._text.named_parameters()], settings.rate)
        self._noise = network.schedule().alphas_cumprod
        self.step, self.samples, self.seconds = 0, 0, 0.0
        self._resume()

    def run(self) -> None:
        """Train until the budget is spent, saving and exporting on the way."""
        source = Source(self.code, self._tokenizer, self._settings.batch, self._settings.seed)
        budget, losses = self._settings.minutes * 60, [0.0]
        saved = exported = self.seconds
        with ThreadPoolExecutor(1) as pool:
            coming: Future[list[Part]] = pool.submit(source.parts, self.step)
            while self.seconds < budget:
                start = time.monotonic()
                parts, coming = coming.result(), pool.submit(source.parts, self.step + 1)
                losses.append(self._apply(parts, self.seconds / budget))
                self.seconds += time.monotonic() - start
                if self.step % _PRINT_EVERY == 0:
                    self._report(losses[-200:], budget)
                if self.seconds - saved > _SAVE_EVERY_S:
                    self.save()
                    saved = self.seconds
                if self.seconds - exported > self._settings.export_minutes * 60:
                    self.export(self._settings.work / "export")
                    exported = self.seconds
        self.save()
        self.export(self._settings.work / "export")

    def save(self) -> None:
        """Write the checkpoint, replacing the old one in one move."""
        state: dict[str, Any] = {
            "counters": (self.step, self.samples, self.seconds),
            "unet": self._unet.state_dict(),
            "text": self._text.state_dict(),
            "means": (self._mean_unet.state_dict(), self._mean_text.state_dict()),
            "optimiser": self._optimiser.state_dict(),
        }
        fresh = self._settings.work / "checkpoint.new"
        torch.save(state, fresh)
        os.replace(fresh, self._settings.work / "checkpoint.pt")

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers folder, with the trained decoder when there is one."""
        trained = self._settings.work / "vae"
        vae = AutoencoderTiny.from_pretrained(trained) if trained.exists() else autoencoder.build(self.code)
        unet, text = copy.deepcopy(self._mean_unet), copy.deepcopy(self._mean_text)
        network.export(folder, unet=unet, text=text, tokenizer=self._tokenizer, vae=vae)
        self._say(f"exported the averages of step {self.step} to {folder}")

    def _resume(self) -> None:
        path = self._settings.work / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step, self.samples, self.seconds = state["counters"]
        self._unet.load_state_dict(state["unet"])
        self._text.load_state_dict(state["text"])
        self._mean_unet.load_state_dict(state["means"][0])
        self._mean_text.load_state_dict(state["means"][1])
        self._optimiser.load_state_dict(state["optimiser"])
        self._say(f"resumed at step {self.step}, {self.seconds / 60:.1f} minutes done")

    def _apply(self, parts: list[Part], done: float) -> float:
        """One optimiser step over all parts, weighted by their number of pictures. Returns the loss of the first."""
        self._optimiser.set_rate(learning_rate(done, self.step, self._settings.rate))
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + self.step)
        self._optimiser.zero_grad()
        first = 0.0
        for index, part in enumerate(parts):
            loss = self._loss(part, generator)
            (loss * ((0.6, 0.4)[index] if len(parts) > 1 else 1.0)).backward()
            first = loss.item() if index == 0 else first
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._weights, 1.0 - average_decay(self.step))
        self.step += 1
        self.samples += sum(len(part.codes) for part in parts)
        return first

    def _loss(self, part: Part, generator: torch.Generator) -> torch.Tensor:
        count = len(part.codes)
        noise = torch.randn(part.codes.shape, generator=generator)
        large = part.codes[0, 0].numel() >= 4 * (SQUARE[0] // autoencoder.PATCH) ** 2
        times = times_for(torch.rand(count, generator=generator), _EARLY_SHARE_LARGE if large else _EARLY_SHARE)
        level = self._noise[times][:, None, None, None]
        noisy = level.sqrt() * part.codes + (1 - level).sqrt() * noise
        velocity = level.sqrt() * noise - (1 - level).sqrt() * part.codes
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self._text(part.ids)[0]
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            guess = self._unet(noisy, times, encoder_hidden_states=hidden).sample
        return (guess.float() - velocity).square().mean()

    def _report(self, losses: list[float], budget: float) -> None:
        mean, rate = sum(losses) / len(losses), self.samples / max(1e-9, self.seconds)
        left = (budget - self.seconds) / 60
        self._say(
            f"step {self.step}  loss {mean:.4f}  {rate:.0f} samples/s  {self.samples} samples  {left:.1f} min left"
        )
