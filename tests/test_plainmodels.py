"""What an offer says of the small models is what their pipelines take."""

from __future__ import annotations

import pytest

from compute import imagefile, soundfile
from compute.plainmodels import FILM_FRAMES, FILM_SIDE, PICTURE_BYTES, PICTURE_SIDE, SOUND_BYTES, SOUND_MS


def test_files_on_offer_are_those_that_are_read() -> None:
    assert (imagefile.DEFAULT.side, imagefile.DEFAULT.bytes) == (PICTURE_SIDE, PICTURE_BYTES)
    assert (soundfile.DEFAULT.seconds * 1000, soundfile.DEFAULT.bytes) == (SOUND_MS, SOUND_BYTES)


def test_clips_on_offer_are_those_that_are_made() -> None:
    pytest.importorskip("torch")
    from compute.pipelines import image_to_video

    assert (image_to_video.MAX_SIDE, image_to_video.MAX_FRAMES) == (FILM_SIDE, FILM_FRAMES)
