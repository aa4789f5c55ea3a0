"""Real processes: a film and a stream through a market from the command line, and a film that is none."""

from __future__ import annotations

import json
from collections.abc import Generator
from itertools import islice, pairwise
from pathlib import Path

import pytest

av = pytest.importorskip("av")
pytest.importorskip("torch")

from compute.filmcutting import cut_film  # noqa: E402
from tests.support.films import film, seen, steady  # noqa: E402
from tests.support.processes import LocalMarket, local_market, outcome  # noqa: E402

pytestmark = [pytest.mark.live, pytest.mark.prove]
SECONDS = 20
PATIENT = ("--deadline", "200", "--json")  # a cold worker on a busy machine takes its time


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path_factory.mktemp("market"), request) as market:
        nodes = [
            market.role("bootstrap"),
            market.role("orchestrator", "--model", "x264-veryfast"),
            market.role("gateway"),
        ]
        for node in nodes:
            node.ready()
        yield market


@pytest.fixture(scope="module")
def clip(market: LocalMarket) -> Path:
    path = market.home / "camera.mp4"
    path.write_bytes(film(steady(30 * SECONDS), width=640, height=360, sound="aac", preset="veryfast"))
    return path


def test_a_film_is_bought_and_what_is_none_is_not_sent(market: LocalMarket, clip: Path) -> None:
    got = outcome(market.start("bid", "transcode", "--file", str(clip), "--set", "renditions=240p,144p", *PATIENT))
    assert got.code == 0, got.process.tail()
    files = [market.cwd / name for name in (got.report["out"], *got.report["beside"])]
    assert [path.name.partition("-240p")[1] or path.name.partition("-144p")[1] for path in files] == ["-240p", "-144p"]
    assert [seen(path.read_bytes())["frames"] for path in files] == [30 * SECONDS] * 2
    noise = market.home / "noise.ts"
    noise.write_bytes(bytes(5000))
    process = market.start("bid", "transcode", "--file", str(noise))
    assert process.wait() == 2
    assert "no film" in process.errors() or "no pictures" in process.errors()


def test_a_film_at_its_own_pace_becomes_a_stream_without_a_gap(
    market: LocalMarket, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = market.home / "public"
    told = (
        "--source",
        str(clip),
        "--out",
        str(out),
        "--set",
        "renditions=240p",
        "--window",
        "0",
        "--deadline",
        "60",
        "--json",
    )
    process = market.start("live", *told)
    assert process.wait(150) == 0, process.tail()
    report = json.loads(process.stdout[-1])
    assert (report["segments"], report["lost"]) == (SECONDS // 2, 0), process.tail()
    with av.open(str(out / "master.m3u8")) as source:
        times = [float(f.pts * f.time_base) for packet in source.demux(video=0) for f in packet.decode()]
    assert len(times) == 30 * SECONDS
    assert all(0.0332 < b - a < 0.0335 for a, b in pairwise(times))
    joined = b"".join(path.read_bytes() for path in sorted(out.glob("240p_*.ts")))
    assert seen(joined)["size"] == (426, 240)
    speed = report["seconds"] / (report["seconds"] + report["lag_s"])
    with capsys.disabled():
        behind = f"{report['worst_lag_s']:.2f} s behind at most"
        print(f"\nlive 240p: {report['seconds']:.0f} s of film, {speed:.2f} s in a second, {behind}")


def test_segments_in_a_folder_become_a_stream_as_they_appear(market: LocalMarket, clip: Path) -> None:
    source, out = market.home / "segments", market.home / "window"
    source.mkdir()
    told = (
        "--source",
        str(source),
        "--out",
        str(out),
        "--set",
        "renditions=144p",
        "--idle",
        "8",
        "--whole",
        "--json",
        "--deadline",
        "60",
    )
    process = market.start("live", *told, "--window", "3")
    for number, cut in enumerate(islice(cut_film(clip, 2.0), 5)):
        fresh = source / f"next{number}"
        fresh.write_bytes(cut.data)
        fresh.rename(source / f"seg{number + 8}.ts")  # 9 comes before 10
    assert process.wait(120) == 0, process.tail()
    report = json.loads(process.stdout[-1])
    assert (report["segments"], report["lost"]) == (5, 0), process.tail()
    text = (out / "144p.m3u8").read_text()
    assert "#EXT-X-MEDIA-SEQUENCE:2\n" in text
    assert [line for line in text.splitlines() if line.endswith(".ts")] == [f"144p_00000{n}.ts" for n in (2, 3, 4)]
    joined = b"".join(path.read_bytes() for path in sorted(out.glob("144p_*.ts")))
    assert seen(joined)["frames"] == 300
