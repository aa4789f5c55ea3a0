"""The safety stage: after the work, a picture classifier looks at what was made, if the operator named one.

It looks at every picture, and at the first and the middle one of every clip. What is likelier unsafe than the operator
lets pass is refused as a matter of policy: nobody's fault, and unpaid. Runs inside a worker; knows no job and no price.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from compute.capability import Dtype
from compute.checkerfolder import check_labels, labels_in
from compute.modelfolder import read_folder
from compute.nets.loading import BAD_FILES
from compute.pipeline import BrokenOutput
from compute.pipelines.image_to_text import Eyes
from compute.safety import MAX_PICTURES, POLICY, WHOLE, Checking, Safety
from compute.spec import Artifact
from compute.strictfolder import StrictFolder
from p2p.errors import Misconfigured, Refused

_TORCH_DTYPE = {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}


class SafetyCheck:
    """One loaded checker. Invariant: holds no state of any job."""

    def __init__(self, model: Any, eyes: Eyes, checking: Checking, name: str, digest: bytes) -> None:
        self._model, self._eyes, self._checking, self._name, self._digest = model, eyes, checking, name, digest
        classes = model.config.num_labels
        self._labels = labels_in({"id2label": {str(n): model.config.id2label[n] for n in range(classes)}})
        self._many = model.config.problem_type == "multi_label_classification"

    @classmethod
    def load(cls, checking: Checking, *, device: str, dtype: Dtype) -> SafetyCheck:
        """Load from a local folder: safetensors only, no code from the folder. Raises Misconfigured."""
        folder = Path(checking.checker)
        entry = read_folder(folder)
        check_labels(StrictFolder(folder), checking)
        try:
            model = AutoModelForImageClassification.from_pretrained(
                folder, dtype=_TORCH_DTYPE[dtype], use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
            eyes = Eyes.read(folder)
        except BAD_FILES as exc:
            raise Misconfigured(f"{folder} cannot be loaded: {type(exc).__name__}: {exc}") from exc
        return cls(model.to(device).eval(), eyes, checking, entry.name, entry.model)

    def look(self, artifacts: Sequence[Artifact]) -> Safety | None:
        """What was found, None where there is nothing to be seen. Raises Refused ``POLICY``, BrokenOutput."""
        found, most = list[tuple[int, str]](), self._checking.most
        for picture in islice(pictures_of(artifacts), MAX_PICTURES):
            found.append(self._worst(picture))
            if found[-1][0] > most:
                raise Refused(POLICY, "the result is not what this operator delivers", have=found[-1][0], need=most)
        if not found:
            return None
        score, label = max(found)
        return Safety(self._name, self._digest, label, score, len(found))

    @torch.inference_mode()
    def _worst(self, picture: Image.Image) -> tuple[int, str]:
        """How likely the likeliest of the unsafe labels is, in millionths, and which it is."""
        weights = next(self._model.parameters())
        told = self._model(self._eyes.see(picture).to(weights.device, weights.dtype)).logits[0].float()
        shares = (told.sigmoid() if self._many else told.softmax(-1)).cpu()
        if not bool(torch.isfinite(shares).all()):
            raise BrokenOutput("the checker's scores are not finite")
        scores = {
            label: min(WHOLE, round(float(share) * WHOLE)) for label, share in zip(self._labels, shares, strict=True)
        }
        return max((scores[label], label) for label in self._checking.unsafe)


def pictures_of(artifacts: Sequence[Artifact]) -> Iterator[Image.Image]:
    """Pictures as they are, of a clip the first and the middle one. They are of our own making."""
    for artifact in artifacts:
        kind = artifact.media_type.partition("/")[0]
        if kind == "image":
            with Image.open(io.BytesIO(artifact.data)) as picture:
                yield picture.convert("RGB")
        elif kind == "video":
            yield from _frames(artifact.data)


def _frames(data: bytes) -> Iterator[Image.Image]:
    import av

    with av.open(io.BytesIO(data)) as source:
        count = sum(1 for _ in source.decode(video=0))
    with av.open(io.BytesIO(data)) as source:
        for index, frame in enumerate(source.decode(video=0)):
            if index in (0, count // 2):
                yield frame.to_image()
