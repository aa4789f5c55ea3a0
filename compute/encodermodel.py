"""The model of transcoding: an encoder is what stands where other pipelines have weights. Shell: runs a program.

Its folder holds words only; its hash is the name that the encoder has by what it makes, which
``compute/pipelines/encoder.py`` prints, so that buyers and Receipts can tell builds apart. There is none where PyAV is
not installed.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from compute.catalog import ModelEntry, entry_name, licence_of
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.spec import MAX_INPUT, MAX_SIDE, TRANSCODE
from compute.strictfolder import StrictFolder, own_words

KIND: Final = "pasar-encoder"
MAX_FRAMES: Final = 108_000  # an hour at thirty a second
_PATIENCE_S: Final = 60.0
_ROOT: Final = Path(__file__).resolve().parent.parent


def read_encoder(folder: StrictFolder, index: Mapping[str, Any], cache: DigestCache) -> ModelEntry:
    """The entry of the encoder that is installed here. Raises BadModel where there is none."""
    own = own_words(folder)
    return ModelEntry(
        folder=str(folder.path),
        pipeline=TRANSCODE,
        name=entry_name(own, str(folder.path)),
        model=_printed(),
        native_side=0,
        max_side=MAX_SIDE,
        side_step=1,
        max_steps=1,
        weight_bytes=0,
        licence=licence_of(own, folder.card()),
        max_length=MAX_FRAMES,
        max_input=MAX_INPUT,
    )


@lru_cache(maxsize=1)
def _printed() -> bytes:
    """The encoder's name, from a child: codecs are not loaded into a node. Blocks for a moment."""
    if importlib.util.find_spec("av") is None:
        raise BadModel(Flaw.NOT_INSTALLED, "transcoding needs PyAV, which is not installed: pip install 'pasar[video]'")
    command = [sys.executable, "-m", "compute.pipelines.encoder"]
    try:
        done = subprocess.run(command, cwd=_ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BadModel(Flaw.NOT_INSTALLED, f"the encoder cannot be tried: {type(exc).__name__}") from exc
    found = re.fullmatch(rb"([0-9a-f]{64})\n", done.stdout)
    if done.returncode or found is None:
        says = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:120]
        raise BadModel(Flaw.NOT_INSTALLED, f"PyAV is installed and its H.264 encoder does not work: {says}")
    return bytes.fromhex(found[1].decode())
