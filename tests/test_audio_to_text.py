"""Hearing: the bundled listener on sentences it never heard, recordings longer than a piece, folders that are none."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from compute.capability import Dtype
from compute.modelfolder import bundled
from compute.offline import go_offline, hush
from p2p.errors import Misconfigured

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()

from compute.nets.ears import LETTERS, Ears, EarsConfig  # noqa: E402
from compute.nets.logmel import filters, log_mel  # noqa: E402
from compute.nets.reading import read_words  # noqa: E402
from compute.pipeline import BrokenOutput, Cancelled  # noqa: E402
from compute.pipelines import audio_to_text  # noqa: E402
from compute.pipelines.audio_to_text import AudioToText, artifacts  # noqa: E402
from compute.soundfile import RATE, read_sound  # noqa: E402
from compute.subtitles import Transcript  # noqa: E402
from compute.training.listening import edit_distance, letters  # noqa: E402
from tests.support.small_models import WHISPER_SECONDS, random_whisper  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
SPEECH = Path(__file__).parent / "vectors" / "speech"
TEXTS: dict[str, str] = json.loads((SPEECH / "texts.json").read_text())
FOLDER = bundled("tiny-listener")


@pytest.fixture(scope="module")
def model() -> AudioToText:
    return AudioToText.load(FOLDER, device="cpu", dtype=Dtype.FP32)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_whisper(tmp_path_factory.mktemp("models") / "whisper")


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def said(name: str) -> Any:
    return read_sound((SPEECH / name).read_bytes())


def words(transcript: Transcript) -> list[str]:
    return transcript.text.split()


def test_nine_of_ten_words_of_sentences_it_never_heard_are_right(model: AudioToText) -> None:
    wrong = sum(edit_distance(text.split(), words(model.transcribe(said(name), quiet))) for name, text in TEXTS.items())
    assert wrong <= 0.10 * sum(len(text.split()) for text in TEXTS.values())


def test_words_come_in_order_within_the_recording(model: AudioToText) -> None:
    for name in TEXTS:
        samples = said(name)
        found = model.transcribe(samples, quiet)
        assert found.duration_ms == len(samples) * 1000 // RATE
        edges = [edge for one in found.segments for word in one.words for edge in (word.start_ms, word.end_ms)]
        assert edges == sorted(edges)
        assert edges[-1] <= found.duration_ms


def test_a_long_recording_is_heard_like_its_sentences_alone(
    model: AudioToText, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = np.zeros(RATE, np.float32)
    parts, at, begins = [], 0, []
    for name in TEXTS:
        begins.append(at * 1000 // RATE)
        parts += [said(name), pause]
        at += len(parts[-2]) + len(pause)
    whole = np.concatenate(parts)
    alone = [words(model.transcribe(said(name), quiet)) for name in TEXTS]
    monkeypatch.setattr(audio_to_text, "PIECE", 5 * audio_to_text.FRAME * 25)
    steps: list[int] = []
    found = model.transcribe(whole, lambda done, total: steps.append(done))
    assert len(steps) == -(-len(whole) // audio_to_text.PIECE) + 1
    assert steps[-1] == len(whole)
    joined = [word for one in alone for word in one]
    assert edit_distance(joined, words(found)) <= len(joined) // 20  # hiss of one sentence sets the floor of another
    for begin in begins:  # a sentence starts a segment, near where it was put
        assert min(abs(one.start_ms - begin) for one in found.segments) < 1000


def test_pieces_give_the_scores_of_the_whole(model: AudioToText, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.concatenate([said(name) for name in list(TEXTS)[:5]])
    whole = model.transcribe(samples, quiet)
    monkeypatch.setattr(audio_to_text, "PIECE", 50 * audio_to_text.FRAME)
    assert words(model.transcribe(samples, quiet)) == words(whole)


def test_silence_says_nothing_and_a_moment_is_enough(model: AudioToText) -> None:
    assert model.transcribe(np.zeros(3 * RATE, np.float32), quiet).segments == ()
    assert model.transcribe(np.zeros(1, np.float32), quiet) == Transcript((), 0)


def test_what_progress_raises_ends_the_work_and_the_model_stays(model: AudioToText) -> None:
    def cancel(done: int, total: int) -> None:
        raise Cancelled

    name = next(iter(TEXTS))
    before = model.transcribe(said(name), quiet)
    with pytest.raises(Cancelled):
        model.transcribe(said(name), cancel)
    assert model.transcribe(said(name), quiet) == before


def test_the_files_of_a_transcript(model: AudioToText) -> None:
    name = next(iter(TEXTS))
    found = model.transcribe(said(name), quiet)
    told, srt, vtt = artifacts(found)
    assert [one.media_type for one in (told, srt, vtt)] == ["application/json", "application/x-subrip", "text/vtt"]
    assert json.loads(told.data)["text"] == found.text
    assert srt.data.startswith(b"1\n00:00:0")
    assert vtt.data.startswith(b"WEBVTT\n\n00:00:0")


def test_scores_that_are_no_numbers_are_broken_output() -> None:
    net = Ears(EarsConfig(("a",), width=8, blocks=1)).eval()
    with torch.no_grad():
        net.conv_out.bias.fill_(float("nan"))
    with pytest.raises(BrokenOutput):
        AudioToText(audio_to_text.Bundled(net)).transcribe(np.zeros(RATE, np.float32), quiet)


def damaged(folder: Path, name: str, change: Any) -> Path:
    shutil.copytree(FOLDER, folder)
    path = folder / name
    if callable(change):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        path.write_bytes(change)
    return folder


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "bert"}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 9),
        ("model.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
        ("config.json", lambda told: {**told, "width": 10**9}),
        ("config.json", lambda told: {**told, "width": 8}),
        ("config.json", lambda told: {**told, "width": "wide"}),
        ("config.json", lambda told: {**told, "vocabulary": ["A!"]}),
        ("config.json", lambda told: {**told, "vocabulary": []}),
        ("config.json", lambda told: {**told, "strange": 1}),
    ],
)
def test_a_folder_that_is_no_listener_is_refused(tmp_path: Path, name: str, change: Any) -> None:
    with pytest.raises(Misconfigured):
        AudioToText.load(damaged(tmp_path / "model", name, change), device="cpu", dtype=Dtype.FP32)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        AudioToText.load(tmp_path, device="cpu", dtype=Dtype.FP32)


def test_features_are_those_of_whisper() -> None:
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(feature_size=40, chunk_length=1)
    assert np.abs(filters(40) - theirs.mel_filters.T).max() < 1e-6
    samples = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    meant = theirs(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    assert np.abs(log_mel(samples, 40).numpy() - meant).max() < 1e-3


def scores_of(*frames: str) -> Any:
    told = torch.full((len(frames), len(LETTERS)), -9.0)
    for row, letter in zip(told, frames, strict=True):
        row[LETTERS.index(letter)] = 0.0
    return told.log_softmax(-1)


def test_reading_joins_repeats_and_keeps_doubles_and_knows_its_words() -> None:
    found = read_words(scores_of(*"_rree_d|ttr_e_e_|"), ("red", "tree"))
    assert [(word.text, word.first, word.end) for word in found] == [("red", 1, 7), ("tree", 8, 15)]
    assert [word.text for word in read_words(scores_of(*"r_e_t|"), ("red", "tree"))] == ["red"]  # the nearest
    assert read_words(scores_of(*"z_q_x|"), ("red", "tree")) == []
    assert read_words(scores_of(*"____"), ("red",)) == []
    assert letters("a b") == [LETTERS.index(letter) for letter in "a|b"]


def test_a_whisper_model_is_heard_window_by_window(whisper: Path) -> None:
    model = AudioToText.load(whisper, device="cpu", dtype=Dtype.FP32)
    samples = np.random.default_rng(1).standard_normal(8 * RATE).astype(np.float32) * 0.1
    steps: list[int] = []
    found = model.transcribe(samples, lambda done, total: steps.append(done))
    assert steps == sorted(set(steps))
    assert steps[-1] == len(samples)
    assert max(two - one for one, two in pairwise(steps)) <= WHISPER_SECONDS * RATE
    assert found.segments
    assert all(0 <= one.start_ms < one.end_ms <= found.duration_ms for one in found.segments)
    assert found == model.transcribe(samples, quiet)


def test_whisper_can_be_cancelled_between_windows(whisper: Path) -> None:
    model = AudioToText.load(whisper, device="cpu", dtype=Dtype.FP32)
    seen: list[int] = []

    def cancel(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.transcribe(np.zeros(60 * RATE, np.float32), cancel)
    assert len(seen) == 2


def test_a_whisper_folder_without_its_weights_is_refused(whisper: Path, tmp_path: Path) -> None:
    shutil.copytree(whisper, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Misconfigured):
        AudioToText.load(tmp_path / "model", device="cpu", dtype=Dtype.FP32)
