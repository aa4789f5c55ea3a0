"""Previews: small, seldom, never dear; asked for by the bid, passed on by a gateway in moderation, kept as files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.noop_worker import NoopWorker
from compute.messages import MAX_PREVIEW
from compute.openjob import OpenJob
from compute.previewing import EVERY_S, SHARE, SIDE, Previews, small, wanted
from compute.spec import JobSpec, Option
from compute.work import JobResult, Step
from market.album import MOST, MOST_SIDE, Album
from market.bidwire import JobNews, JobPreview, News
from market.bulletin import PREVIEWS_BURST, Bulletin
from market.client import Delivered
from p2p.errors import Misconfigured, Refused
from tests.support.job_specs import job_id, job_spec
from tests.support.marketplace import marketplace

np = pytest.importorskip("numpy")
pillow = pytest.importorskip("PIL.Image")
JOB = job_id("a")


def asking(every: str) -> JobSpec:
    return replace(job_spec(b"m" * 32, steps=100), options=(Option("previews", every),))


def webp(side: int = 64) -> bytes:
    out = io.BytesIO()
    pillow.new("RGB", (side, side)).save(out, format="WEBP")
    return out.getvalue()


class Seen:
    """A run whose glimpses take ``cost`` seconds of a clock that stands otherwise."""

    def __init__(self, cost: float = 0.0) -> None:
        self.now, self.cost, self.made = 0.0, cost, list[int]()

    def clock(self) -> float:
        return self.now

    def glimpse(self, before: Any, after: Any, index: int) -> Any:
        self.made.append(index)
        self.now += self.cost
        return np.zeros((32, 32, 3), np.uint8)


def open_job(run: Any, spec: JobSpec, name: bytes = JOB) -> OpenJob:
    nothing: Any = None
    return OpenJob(name, spec, nothing, run, nothing, None, 0, 0.0)


def advance(previews: Previews, job: OpenJob) -> bytes:
    job.index += 1
    return previews.of(job)


@pytest.mark.parametrize(("text", "every"), [("", 0), ("1", 1), ("4096", 4096)])
def test_a_job_says_after_how_many_steps_it_is_looked_at(text: str, every: int) -> None:
    assert wanted(asking(text)) == every
    assert wanted(job_spec(b"m" * 32)) == 0


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "yes", "4097", "9" * 256, "²"])
def test_no_number_of_steps_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="BAD_INPUT"):
        wanted(asking(text))


def test_only_who_asks_is_looked_at_and_only_at_its_steps() -> None:
    run = Seen()
    previews = Previews(run.clock)
    silent, asked = open_job(run, job_spec(b"m" * 32)), open_job(run, asking("3"))
    for _ in range(10):
        run.now += EVERY_S
        assert not advance(previews, silent)
        advance(previews, asked)
    assert run.made == [2, 5, 8]


def test_what_a_checker_decides_on_is_not_seen_before() -> None:
    run = Seen()
    previews, job = Previews(run.clock), open_job(run, asking("1"))
    job.may_be_seen = False
    for _ in range(3):
        run.now += EVERY_S
        assert not advance(previews, job)
    assert not run.made


def test_a_job_is_looked_at_twice_a_second_at_most() -> None:
    run = Seen()
    previews, job = Previews(run.clock), open_job(run, asking("1"))
    for _ in range(99):
        run.now += EVERY_S / 10
        advance(previews, job)
    assert len(run.made) == 10
    assert not previews.of(open_job(object(), asking("1"), job_id("b")))


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=60), st.floats(0.001, 0.2), st.integers(1, 16))
def test_all_previews_together_take_a_small_share_of_the_device(steps: list[float], cost: float, many: int) -> None:
    run = Seen(cost)
    previews = Previews(run.clock)
    jobs = [open_job(run, asking("1"), job_id(f"{number}")) for number in range(many)]
    for step_s in steps:
        run.now += step_s
        for job in jobs:
            advance(previews, job)
    spent = cost * len(run.made)
    assert spent <= run.now / (1 + SHARE) + cost + 1e-6


def test_a_preview_that_fails_costs_its_job_nothing() -> None:
    class Broken:
        def glimpse(self, before: Any, after: Any, index: int) -> Any:
            raise RuntimeError("in a library")

    assert advance(Previews(), open_job(Broken(), asking("1"))) == b""


@pytest.mark.parametrize(("height", "width"), [(64, 64), (8, 64), (640, 320)])
def test_its_file_is_small_whatever_is_in_it(height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = small(noise)
    assert len(file) <= MAX_PREVIEW
    with pillow.open(io.BytesIO(file)) as picture:
        assert max(picture.size) <= SIDE
        assert picture.format == "WEBP"


def test_a_bulletin_shows_the_newest_to_who_asked_and_no_flood() -> None:
    async def told(*, previews: bool) -> Bulletin:
        bulletin = Bulletin(previews=previews)
        for step in range(1, 1000):
            bulletin.tell(JobPreview(JOB, step, b"p"))
        return bulletin

    bulletin = trio.run(lambda: told(previews=True), clock=trio.testing.MockClock())
    fresh, seen = bulletin.seen_since(0)
    assert (seen, [one.step for one in fresh]) == (PREVIEWS_BURST, [PREVIEWS_BURST])
    assert bulletin.seen_since(seen) == ([], seen)
    assert bulletin.since(0) == ([], 0)
    bulletin.end()
    assert bulletin.seen_since(0)[0] == []
    assert trio.run(lambda: told(previews=False)).shown == 0


def test_an_album_keeps_small_pictures_and_not_too_many(tmp_path: Path) -> None:
    album = Album(tmp_path / "deep" / "down")
    for data in (b"", b"\0" * 100, b"<svg/>", webp(MOST_SIDE + 1)):
        album.show(JobPreview(JOB, 1, data) if data else JobPreview(JOB, 1, b"x"))
    assert album.kept == 0
    for step in range(MOST + 10):
        album.show(JobPreview(JOB, step, webp(8)))
    assert album.kept == MOST == len(list((tmp_path / "deep" / "down").iterdir()))
    assert (tmp_path / "deep" / "down" / f"{JOB.hex()[:12]}-0007.webp").read_bytes() == webp(8)
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="previews"):
        Album(tmp_path / "file")


class Showing(NoopWorker):
    """Shows what it makes after each step."""

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        def told(step: Step) -> None:
            on_step(step)
            if step.step:
                on_step(replace(step, preview=webp()))

        return await super().generate(job_id, spec, told, files)


async def test_a_client_sees_what_it_asked_for_through_the_market(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=Showing(step_s=0.02))
            client, _ = await market.client(3)
            for options, some in (((Option("previews", "1"),), True), ((), False)):
                shown: list[JobPreview] = []
                steps: list[int] = []

                def tell(news: object, steps: list[int] = steps) -> None:
                    if isinstance(news, JobNews) and news.event is News.STEP:
                        steps.append(news.step)

                bid = await market.bid(client, gateway.key.peer, steps=20, options=options)
                got = await client.bid(gateway.key.peer, bid, tell, show=shown.append)
                assert isinstance(got, Delivered)
                assert bool(shown) is some
                assert all(one.data == webp() and one.job_id == got.done.job_id for one in shown)
                assert len(shown) < 20
                assert steps == sorted(set(steps))
