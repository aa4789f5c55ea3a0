"""A caller's sound file to samples, bounded: one channel at 16 kHz. WAV by ourselves; FLAC, MP3, OGG by PyAV.

Shell around ``compute/wavefile.py``. Runs in a worker; knows no job and no model.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from compute.spec import MAX_INPUT
from compute.wavefile import MAX_CHANNELS, MAX_RATE, MIN_RATE, Wav, is_wav, read_wav
from p2p.errors import Refused

RATE = 16_000
_BLOCK = 2**20  # frames of a WAV that are converted at once
_RESAMPLED = 2**16  # samples of the result that are made at once
_TAPS = 32  # of the filter before a lower rate, to either side and for each step down
# Containers that PyAV may open. Play lists and the like are not among them: they open other files.
_CONTAINERS = "flac,mp3,ogg,wav,mov,mp4,m4a,3gp,matroska,webm,aac,aiff"
MAX_STREAMS = 16  # of a container
# What may be decoded while a container is looked into: a picture or a film beside the sound is not opened.
_CODECS = (
    "flac,mp3,mp3float,mp2,mp2float,vorbis,opus,libopus,aac,aac_fixed,alac,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,"
    "pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_alaw,pcm_mulaw"
)


@dataclass(frozen=True, slots=True)
class SoundLimits:
    """What is read at most. Memory while reading stays below about ten bytes for each sample at the file's own rate.

    ``samples`` of all channels, at the file's own rate: what is decoded is work, and a small file may hold much of it.
    """

    bytes: int = MAX_INPUT
    seconds: int = 3600
    samples: int = 400_000_000  # an hour of 48 kHz in stereo has 345.6 million


DEFAULT = SoundLimits()


def read_sound(data: bytes, limits: SoundLimits = DEFAULT) -> Any:
    """Samples in [-1, 1] at RATE, as a numpy vector.

    Raises Refused: ``SOUND_TOO_LARGE``, ``SOUND_TOO_LONG`` with what is had and allowed, ``BAD_SOUND`` for what is no
    whole sound file, ``SOUND_UNSERVED`` for formats that need PyAV where it is not installed.
    """
    if len(data) > limits.bytes:
        raise Refused("SOUND_TOO_LARGE", "bytes of the file", have=len(data), need=limits.bytes)
    samples = _from_wav(data, read_wav(data), limits) if is_wav(data) else _from_container(data, limits)
    if not len(samples):
        raise Refused("BAD_SOUND", "there is no sound in it")
    if not np.isfinite(samples).all():
        raise Refused("BAD_SOUND", "samples that are no numbers")
    return np.clip(samples, -1.0, 1.0)


def to_rate(samples: Any, rate: int) -> Any:
    """The same sound at RATE: what RATE cannot hold is filtered out, then the line between two samples is read off.

    Block by block, so that nothing as long as the sound is made but the result.
    """
    if rate == RATE:
        return samples
    kernel = _low_pass(rate) if rate > RATE else np.ones(1, np.float32)
    if len(samples) < len(kernel):
        kernel = np.ones(1, np.float32)
    reach, count = len(kernel) // 2, len(samples) * RATE // rate
    made: Any = np.empty(count, np.float32)
    for first in range(0, count, _RESAMPLED):
        at = np.arange(first, min(first + _RESAMPLED, count)) * (rate / RATE)
        begin, end = int(at[0]), min(len(samples), int(at[-1]) + 2)
        near = samples[max(0, begin - reach) : end + reach]
        edges = max(0, reach - begin), max(0, end + reach - len(samples))
        smooth = np.convolve(np.pad(near, edges), kernel, "valid")
        made[first : first + len(at)] = np.interp(at - begin, np.arange(end - begin), smooth)
    return made


def _low_pass(rate: int) -> Any:
    """What keeps of a sound what RATE can hold."""
    reach = _TAPS * rate // RATE
    at = np.arange(-reach, reach + 1)
    cut = 0.9 * RATE / rate  # leaves room for the slope of the filter
    return (np.sinc(at * cut) * np.hanning(len(at) + 2)[1:-1] * cut).astype(np.float32)


def _from_wav(data: bytes, wav: Wav, limits: SoundLimits) -> Any:
    if wav.frames > limits.seconds * wav.rate:
        raise Refused("SOUND_TOO_LONG", "seconds", have=wav.frames // wav.rate, need=limits.seconds)
    if wav.frames * wav.channels > limits.samples:
        have = wav.frames * wav.channels
        raise Refused("SOUND_TOO_LARGE", "samples of all channels", have=have, need=limits.samples)
    mono: Any = np.empty(wav.frames, np.float32)
    width = wav.channels * int(wav.encoding[-1])
    for first in range(0, wav.frames, _BLOCK):
        count = min(_BLOCK, wav.frames - first)
        begin = wav.start + first * width
        block = _numbers(data[begin : begin + count * width], wav.encoding)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite samples are refused by the caller of this
            mono[first : first + count] = block.reshape(count, wav.channels).mean(1)
    return to_rate(mono, wav.rate)


def _numbers(raw: bytes, encoding: str) -> Any:
    """Samples as numbers around zero, of about one at most."""
    if encoding == "u1":
        return np.frombuffer(raw, "u1").astype(np.float32) / 128 - 1
    if encoding == "<i3":
        whole: Any = np.zeros((len(raw) // 3, 4), np.uint8)
        whole[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return whole.view("<i4")[:, 0].astype(np.float32) / 2**31
    numbers = np.frombuffer(raw, encoding).astype(np.float32 if encoding != "<f8" else np.float64)
    return numbers / {"<i2": 2**15, "<i4": 2**31}.get(encoding, 1)


def _from_container(data: bytes, limits: SoundLimits) -> Any:
    try:
        import av
    except ImportError as exc:
        raise Refused("SOUND_UNSERVED", "this machine reads only WAV: it has no PyAV") from exc
    options = {"format_whitelist": _CONTAINERS, "codec_whitelist": _CODECS, "max_streams": str(MAX_STREAMS)}
    try:
        with av.open(io.BytesIO(data), options=options) as container:
            parts = list(_decoded(container, av.AudioResampler("fltp", "mono", RATE), limits))
    except (av.FFmpegError, ValueError, IndexError, EOFError) as exc:
        raise Refused("BAD_SOUND", "no sound file, or a damaged one") from exc
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _decoded(container: Any, resampler: Any, limits: SoundLimits) -> Iterator[Any]:
    """Frame by frame, so that a file that tells a short length and holds a long one is stopped on its way."""
    if not container.streams.audio:
        raise Refused("BAD_SOUND", "there is no sound in it")
    stream = container.streams.audio[0]
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not (MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
        raise Refused("BAD_SOUND", "rate or channels out of bounds", have=rate, need=MAX_RATE)
    total = decoded = 0
    for frame in container.decode(stream):
        decoded += frame.samples * channels
        if decoded > limits.samples:
            raise Refused("SOUND_TOO_LARGE", "samples of all channels", have=decoded, need=limits.samples)
        for part in resampler.resample(frame):
            total += part.samples
            if total > limits.seconds * RATE:
                raise Refused("SOUND_TOO_LONG", "seconds", have=total // RATE, need=limits.seconds)
            yield part.to_ndarray()[0]
    for part in resampler.resample(None):
        yield part.to_ndarray()[0]
