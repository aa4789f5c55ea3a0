"""Bad input end to end: from a client's bid through the market to a real worker, and a typed refusal back.

Each row is a lie or a mistake of a caller. None may cost memory, a worker, a seller's name or the caller's money.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import pytest

from compute.modelfolder import bundled, bundled_names
from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    MAX_INPUT,
    MAX_INPUTS,
    MAX_OPTIONS,
    MAX_PROMPT,
    MAX_SEED,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    UPSCALE,
    Input,
    Option,
)
from market.bid import Bid
from market.bidwire import JobFailed
from market.client import Delivered, Wish, check_wish
from market.protocol import BID
from market.refusal import Code, Refusal
from p2p.codec import encode
from p2p.errors import MalformedMessage, Misconfigured
from p2p.framing import frame, head_of
from p2p.stream import JOB_FRAME
from tests.support import bad_media as media
from tests.support.hostile import hung_up
from tests.support.town import Town, inputs_of

pytest.importorskip("torch")
pytest.importorskip("av")
pytestmark = [pytest.mark.prove, pytest.mark.live]  # its worker loads every small model that ships

PIPELINES = (TEXT_TO_IMAGE, AUDIO_TO_TEXT, IMAGE_TO_IMAGE, IMAGE_TO_TEXT, IMAGE_TO_VIDEO, SEGMENT_ANYTHING, UPSCALE)
ON_PICTURES = (IMAGE_TO_IMAGE, IMAGE_TO_TEXT, IMAGE_TO_VIDEO, SEGMENT_ANYTHING, UPSCALE)
FILMS = "x264-veryfast"  # what is done to films has its own tests, with a process of its own that decodes
SPOKEN_MS = 10_000
ROOM = 300 * 2**20  # that the worker may take at most beyond what six models and a job of each take
PLAIN = Wish("a red circle", steps=2, deadline_ms=90_000, seed=7)


def on_picture(pipeline: str, **changes: Any) -> Wish:
    side = 2 * media.SIDE if pipeline == UPSCALE else media.SIDE
    options = (Option("points", "[[32, 32]]"),) if pipeline == SEGMENT_ANYTHING else ()
    length = 4 if pipeline == IMAGE_TO_VIDEO else 0
    plain = replace(PLAIN, prompt="", width=side, height=side, steps=1, guidance=0, length=length, options=options)
    return replace(plain, **changes)


def good(pipeline: str) -> tuple[Wish, tuple[bytes, ...]]:
    """A wish that is served, and its files."""
    if pipeline == TEXT_TO_IMAGE:
        return PLAIN, ()
    if pipeline == IMAGE_TO_IMAGE:
        return PLAIN, (media.picture(),)
    if pipeline == AUDIO_TO_TEXT:
        return replace(PLAIN, prompt="", steps=1, guidance=0, length=SPOKEN_MS), (media.SPEECH,)
    return on_picture(pipeline), (media.picture(),)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Generator[Town]:
    models = tuple(bundled(name) for name in bundled_names() if name != FILMS)
    town = Town(tmp_path_factory.mktemp("bad"), models, PIPELINES)
    for pipeline in PIPELINES:
        assert_served(town, pipeline)
    pid, peak = town.worker.pid, town.worker_peak
    yield town
    grown = town.worker_peak - peak
    same = town.worker.pid == pid
    town.end()
    assert same
    assert grown < ROOM


def assert_served(town: Town, pipeline: str) -> None:
    wish, files = good(pipeline)
    got = town.bid(pipeline, replace(wish, inputs=inputs_of(files)), files)
    assert isinstance(got, Delivered), got


@dataclass(frozen=True)
class Case:
    """One job that a worker must not do: ``says`` is how its reason begins."""

    pipeline: str
    name: str
    says: str
    files: Callable[[], Sequence[bytes]] | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.pipeline}: {self.name}"


def one(make: Callable[..., bytes], *args: Any, **options: Any) -> Callable[[], Sequence[bytes]]:
    return lambda: (make(*args, **options),)


def wav(frames: int, **lies: Any) -> Callable[[], Sequence[bytes]]:
    return one(media.wav, bytes(2 * frames), **lies)


def cut(data: bytes) -> Callable[[], Sequence[bytes]]:
    return lambda: (data[: len(data) // 2],)


BAD_PICTURES: tuple[tuple[str, str, Callable[[], Sequence[bytes]]], ...] = (
    ("a hundred thousand pixels a side", "PICTURE_TOO_LARGE", one(media.picture_that_claims, 100_000, 100_000)),
    ("texts that unpack to a hundred megabytes", "BAD_PICTURE", one(media.picture_with_words, 100)),
    ("a thousand scans", "PICTURE_TOO_LARGE", one(media.picture_of_scans, 1000)),
    ("a GIF of a hundred thousand frames", "BAD_PICTURE", one(media.gif_of_frames, 100_000)),
    ("cut off", "BAD_PICTURE", cut(media.picture())),
    ("a sound", "BAD_PICTURE", lambda: (media.SPEECH,)),
    ("a side of no pixels", "BAD_PICTURE", one(media.picture_that_claims, 64, 0)),
    ("two pictures", "", lambda: (media.picture(), media.picture(name="JPEG"))),
    ("no picture", "", lambda: ()),
)
BAD_SOUNDS: tuple[tuple[str, str, Callable[[], Sequence[bytes]]], ...] = (
    ("a length past the file", "BAD_SOUND", wav(100, size=2**32 - 1)),
    ("a rate past any", "BAD_SOUND", wav(100, rate=2**31)),
    ("more channels than ears", "BAD_SOUND", wav(800, channels=64)),
    ("samples that are no numbers", "BAD_SOUND", one(media.wav, b"\xff" * 4000, kind=3, bits=32)),
    ("cut off", "BAD_SOUND", lambda: (media.SPEECH[:-100],)),
    ("a picture", "BAD_SOUND", one(media.picture)),
    ("a play list", "BAD_SOUND", lambda: (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",)),
    ("longer than was said", "SOUND_TOO_LONG", wav(16_000 * (SPOKEN_MS // 1000 + 2))),
    ("minutes of silence in a few bytes", "SOUND_TOO_LONG", one(media.silence, 60)),
    ("two sounds", "", lambda: (media.SPEECH, media.wav(bytes(3200)))),
    ("no sound", "", lambda: ()),
)
SAID = {UPSCALE: "the picture is 96 x 96"}  # of the result, which is what was priced
CASES = (
    *(
        Case(
            pipeline, "another size than was said", SAID.get(pipeline, "the picture is 48 x 48"), one(media.picture, 48)
        )
        for pipeline in ON_PICTURES
        if pipeline != IMAGE_TO_IMAGE  # which has the picture cut to what was said
    ),
    *(
        Case(IMAGE_TO_IMAGE, f"a strength of {value}", "", None, {"options": (Option("strength", value),)})
        for value in ("nan", "inf", "-1", "1.1", "a")
    ),
    *(Case(pipeline, *row) for pipeline in ON_PICTURES for row in BAD_PICTURES),
    *(Case(AUDIO_TO_TEXT, *row) for row in BAD_SOUNDS),
    *(
        Case(pipeline, "an unknown option", "no option", None, {"options": (Option("colour", "red"),)})
        for pipeline in PIPELINES
    ),
    Case(UPSCALE, "a factor of three", "BAD_FACTOR", None, {"options": (Option("factor", "3"),)}),
    Case(UPSCALE, "a factor of nan", "BAD_FACTOR", None, {"options": (Option("factor", "nan"),)}),
    *(
        Case(IMAGE_TO_VIDEO, f"{name} {value}", says, None, {"options": (Option(name, value),)})
        for name, value, says in (
            ("amount", "nan", "amount is a number"),
            ("amount", "-inf", "amount is a number"),
            ("amount", "1e308", "BAD_AMOUNT"),
            ("fps", "inf", "fps is a number"),
            ("fps", "1e300", "BAD_FPS"),
            ("fps", "-1", "BAD_FPS"),
            ("motion", "a" * 256, "BAD_MOTION"),
        )
    ),
    *(
        Case(SEGMENT_ANYTHING, f"{name} {value[:20]}", "BAD_PROMPT", None, {"options": (Option(name, value),)})
        for name, value in (
            ("points", "[[NaN, 1]]"),
            ("points", "[[1e999, 1]]"),
            ("points", "[" * 256),
            ("points", "[[1,1]," * 30),
            ("points", "[[-1, 1]]"),
            ("box", "[1, 1, 1, 1]"),
            ("box", "[1, 1, 2000000000, 2]"),
            ("labels", "[2]"),
        )
    ),
    Case(IMAGE_TO_VIDEO, "a single frame", "BAD_FRAMES", None, {"length": 1}),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_worker_refuses_and_nobody_is_blamed(town: Town, case: Case) -> None:
    wish, files = good(case.pipeline)
    files = files if case.files is None else tuple(case.files())
    before, pid, peak = replace(town.record), town.worker.pid, town.worker_peak
    got = town.bid(case.pipeline, replace(wish, inputs=inputs_of(files), **case.changes), files)
    assert isinstance(got, JobFailed), got
    assert (got.code, got.charged) == ("BAD_INPUT", 0)
    assert got.hint.startswith(case.says), got.hint
    assert list(got.tried) == [town.seller.key.peer]  # once: nobody else is there, and it would say the same again
    after = town.record
    assert (after.jobs, after.faults, after.failed_in_row) == (before.jobs, before.faults, 0)
    assert town.gateway.books.standing(town.seller.key.address).faults == 0
    assert town.gateway.seat.failures == town.seller.seat.failures == []
    assert town.worker.pid == pid
    assert town.worker_peak - peak < ROOM


def test_of_an_animation_without_end_the_first_picture_is_looked_at(town: Town) -> None:
    files = (media.apng_of_frames(2**31 - 1),)
    got = town.bid(IMAGE_TO_TEXT, on_picture(IMAGE_TO_TEXT, inputs=inputs_of(files)), files)
    assert isinstance(got, Delivered), got


def test_of_a_film_the_sound_is_heard_and_no_picture_is_made(town: Town) -> None:
    files, before = (media.sound_beside_a_picture(9000),), town.worker_peak
    wish = replace(good(AUDIO_TO_TEXT)[0], inputs=inputs_of(files))
    got = town.bid(AUDIO_TO_TEXT, wish, files)
    assert isinstance(got, Delivered), got
    assert town.worker_peak - before < 9000 * 9000


# -- what no offer takes ---------------------------------------------------------------------------------------------


def huge(size: int) -> tuple[Input, ...]:
    return (Input("image/png", size, bytes(32)),)


BEYOND: dict[str, tuple[str, Wish]] = {
    "pixels of a picture": (TEXT_TO_IMAGE, replace(PLAIN, width=1024, height=1024)),
    "steps": (TEXT_TO_IMAGE, replace(PLAIN, steps=4096)),
    "files where there are none": (TEXT_TO_IMAGE, replace(PLAIN, inputs=huge(1))),
    "frames of a clip": (IMAGE_TO_VIDEO, on_picture(IMAGE_TO_VIDEO, length=241, inputs=huge(99))),
    "pixels of a clip": (IMAGE_TO_VIDEO, on_picture(IMAGE_TO_VIDEO, width=1025, inputs=huge(99))),
    "bytes of a picture": (UPSCALE, on_picture(UPSCALE, inputs=huge(16 * 2**20 + 1))),
    "steps where there is one": (UPSCALE, on_picture(UPSCALE, steps=2, inputs=huge(99))),
    "milliseconds of sound": (AUDIO_TO_TEXT, replace(good(AUDIO_TO_TEXT)[0], length=3_600_001, inputs=huge(99))),
    "a length where there is none": (IMAGE_TO_TEXT, on_picture(IMAGE_TO_TEXT, length=1, inputs=huge(99))),
}


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_the_limits_of_an_offer_it_is_counted_and_no_byte_is_asked_for(town: Town, name: str) -> None:
    pipeline, wish = BEYOND[name]
    # If they were asked for, they would be sent, which these cannot.
    files = [NeverSent(file.size) for file in wish.inputs]
    got = town.bid(pipeline, wish, files)
    assert isinstance(got, Refusal)
    assert got.code is Code.NO_MATCH
    assert got.counts == {"pipeline": len(PIPELINES) - 1, "parameters": 1}


class NeverSent(bytes):
    """As long as it is said to be, and not there."""

    def __new__(cls, size: int) -> NeverSent:
        made = super().__new__(cls)
        made.size = size
        return made

    size: int

    def __len__(self) -> int:
        return self.size


def test_a_model_and_a_pipeline_that_nobody_has(town: Town) -> None:
    async def unknown(**changes: Any) -> Any:
        bid = await town.form(TEXT_TO_IMAGE, PLAIN)
        bid = replace(bid, spec=replace(bid.spec, shape=replace(bid.spec.shape, **changes)))
        return await town.client.bid(town.gateway.key.peer, bid, lambda news: None)

    model = town.call(lambda: unknown(model=b"\7" * 32))
    assert (model.code, model.counts) == (Code.NO_MATCH, {"pipeline": len(PIPELINES) - 1, "model": 1})
    pipeline = town.call(lambda: unknown(pipeline="telepathy"))
    assert (pipeline.code, pipeline.counts) == (Code.NO_OFFERS, {"pipeline": len(PIPELINES)})


# -- what is no bid --------------------------------------------------------------------------------------------------

SPEC, SHAPE = 3, 0  # places in the arrays of a bid and of a spec
PROMPT, GUIDANCE, SEED, INPUTS, OPTIONS = 1, 3, 4, 6, 7
WIDTH, HEIGHT, STEPS, QUALITY, LENGTH = 2, 3, 4, 6, 9
DIGEST = bytes(32)

NO_BIDS: dict[str, tuple[tuple[int, ...], Any]] = {
    "a negative seed": ((SPEC, SEED), -1),
    "a seed past what JSON holds": ((SPEC, SEED), MAX_SEED + 1),
    "a seed past any integer": ((SPEC, SEED), 2**64 - 1),
    "a seed that is a fraction": ((SPEC, SEED), 1.5),
    "guidance that is no number": ((SPEC, GUIDANCE), math.nan),
    "guidance without end": ((SPEC, GUIDANCE), math.inf),
    "guidance past its bound": ((SPEC, GUIDANCE), 30_001),
    "negative guidance": ((SPEC, GUIDANCE), -1),
    "a prompt of a megabyte": ((SPEC, PROMPT), "a" * 2**20),
    "a prompt one byte too long": ((SPEC, PROMPT), "a" * (MAX_PROMPT + 1)),
    "a prompt that is no text": ((SPEC, PROMPT), b"a red circle"),
    "a negative side": ((SPEC, SHAPE, WIDTH), -64),
    "no width": ((SPEC, SHAPE, WIDTH), 0),
    "an uneven height": ((SPEC, SHAPE, HEIGHT), 65),
    "a side past any picture": ((SPEC, SHAPE, WIDTH), 2**31),
    "no steps": ((SPEC, SHAPE, STEPS), 0),
    "negative steps": ((SPEC, SHAPE, STEPS), -1),
    "a million steps": ((SPEC, SHAPE, STEPS), 10**6),
    "a negative length": ((SPEC, SHAPE, LENGTH), -1),
    "a quality that nobody has": ((SPEC, SHAPE, QUALITY), "best"),
    "an option twice": ((SPEC, OPTIONS), [["a", "1"], ["a", "2"]]),
    "options out of order": ((SPEC, OPTIONS), [["b", "1"], ["a", "2"]]),
    "an option's name too long": ((SPEC, OPTIONS), [["a" * 33, "1"]]),
    "an option's value too long": ((SPEC, OPTIONS), [["a", "1" * 257]]),
    "too many options": ((SPEC, OPTIONS), [[f"{n:02}", ""] for n in range(MAX_OPTIONS + 1)]),
    "too many files": ((SPEC, INPUTS), [["a/b", 1, bytes([n]) * 32] for n in range(MAX_INPUTS + 1)]),
    "a file of no bytes": ((SPEC, INPUTS), [["image/png", 0, DIGEST]]),
    "a file past what a node holds": ((SPEC, INPUTS), [["image/png", MAX_INPUT + 1, DIGEST]]),
    "a file that the shape does not know": ((SPEC, INPUTS), [["image/png", 5, DIGEST]]),
    "the same file twice": ((SPEC, INPUTS), [["image/png", 5, DIGEST], ["image/png", 5, DIGEST]]),
    "a limit below nothing": ((4,), -1),
    "no time": ((5,), 0),
}


async def say(town: Town, data: bytes) -> bool:
    """Say these bytes where a bid belongs; whether the gateway hung up."""
    await town.market.reach(town.seat)(town.gateway.key.peer)  # type: ignore[misc]
    raw = await town.seat.open(town.gateway.key.peer, BID)
    from p2p.stream import MessageStream

    stream = MessageStream(raw, JOB_FRAME)
    try:
        await town.market.greeter("hostile").greet(stream)
        await raw.send(data)
        return await hung_up(stream)
    finally:
        await stream.reset()


def mangled(bid: Bid, place: tuple[int, ...], value: Any) -> bytes:
    fields = msgpack.unpackb(encode(bid), use_list=True)
    at = fields
    for index in (place[0], *place[1:-1]) if len(place) > 1 else ():
        at = at[index]
    at[place[-1]] = value
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


@pytest.mark.parametrize("name", NO_BIDS)
def test_what_is_no_bid_ends_its_stream_and_counts_against_who_said_it(town: Town, name: str) -> None:
    bid = town.call(town.form, TEXT_TO_IMAGE, PLAIN)
    data = mangled(bid, *NO_BIDS[name])
    assert data != encode(bid)
    assert town.call(say, town, frame(data))
    faults = town.gateway.seat.failures
    assert [type(fault) for fault in faults] == [MalformedMessage]
    faults.clear()


def test_a_frame_past_any_bid_is_refused_by_its_length(town: Town) -> None:
    assert town.call(say, town, head_of(2**30) + b"x")
    assert [type(fault) for fault in town.gateway.seat.failures] == [MalformedMessage]
    town.gateway.seat.failures.clear()
    assert_served(town, TEXT_TO_IMAGE)


NO_WISHES = {
    "a negative seed": {"seed": -1},
    "a seed past what JSON holds": {"seed": MAX_SEED + 1},
    "guidance past its bound": {"guidance": 30_001},
    "negative guidance": {"guidance": -1},
    "a prompt of a megabyte": {"prompt": "a" * 2**20},
    "a prompt that is no text": {"prompt": "\ud800"},
    "a negative side": {"width": -64},
    "a side too short": {"width": 8},
    "an uneven side": {"height": 65},
    "no steps": {"steps": 0},
    "too many steps": {"steps": 10**6},
    "a file of no bytes": {"inputs": (Input("image/png", 0, DIGEST),)},
    "more than a node holds": {"inputs": (Input("image/png", MAX_INPUT + 1, DIGEST),)},
    "more files than a job has": {"inputs": tuple(Input("a/b", 1, bytes([n]) * 32) for n in range(MAX_INPUTS + 1))},
    "an option's value too long": {"options": (Option("a", "1" * 257),)},
    "an option's name too long": {"options": (Option("a" * 33, "1"),)},
    "an option twice": {"options": (Option("a", "1"), Option("a", "1"))},
    "a limit below nothing": {"limit": -1},
    "no time": {"deadline_ms": 0},
}


@pytest.mark.parametrize("name", NO_WISHES)
def test_a_client_says_so_before_it_asks_anybody(name: str) -> None:
    with pytest.raises(Misconfigured):
        check_wish(replace(PLAIN, **NO_WISHES[name]), TEXT_TO_IMAGE)  # type: ignore[arg-type]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_after_all_of_that_every_pipeline_is_served(town: Town, pipeline: str) -> None:
    assert_served(town, pipeline)
