"""Transcoding as a job: files in the order asked for, no more work than was paid, one typed no for bad films."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

av = pytest.importorskip("av")
pytest.importorskip("PIL")

from compute.encodermodel import read_encoder  # noqa: E402
from compute.filmcutting import cut_film, measure  # noqa: E402
from compute.filmprobe import film_size  # noqa: E402
from compute.modelfolder import bundled, read_folder  # noqa: E402
from compute.pipeline import Cancelled  # noqa: E402
from compute.pipelines import filmchild, transcodechild, transcoder  # noqa: E402
from compute.pipelines.transcode import Transcode  # noqa: E402
from compute.profiles import blocks_of, canvas_of, read_order  # noqa: E402
from compute.spec import TRANSCODE, Artifact, Input, JobShape, JobSpec, Option, Verification  # noqa: E402
from p2p.errors import Refused  # noqa: E402
from tests.support.films import bomb, film, seen, sound_only, steady, with_streams  # noqa: E402

PLAIN = film(steady(90), sound="aac")


def asked(data: bytes, options: Mapping[str, str], *, frames: int = 0, blocks: int = 0) -> JobSpec:
    """The job that a client would ask for with this film, or one that pays for so much."""
    if not frames or not blocks:
        size = film_size(data)
        frames = frames or size.frames
        blocks = blocks or blocks_of(read_order(options.get).ladder, size.width, size.height)
    width, height = canvas_of(blocks)
    shape = JobShape(
        TRANSCODE,
        bytes(32),
        width,
        height,
        1,
        False,
        verification=Verification.RECEIPT,
        input_bytes=len(data),
        length=frames,
    )
    named = Input("video/mp4", len(data), sha256(data).digest())
    return JobSpec(
        shape, "", "", 0, 0, bytes(16), (named,), tuple(Option(name, options[name]) for name in sorted(options))
    )


def made(data: bytes, told: Callable[[int, int], None] = lambda done, of: None, **options: str) -> dict[str, Artifact]:
    run = Transcode.load().open(asked(data, options), (data,))
    files = run.watched(told).step(None, 0)
    return dict(zip(read_order(options.get).names, files, strict=True))


def test_an_mp4_of_each_rendition_with_every_frame_and_the_sound() -> None:
    progress: list[tuple[int, int]] = []
    files = made(PLAIN, lambda done, of: progress.append((done, of)), renditions="144p,96x64@100k")
    for name, size in (("144p.mp4", (256, 144)), ("96x64.mp4", (96, 54))):
        found = seen(files[name].data)
        assert (files[name].media_type, found["frames"], found["size"]) == ("video/mp4", 90, size)
        assert found["codec"] == "aac"
        assert all(0.033 < b - a < 0.034 for a, b in pairwise(found["times"]))
    assert all(0 <= done <= of == 100 for done, of in progress)


def test_playlists_lead_into_one_file_for_each_rendition(tmp_path: Path) -> None:
    for name, file in made(PLAIN, form="hls", renditions="144p,96x64@100k", segment="1000").items():
        (tmp_path / name).write_bytes(file.data)
    for name in ("144p.m3u8", "96x64.m3u8"):
        with av.open(str(tmp_path / name)) as source:  # a real player's reader
            assert sum(1 for packet in source.demux(video=0) for _ in packet.decode()) == 90
    assert (tmp_path / "144p.m3u8").read_text().count("#EXT-X-BYTERANGE") == 3
    with av.open(str(tmp_path / "master.m3u8")) as source:
        assert {stream.width for stream in source.streams.video} == {256, 96}


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film as cameras and encoders make it: with pictures that refer to later ones, and sound."""
    path = tmp_path_factory.mktemp("film") / "camera.mp4"
    path.write_bytes(film(steady(130), sound="aac", preset="veryfast"))
    return path


def test_segments_that_were_made_apart_play_as_one_film(camera: Path) -> None:
    """Each is a job of its own, in whatever order: only its start is passed along."""
    cuts, start, jobs = list(cut_film(camera, 2.0)), 0, []
    for cut in cuts:
        again = measure(cut.data, cut.suffix)
        assert (again.frames, again.width, again.height) == (cut.frames, 320, 180)
        assert abs(again.length - cut.length) < 3100  # the last picture's own length is a guess
        jobs.append((cut, start))
        start += cut.length
    assert sum(cut.frames for cut in cuts) == 130
    options = {"form": "segment", "renditions": "144p"}
    parts = {
        begin: made(cut.data, **options, start=str(begin))["144p.ts"].data
        for cut, begin in sorted(jobs, key=lambda one: -one[1])
    }
    joined = b"".join(parts[begin] for _, begin in jobs)
    found = seen(joined)
    assert found["frames"] == 130
    assert all(0.0332 < b - a < 0.0335 for a, b in pairwise(found["times"]))
    assert len(sounds(joined)) == len(sounds(camera.read_bytes())) > 200
    with av.open(io.BytesIO(joined), format="mpegts") as source:
        assert not any(packet.is_corrupt for packet in source.demux())


def sounds(data: bytes) -> list[int]:
    """The sizes of the packets of sound."""
    with av.open(io.BytesIO(data)) as source:
        return [packet.size for packet in source.demux(audio=0) if packet.size]


def test_an_order_that_is_none_is_refused_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filmchild.FilmChild, "__enter__", _not_started)
    plain = asked(PLAIN, {})
    for options in ((Option("form", "avi"),), (Option("rate", "1"),), (Option("start", "5"),)):
        with pytest.raises(Refused, match="BAD_INPUT"):
            Transcode.load().open(replace(plain, options=options), (PLAIN,))
    with pytest.raises(Refused, match="BAD_INPUT"):
        Transcode.load().open(plain, (PLAIN, PLAIN))


def _not_started(*started: object) -> None:
    raise AssertionError("a decoder was started")


@pytest.mark.parametrize(("frames", "blocks"), [(89, 0), (0, 100)])
def test_no_more_is_worked_than_was_paid(frames: int, blocks: int) -> None:
    for form in ("mpegts", "mp4"):  # the first does not say how many pictures it has: they are counted
        data = film(steady(90), form=form)
        run = Transcode.load().open(asked(data, {"renditions": "144p"}, frames=frames, blocks=blocks), (data,))
        with pytest.raises(Refused, match="MORE_THAN_PAID") as refused:
            run.step(None, 0)
        assert refused.value.code == "BAD_INPUT"


def test_a_result_is_no_larger_than_somebody_will_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what was asked for before anything is decoded, and by what comes out while it does."""
    ladder = read_order({"renditions": "144p"}.get).ladder
    paid = transcoder.Paid(1000, 10_000)
    with monkeypatch.context() as patch:
        patch.setattr(transcoder, "MAX_MADE", 50_000)  # three seconds at 150 kbit/s are more
        patch.setattr(transcoder._Encoders, "__init__", _not_started)
        with pytest.raises(Refused, match="RESULT_TOO_LARGE"):
            list(transcoder.Transcoder(ladder, paid=paid).film(PLAIN))
    monkeypatch.setattr(transcodechild, "MAX_MADE", 50_000)
    with pytest.raises(Refused, match="RESULT_TOO_LARGE"):
        list(transcodechild._held(transcoder.Transcoder(ladder, paid=paid).film(PLAIN)))


BAD = {
    "nothing in it": bytes(4),
    "noise": bytes(range(256)) * 400,
    "half a film": PLAIN[: len(PLAIN) // 2],
    "a sound": sound_only(1.0),
    "a playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a bomb": bomb(),
    "a million streams": with_streams(1_000_000),
    "a gap in time": film([0.0, 0.1, 100.0, 100.1]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_film_is_its_owners_matter(what: str) -> None:
    run = Transcode.load().open(asked(BAD[what], {"renditions": "144p"}, frames=10_000, blocks=100_000), (BAD[what],))
    with pytest.raises(Refused) as refused:
        run.step(None, 0)
    assert refused.value.code == "BAD_INPUT"
    assert refused.value.hint


def test_a_codec_that_is_not_served_is_nobodys_fault() -> None:
    data = film(steady(10), form="matroska", encoder="ffv1")
    run = Transcode.load().open(asked(data, {"renditions": "144p"}), (data,))
    with pytest.raises(Refused, match="CODEC_UNSERVED") as refused:
        run.step(None, 0)
    assert refused.value.code == "POLICY"


@pytest.mark.prove
def test_the_decoders_memory_is_bounded_by_the_system_not_by_what_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no check of ours sees a bomb, it finds no more memory than the child has, and the parent lives on."""
    least = 600 << 20
    program = (
        f"import compute.pipelines.transcodechild as child, compute.pipelines.transcoder as t; t.MAX_PIXELS = 1 << 30; "
        f"child._LIMITS = (({int(child_limit())}, {{memory}}),); child.main()"
    )
    large = bomb()
    job = asked(large, {"renditions": "144p"}, frames=10, blocks=16_000_000)
    monkeypatch.setattr(filmchild, "PROGRAM", (sys.executable, "-c", program.format(memory=least)))
    with pytest.raises(Refused) as refused:
        Transcode.load().open(job, (large,)).step(None, 0)
    assert refused.value.code == "BAD_INPUT"
    small = asked(PLAIN, {"renditions": "144p"})
    assert Transcode.load().open(small, (PLAIN,)).step(None, 0)  # which is plenty for what films need


def child_limit() -> int:
    return transcodechild._LIMITS[0][0]


def test_who_gives_a_film_up_waits_for_no_more_of_it() -> None:
    told: list[int] = []

    def stop(done: int, of: int) -> None:
        told.append(done)
        raise Cancelled

    long = film(steady(300))
    with pytest.raises(Cancelled):
        made(long, stop, renditions="144p")
    assert len(told) == 1
    assert told[0] < 100


def test_the_trial_is_a_job_like_others() -> None:
    spec, files = Transcode.load().trial(JobShape(TRANSCODE, bytes(32), 0, 0, 1, False))
    (only,) = Transcode.load().open(spec, files).step(None, 0)
    assert seen(only.data)["frames"] == spec.shape.length


def test_the_encoder_has_a_name_by_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    from compute.pipelines import encoder

    entry = read_folder(bundled("x264-veryfast"))
    assert (entry.pipeline, entry.name, entry.model) == (TRANSCODE, "x264-veryfast", encoder.fingerprint())
    monkeypatch.setitem(encoder.PRESET, "preset", "faster")
    assert encoder.fingerprint() != entry.model


def test_read_by_whom() -> None:
    from compute.modelfolder import reader_of

    assert reader_of("pasar-encoder") is read_encoder
