"""Files of a second run against delivered ones: the same is nothing apart, a little is little, nonsense is far."""

from __future__ import annotations

import io
import json

import pytest

from compute.closeness import NOWHERE, closeness
from compute.spec import Artifact
from compute.work import Replay

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")


def png(pixels: object) -> Artifact:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return Artifact("image/png", out.getvalue())


GRAY = np.full((300, 8, 3), 100, np.uint8)


def test_pictures_are_compared_by_the_largest_and_the_mean_difference() -> None:
    moved = GRAY.copy()
    moved[299, 7, 2] = 102
    apart = closeness(png(moved), png(GRAY))
    assert apart.max_diff_nano == 2 * 10**9 // 255
    assert 0 < apart.relative_ppm < 200
    assert closeness(png(GRAY), png(GRAY)) == Replay(0, 0)


@pytest.mark.parametrize(
    "delivered",
    [
        png(GRAY[:299]),
        png(GRAY[:, :, 0]),
        Artifact("image/png", b"no picture"),
        Artifact("image/png", b""),
        Artifact("image/webp", png(GRAY).data),
        Artifact("image/png", png(GRAY).data[:60]),
        Artifact("image/png", b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + b"\x7f" * 13),
    ],
)
def test_what_is_no_such_picture_is_far(delivered: Artifact) -> None:
    assert closeness(delivered, png(GRAY)) == NOWHERE


def test_values_of_json_may_move_a_little_and_nothing_else_may() -> None:
    def told(value: object) -> Artifact:
        return Artifact("application/json", json.dumps(value).encode())

    ours = told({"text": "a red circle", "score": 0.91, "at": [1.0, 2000]})
    assert closeness(told({"text": "a red circle", "score": 0.911, "at": [1.0, 2002]}), ours).max_diff_nano == 10**6
    assert closeness(told({"text": "a red circle", "score": 0.91, "at": [1.0, 2000.0]}), ours) == Replay(0, 0)
    assert closeness(told({"text": "a blue circle", "score": 0.91, "at": [1.0, 2000]}), ours) == Replay(0, 250_000)
    assert closeness(told({"text": "a red circle", "score": True, "at": [1.0, 2000]}), ours) == Replay(0, 250_000)
    assert closeness(told({"text": "a red circle", "source": 0.91, "at": [1.0, 2000]}), ours) == Replay(0, 250_000)
    assert closeness(told({"text": "a red circle"}), ours) == NOWHERE
    for bad in (b"{", b"[" * 100_000, b"\xff", b"NaN", b'{"text":"","score":1e999,"at":[1,2]}', b"9" * 9000):
        assert closeness(Artifact("application/json", bad), ours) == NOWHERE
    huge = told({"text": "a red circle", "score": 10**400, "at": [1.0, 2000]})
    assert closeness(huge, ours) == NOWHERE


def test_lines_are_counted() -> None:
    def told(*lines: str) -> Artifact:
        return Artifact("text/vtt", "\n".join(lines).encode())

    ours = told("WEBVTT", "a", "b", "c")
    assert closeness(told("WEBVTT", "a", "x", "c"), ours).relative_ppm == 250_000
    assert closeness(told("WEBVTT", "a"), ours).relative_ppm == 500_000
    assert closeness(told(*"0123456789"), ours).relative_ppm == 10**6


def test_films_are_compared_by_their_worst_frame() -> None:
    film = pytest.importorskip("compute.pipelines.image_to_video")
    pytest.importorskip("av")
    frames = [np.full((64, 64, 3), 40 * n, np.uint8) for n in range(4)]
    ours = Artifact("video/mp4", film.mp4(iter(frames), 8))
    assert closeness(ours, ours) == Replay(0, 0)
    other = [*frames[:3], np.full((64, 64, 3), 200, np.uint8)]
    assert closeness(Artifact("video/mp4", film.mp4(iter(other), 8)), ours).relative_ppm > 100_000
    assert closeness(Artifact("video/mp4", film.mp4(iter(frames[:3]), 8)), ours) == NOWHERE
    assert closeness(Artifact("video/mp4", b"no film"), ours) == NOWHERE
