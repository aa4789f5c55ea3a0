"""Frames of one size to an H.264 file that every player plays. Needs PyAV; knows no process and no job."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]


class Film:
    """One film on its way. Odd sides lose their last row or column: the format halves the colours."""

    def __init__(self, fps: int, crf: int) -> None:
        self._fps, self._crf, self._file = fps, crf, io.BytesIO()
        self._out: Any = av.open(self._file, "w", format="mp4")
        self._stream: Any = None

    def add(self, pixels: Pixels) -> None:
        """The next frame; the memory that it is in may be used again."""
        even = np.ascontiguousarray(pixels[: pixels.shape[0] & ~1, : pixels.shape[1] & ~1])
        if self._stream is None:
            self._stream = self._out.add_stream(
                "libx264", rate=self._fps, options={"crf": str(self._crf), "preset": "medium"}
            )
            self._stream.height, self._stream.width, self._stream.pix_fmt = even.shape[0], even.shape[1], "yuv420p"
            self._stream.thread_count, self._stream.time_base = 1, Fraction(1, self._fps)
        self._out.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

    def finish(self) -> bytes:
        """The whole file."""
        if self._stream is not None:
            self._out.mux(self._stream.encode(None))
        self._out.close()
        return self._file.getvalue()
