"""Trains the bundled segmenter: the library's own SAM classes at a very small size, on things with their masks.

Each picture of a step is asked about several times, by a point on a thing or by a box around it. Knows no pipeline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from transformers import SamConfig, SamImageProcessorPil, SamModel

from compute.training.autoencoder import to_tensor
from compute.training.course import Course, Measured
from compute.training.things import Mask, Segmented, segmented

SIDE: Final = 64
PATCH: Final = 4
_WIDTH: Final = 96
_BATCH: Final = 8
_ASKED: Final = 2  # prompts of each kind for a picture
_RATE: Final = 2e-3
_HELD_OUT: Final = 100
_FINE: Final = ("embed", "token", "conv", "patch")


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is asked of n pictures: points (n, p, k, 2), labels (1: on it), boxes (n, p, 4), masks (n, p, h, w)."""

    points: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor


def course(work: Path, minutes: float, say: Callable[[str], None]) -> Course:
    """The run of the segmenter; pictures are drawn as they are needed."""
    torch.manual_seed(0)
    model = network()
    say(f"{sum(p.numel() for p in model.parameters())} parameters")
    rng = Random("outlining, held out")
    kept_away = [segmented(rng, SIDE, SIDE, kept_away=True) for _ in range(_HELD_OUT)]
    return Course(
        work=work,
        minutes=minutes,
        model=model,
        loss=_loss,
        measure=lambda net: measure(net, kept_away),
        export=export,
        rate=_RATE,
        fine=_FINE,
        say=say,
    )


def network() -> SamModel:
    """An untrained segmenter of about half a million parameters."""
    eyes = {
        "image_size": SIDE, "patch_size": PATCH, "hidden_size": _WIDTH, "output_channels": _WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 192, "num_pos_feats": _WIDTH // 2,
        "window_size": 8, "global_attn_indexes": [1], "use_rel_pos": False, "initializer_range": 0.02,
    }  # fmt: skip
    asking = {"image_size": SIDE, "patch_size": PATCH, "hidden_size": _WIDTH}
    answering = {
        "hidden_size": _WIDTH, "mlp_dim": 192, "num_attention_heads": 4, "iou_head_hidden_dim": 64,
        "num_multimask_outputs": 1,
    }  # fmt: skip
    model = SamModel(
        SamConfig(
            vision_config=eyes,
            prompt_encoder_config=asking,
            mask_decoder_config=answering,
            initializer_range=0.02,
        )
    )
    with (
        torch.no_grad()
    ):  # places as waves about as long as the picture; the library's own start is for trained weights
        waves = torch.randn(2, _WIDTH // 2)
        model.shared_image_embedding.positional_embedding.copy_(waves)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(waves)
    return model


def asked(examples: Sequence[Segmented], rng: Random, count: int = _ASKED, points_each: int = 1) -> Prompts:
    """For each picture `count` things, each with points (the first on it) and a box that is a little loose."""
    points, labels, boxes, masks = [], [], [], []
    for example in examples:
        for _ in range(count):
            mask = rng.choice(example.masks)
            on = [True, *(rng.random() < 0.5 for _ in range(points_each - 1))]
            points.append([point_on(mask if inside else ~mask, rng) for inside in on])
            labels.append(on)
            boxes.append([edge + rng.uniform(-1.5, 1.5) for edge in box_around(mask)])
            masks.append(mask)
    shape = (len(examples), count)
    return Prompts(
        torch.tensor(points, dtype=torch.float32).reshape(*shape, points_each, 2),
        torch.tensor(labels, dtype=torch.int).reshape(*shape, points_each),
        torch.tensor(boxes, dtype=torch.float32).reshape(*shape, 4),
        torch.from_numpy(np.stack(masks)).reshape(*shape, *masks[0].shape),
    )


def point_on(mask: Mask, rng: Random) -> tuple[int, int]:
    """Some pixel of the thing, as x and y."""
    rows, columns = np.nonzero(mask)
    index = rng.randrange(len(rows))
    return int(columns[index]), int(rows[index])


def box_around(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of the thing."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def measure(model: Any, examples: Sequence[Segmented]) -> Measured:
    """Mean overlap (intersection over union) with the masks that were meant, by points and by boxes."""
    prompts = asked(examples, Random("outlining, measured"))
    batch = to_tensor([example.pixels for example in examples])
    with torch.inference_mode():
        by_point = model(batch, input_points=prompts.points, multimask_output=False)
        by_box = model(batch, input_boxes=prompts.boxes, multimask_output=False)
    rates, off = {}, 0.0
    for name, told in (("points", by_point), ("boxes", by_box)):
        overlap = overlaps(told.pred_masks[:, :, 0] > 0, prompts.masks)
        rates[f"overlap by {name}"] = overlap.mean().item()
        off += (told.iou_scores[:, :, 0] - overlap).abs().mean().item() / 2
    return Measured(sum(rates.values()), {**rates, "score off by": off})


def overlaps(told: torch.Tensor, meant: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each pair of masks."""
    both, either = (told & meant).sum((-1, -2)), (told | meant).sum((-1, -2))
    return both / either.clamp(min=1)


def export(model: Any, folder: Path) -> None:
    """Write a folder that the library loads by itself; weights in half precision."""
    half = SamModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder, safe_serialization=True)
    SamImageProcessorPil(
        do_pad=False,  # it was taught whole squares: other pictures are stretched to one
        size={"longest_edge": SIDE}, mask_size={"longest_edge": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        pad_size={"height": SIDE, "width": SIDE}, mask_pad_size={"height": SIDE, "width": SIDE},
    ).save_pretrained(folder)  # fmt: skip


def _loss(model: nn.Module, step: int) -> torch.Tensor:
    rng = Random(f"outlining:{step}")
    examples = [segmented(rng, SIDE, SIDE) for _ in range(_BATCH)]
    prompts = asked(examples, rng, points_each=1 + (step % 3 == 2))
    seen = model.vision_encoder(to_tensor([example.pixels for example in examples])).last_hidden_state
    pointed = {"input_points": prompts.points, "input_labels": prompts.labels}
    by_point = model(image_embeddings=seen, multimask_output=False, **pointed)
    both = pointed if step % 4 == 3 else {}  # a box may come with points
    by_box = model(image_embeddings=seen, input_boxes=prompts.boxes, multimask_output=False, **both)
    return _wrong(by_point, prompts.masks) + _wrong(by_box, prompts.masks)


def _wrong(told: Any, meant: torch.Tensor) -> torch.Tensor:
    """Each pixel by itself, the overlap as a whole, and how far the promised overlap is from the real one."""
    logits, wanted = told.pred_masks[:, :, 0], meant.float()
    pixels = nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    soft = logits.sigmoid()
    dice = 1 - (2 * (soft * wanted).sum((-1, -2)) + 1) / ((soft + wanted).sum((-1, -2)) + 1)
    promised = (told.iou_scores[:, :, 0] - overlaps(logits > 0, meant)).square().mean()
    return 2 * pixels + dice.mean() + promised
