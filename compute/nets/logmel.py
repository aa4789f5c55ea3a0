"""Sound as a picture: log-mel features, as Whisper defines them, for any number of bands. Knows samples, no words."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import torch

RATE: Final = 16_000
WINDOW: Final = 400  # samples: 25 ms
HOP: Final = 160  # samples: 10 ms
FLOOR_DECADES: Final = 8.0  # what lies further below the loudest is taken as silence


def log_mel(samples: Any, bands: int) -> Any:
    """(bands, samples // HOP) numbers of about -1 to 1.5 for a vector of at least WINDOW samples in [-1, 1]."""
    wave = torch.as_tensor(samples, dtype=torch.float32)
    spectrum = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)[:, :-1]
    power = torch.from_numpy(filters(bands)) @ spectrum.abs().square()
    logged = power.clamp(min=1e-10).log10()
    return (logged.clamp(min=logged.max() - FLOOR_DECADES) + 4.0) / 4.0


@cache
def filters(bands: int) -> Any:
    """Triangles on Slaney's mel scale, each of area one: (bands, WINDOW // 2 + 1)."""
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    edges = _hertz(np.linspace(_mel(0.0), _mel(RATE / 2), bands + 2))
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (np.clip(np.minimum(rising, falling), 0, None) * area[:, None]).astype(np.float32)


_LINEAR_UNTIL: Final = 1000.0  # hertz; below it the scale is straight, above it logarithmic
_HERTZ_PER_MEL: Final = 200.0 / 3
_STEP: Final = float(np.log(6.4)) / 27.0


def _mel(hertz: float) -> float:
    if hertz < _LINEAR_UNTIL:
        return hertz / _HERTZ_PER_MEL
    return _LINEAR_UNTIL / _HERTZ_PER_MEL + float(np.log(hertz / _LINEAR_UNTIL)) / _STEP


def _hertz(mel: Any) -> Any:
    corner = _LINEAR_UNTIL / _HERTZ_PER_MEL
    return np.where(mel < corner, mel * _HERTZ_PER_MEL, _LINEAR_UNTIL * np.exp(_STEP * (mel - corner)))
