"""prefilter: the time to judge every offer of a full book, against a book of a hundredth of the size.

Both books hold offers of the same make: 20 models, twelve kinds of devices whose speeds scatter by 5 %, three size
classes, prices over two decades, one offer in twenty on another settlement; 200 sellers of each are known first-hand.
"""

from __future__ import annotations

import random
from statistics import median
from time import perf_counter
from typing import Any

from compute.spec import JobShape, Quality, Verification
from ledger.money import Settlement
from market.book import OrderBook
from market.offer import ModelOffer, Offer
from market.prefilter import Terms, prefilter
from market.scoring import View
from p2p.envelope import Signed
from p2p.peer import Address, PeerId, peer_of

SMALL, LARGE = 1_000, 100_000
GOAL = 5
NOW = 1_800_000_000
PIPELINE = "text-to-image"
HERE, ELSEWHERE = Settlement(1337, Address(b"\x11" * 20)), Settlement(1, Address(b"\x22" * 20))
MODELS = [bytes([number]) * 32 for number in range(20)]
SPEEDS = [400_000 * 2**octave for octave in range(12)]
ENVELOPE = Signed(b"\0", b"\0" * 65)  # the book keeps envelopes; it is the gossip gate that checks them


def offer(number: int, chance: random.Random) -> Offer:
    """One plausible offer."""
    seller = peer_of(b"\x02" + number.to_bytes(32, "big"))
    kind = chance.randrange(len(SPEEDS))
    entries = tuple(
        ModelOffer(
            name="model",
            model=model,
            native_side=512,
            max_side=(512, 768, 1024)[kind // 4],
            max_steps=1000,
            dtype="bfloat16",
            quality=Quality.EXACT,
            warm=position == 0,
            speed=SPEEDS[kind] * chance.randrange(95, 106) // 100,
            load_ms=20_000,
        )
        for position, model in enumerate(chance.sample(MODELS, 2))
    )
    return Offer(
        network="bench",
        settlement=HERE if chance.randrange(20) else ELSEWHERE,
        seller=seller,
        serial=1,
        pipeline=PIPELINE,
        models=entries,
        price=int(10 ** (4 + 2 * chance.random())),
        slots=1,
        verification=(Verification.TRACE,) if chance.randrange(4) else (Verification.RECEIPT,),
        payout=Address(seller[-20:]),
        refresh_s=300,
        issued_at=NOW,
    )


def filled(size: int) -> tuple[OrderBook, dict[PeerId, View]]:
    """A book of ``size`` offers, and what is known of 200 of the sellers."""
    chance, book = random.Random(size), OrderBook("bench", LARGE)
    views = {}
    for number in range(size):
        made = offer(number, chance)
        book.post(made, ENVELOPE, NOW, subnet=chance.randbytes(3))
        if number % (size // 200) == 0:
            views[made.seller] = View(newcomer=False, exposure_wei=10**18, speeds={made.models[0].model: 10**6})
    return book, views


def terms(number: int) -> Terms:
    """Bids of several sizes, limits and deadlines, the same for both books."""
    shape = JobShape(PIPELINE, MODELS[number % 20], (512, 768, 1024)[number % 3], 512, 10 + number % 30, True)
    return Terms(shape, HERE, 2 * 10**5 * (1 + number % 50), 5_000 * (1 + number % 12), small_job=10**9)


def timed(book: OrderBook, views: dict[PeerId, View], rounds: int = 200) -> tuple[float, int]:
    """Median milliseconds of one prefilter, and how many offers were eligible in all rounds together."""
    times, eligible = [], 0
    for number in range(rounds):
        started = perf_counter()
        eligible += prefilter(book, terms(number), views, NOW).eligible
        times.append((perf_counter() - started) * 1000)
    return median(times), eligible


def measure() -> dict[str, Any]:
    """Both sizes in one run, interleaved by repeating the smaller one after the larger."""
    small, large = filled(SMALL), filled(LARGE)
    timed(*small, rounds=20)
    first, eligible_small = timed(*small)
    at_large, eligible_large = timed(*large)
    second, _ = timed(*small)
    at_small = min(first, second)
    ratio = at_large / at_small
    return {
        "results": {
            "offers": [SMALL, LARGE],
            "median_ms": [round(at_small, 4), round(at_large, 4)],
            "eligible": [eligible_small, eligible_large],
            "ratio": round(ratio, 2),
        },
        "goals": [
            {
                "what": f"prefilter time at {LARGE} offers over that at {SMALL}",
                "value": round(ratio, 2),
                "op": "<=",
                "goal": GOAL,
                "met": ratio <= GOAL,
            }
        ],
    }
