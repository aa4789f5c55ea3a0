"""What a transcoding costs against the ffmpeg command line on the same clip, and how fast live segments go.

Both sides are child processes, counted whole: start, decoding, scaling, encoding, segments and playlist. Same encoder,
same preset, same rates, one thread each. Knows the transcoder only as its callers do.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.live_market import through_market
from benchmarks.report import NotRun, Report, Say, goal

SECONDS: Final = 12
ROUNDS: Final = 3
LIVE_MS: Final = 2000
LOOK_AT: Final = 5  # one frame of so many is compared
_SOURCE: Final = (
    "-f lavfi -i testsrc2=size=1280x720:rate=30 -f lavfi -i sine=frequency=440:sample_rate=48000 -t {seconds} "
    "-c:v libx264 -preset veryfast -threads 1 -g 60 -keyint_min 60 -sc_threshold 0 -b:v 3M -c:a aac -b:a 96k"
)
_ENCODE: Final = (
    "-c:v libx264 -preset veryfast -threads 1 -g 10000 -sc_threshold 0 -forced-idr 1 "
    "-force_key_frames expr:gte(t,n_forced*2) -pix_fmt yuv420p -c:a copy -f hls -hls_time 2 -hls_playlist_type vod"
)


def run(say: Say) -> Report:
    """Alternating rounds on one clip, the likeness of both results to the source, and live: alone and in a market."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise NotRun("there is no ffmpeg to compare with: apt-get install ffmpeg")
    try:
        import av  # noqa: F401
    except ImportError as exc:
        raise NotRun("transcoding needs PyAV: pip install 'pasar[video]'") from exc
    with tempfile.TemporaryDirectory(prefix="pasar-transcode-") as place:
        clip = Path(place) / "clip.mp4"
        subprocess.run([ffmpeg, "-v", "error", *_SOURCE.format(seconds=SECONDS).split(), str(clip)], check=True)
        whole = _whole(ffmpeg, clip, say)
        live = _live(ffmpeg, clip, say)
        sold = trio.run(through_market, clip, "240p", LIVE_MS / 1000, say)
    goals = [
        goal("CPU seconds against the ffmpeg command line", whole["ratio"], "<=", 1.25),
        goal("CPU seconds against the ffmpeg command line (stretch)", whole["ratio"], "<=", 1.15),
        goal("frames of the clip in each rendition", min(whole["frames"].values()), ">=", SECONDS * 30),
        goal("likeness of a rendition to the source, mean dB over ffmpeg's", whole["psnr_over_ffmpeg"], ">=", -0.5),
        goal("live 240p: seconds of film a second", live["speed"], ">=", 1.0),
        goal("live 240p through a market, a job a segment: seconds of film a second", sold["speed"], ">=", 1.0),
    ]
    return {"results": {"whole": whole, "live": live, "live_market": sold}, "goals": goals}


def _whole(ffmpeg: str, clip: Path, say: Say) -> dict[str, Any]:
    from compute.pipelines.transcode import Transcode

    ladder, data = _ladder("360p", "240p"), clip.read_bytes()
    mine, theirs = [], []
    for number in range(ROUNDS):
        start = _children()
        segments, _ = Transcode.load().film(data, ladder)
        mine.append(_children() - start)
        start = _children()
        subprocess.run(_command(ffmpeg, clip, ladder), check=True)
        theirs.append(_children() - start)
        say(f"round {number + 1}: {mine[-1]:.2f} CPU s, ffmpeg {theirs[-1]:.2f}")
    ratio = statistics.median(one / other for one, other in zip(mine, theirs, strict=True))
    judged = _judged(clip, segments, ladder)
    decoded = _decoded_pixel(clip, ladder, statistics.median(mine))
    say(f"to decode a pixel takes {decoded:.2f} of what it takes to scale and encode one; a price counts it as a half")
    return {
        "cpu_s": round(statistics.median(mine), 2),
        "ffmpeg_cpu_s": round(statistics.median(theirs), 2),
        "ratio": round(ratio, 3),
        "decoded_pixel": round(decoded, 2),
        **judged,
    }


def _decoded_pixel(clip: Path, ladder: Any, whole_s: float) -> float:
    """What a pixel of the source costs to decode, over what one of the renditions costs beside that."""
    import av

    pixels, start = 0, time.process_time()
    with av.open(str(clip)) as source:
        source.streams.video[0].thread_count = 1
        for frame in source.decode(video=0):
            pixels += frame.width * frame.height
    spent = time.process_time() - start
    made = sum(one.width * one.height for one in ladder.renditions) * SECONDS * 30
    return (spent / pixels) / (max(whole_s - spent, 0.001) / made)


def _live(ffmpeg: str, clip: Path, say: Say) -> dict[str, Any]:
    """Each segment pushed as soon as the one before it is back."""
    from compute.pipelines.transcode import Transcode

    names = str(clip.with_name("live%03d.ts"))
    cut = f"-f segment -segment_time {LIVE_MS / 1000}"
    subprocess.run([ffmpeg, "-v", "error", "-i", str(clip), "-c", "copy", *cut.split(), names], check=True)
    spent = []
    with Transcode.load().live(_ladder("240p")) as live:
        for file in sorted(clip.parent.glob("live*.ts")):
            start = time.perf_counter()
            live.push(file.read_bytes())
            spent.append(time.perf_counter() - start)
    say(f"live segments of {LIVE_MS / 1000:.0f} s took {', '.join(f'{one:.2f}' for one in spent)} s")
    return {"speed": round(SECONDS / sum(spent), 2), "slowest_s": round(max(spent), 2)}


def _judged(clip: Path, segments: Any, ladder: Any) -> dict[str, Any]:
    """Frames in each rendition, and how much nearer to the source it is than ffmpeg's, in every fifth of them."""
    from compute.likeness import compare
    from compute.pipelines.transcoder import gray_frames

    frames, over = {}, []
    for one in ladder.renditions:
        made = b"".join(piece.data for piece in segments if piece.rendition == one.name)
        other = b"".join(path.read_bytes() for path in sorted(clip.parent.glob(f"{one.name}_*.ts")))
        source, mine, theirs = (
            list(gray_frames(data, one.width, one.height)) for data in (clip.read_bytes(), made, other)
        )
        frames[one.name] = len(mine)
        ours, ffmpegs = (compare(source[::LOOK_AT], shown[::LOOK_AT]) for shown in (mine, theirs))
        over.append(ours.psnr_mean - ffmpegs.psnr_mean)
    return {"frames": frames, "psnr_over_ffmpeg": round(min(over), 2)}


def _ladder(*names: str) -> Any:
    from compute.renditions import Ladder, Rendition

    known = {"360p": Rendition("360p", 640, 360, 600_000), "240p": Rendition("240p", 426, 240, 300_000)}
    return Ladder(tuple(known[name] for name in names), LIVE_MS)


def _command(ffmpeg: str, clip: Path, ladder: Any) -> list[str]:
    count = len(ladder.renditions)
    split = f"[0:v]split={count}" + "".join(f"[v{at}]" for at in range(count))
    scales = [f"[v{at}]scale={one.width}:{one.height}[s{at}]" for at, one in enumerate(ladder.renditions)]
    words = [ffmpeg, "-v", "error", "-y", "-threads", "1", "-i", str(clip), "-filter_complex_threads", "1"]
    words += ["-filter_complex", ";".join([split, *scales])]
    for at, one in enumerate(ladder.renditions):
        place = clip.with_name(one.name)
        rates = ["-b:v", str(one.bitrate), "-maxrate", str(one.bitrate * 3 // 2), "-bufsize", str(one.bitrate * 2)]
        words += ["-map", f"[s{at}]", "-map", "0:a", *_ENCODE.split(), *rates]
        words += ["-hls_segment_filename", f"{place}_%03d.ts", f"{place}.m3u8"]
    return words


def _children() -> float:
    """CPU seconds of children that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system
