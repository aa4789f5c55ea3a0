"""A schedule: everything that is drawn for one simulation before it begins. Pure.

Jobs, nodes and disturbances are drawn from the seed alone, each with a name; leaving one out (``without``) changes no
other, so that a failure can be cut down to what it needs and run again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from market.conversation import AWARD_SENT, KEY_SENT, SEALED, TICKETS_SENT

POINTS = (AWARD_SENT, SEALED, TICKETS_SENT, TICKETS_SENT, KEY_SENT)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a world is, and over how many seconds its jobs arrive."""

    gateways: int
    orchestrators: int
    jobs: int
    clients: int
    spread_s: float
    disturbances: int


SMALL = Size(3, 8, 20, 4, 15.0, 8)
LARGE = Size(20, 200, 1000, 40, 60.0, 60)


class Lie(StrEnum):
    """How a node with a valid key breaks the rules."""

    DEAR = "dear"  # quotes above its own offer
    KEYLESS = "keyless"  # takes the money and gives no key
    WRONG_KEY = "wrong-key"  # gives a key that opens nothing
    IDLE = "idle"  # takes awards and does nothing
    DENIES = "denies"  # says that the tickets were no good
    UNPAYING = "unpaying"  # a gateway that takes the seal and pays nothing


@dataclass(frozen=True, slots=True)
class Seller:
    """One orchestrator: wei per million units, seconds per step, places, and how it lies if it does."""

    name: str
    price: int
    step_s: float
    slots: int
    lie: Lie | None = None


@dataclass(frozen=True, slots=True)
class Buyer:
    """One gateway."""

    name: str
    lie: Lie | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One job: who wants it, when, from which gateways in turn, and when it is taken back or asked for again."""

    name: str
    client: int
    gateways: tuple[str, ...]
    at: float
    steps: int
    deadline_s: float
    limit_permille: int  # of the middle price; 0: no limit is named
    cheap: bool
    patient: bool
    cancel_after: float | None
    again: bool


@dataclass(frozen=True, slots=True)
class Crash:
    """A node is killed and comes back ``away_s`` later: at a time, or ``after_s`` its nth passing of ``point``."""

    name: str
    node: str
    at: float
    away_s: float
    point: str = ""
    nth: int = 0
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Island:
    """Some nodes hear nobody else for a while; what is under way arrives afterwards."""

    name: str
    nodes: frozenset[str]
    at: float
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """A connection breaks, with everything on it."""

    name: str
    one: str
    other: str
    at: float


@dataclass(frozen=True, slots=True)
class Slow:
    """Everything to and from a node takes longer for a while."""

    name: str
    node: str
    at: float
    lasts_s: float
    times: float


@dataclass(frozen=True, slots=True)
class Stall:
    """A machine dies in the middle of its jobs; the node lives on."""

    name: str
    node: str
    at: float


Disturbance = Crash | Island | Cut | Slow | Stall


@dataclass(frozen=True, slots=True)
class Schedule:
    """One simulation, whole."""

    seed: int
    latency: float
    loss: float
    reorder: float
    commit_s: float
    buyers: tuple[Buyer, ...]
    sellers: tuple[Seller, ...]
    jobs: tuple[Wanted, ...]
    disturbances: tuple[Disturbance, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be left out, what matters least first."""
        parts = (self.disturbances, self.jobs, self.sellers, self.buyers)
        return tuple(one.name for part in parts for one in part)

    def without(self, names: Collection[str]) -> Schedule:
        """The same, less what is named. Jobs whose gateways are all gone go with them."""
        left = set(names)
        jobs = (replace(j, gateways=tuple(g for g in j.gateways if g not in left)) for j in self.jobs)
        return replace(
            self,
            buyers=tuple(one for one in self.buyers if one.name not in left),
            sellers=tuple(one for one in self.sellers if one.name not in left),
            jobs=tuple(one for one in jobs if one.name not in left and one.gateways),
            disturbances=tuple(one for one in self.disturbances if one.name not in left),
        )


def drawn(seed: int, size: Size = SMALL) -> Schedule:
    """The schedule of this seed. One world in five is at peace, one in three has liars."""
    chance = Random(seed)
    buyers = tuple(Buyer(f"g{n}") for n in range(size.gateways))
    sellers = tuple(_seller(chance, n) for n in range(size.orchestrators))
    jobs = tuple(_job(chance, n, size, buyers) for n in range(size.jobs))
    if chance.randrange(3) == 0:
        buyers, sellers = _with_liars(chance, buyers, sellers)
    troubled = chance.randrange(5) > 0
    kinds = chance.randrange(1, size.disturbances + 1) if troubled else 0
    return Schedule(
        seed=seed,
        latency=chance.choice((0.005, 0.02, 0.08)),
        loss=chance.choice((0.0, 0.02, 0.1)) if troubled else 0.0,
        reorder=chance.choice((0.0, 0.2)),
        commit_s=chance.choice((0.0005, 0.003, 0.01)),
        buyers=buyers,
        sellers=sellers,
        jobs=jobs,
        disturbances=tuple(_disturbance(chance, f"d{n}", size) for n in range(kinds)),
    )


def _seller(chance: Random, n: int) -> Seller:
    price = 1_000_000 + chance.randrange(2_000_000)
    return Seller(f"o{n}", price, chance.choice((0.1, 0.3, 0.8)), chance.choice((1, 1, 2)))


def _job(chance: Random, n: int, size: Size, buyers: tuple[Buyer, ...]) -> Wanted:
    names = [buyer.name for buyer in buyers]
    chance.shuffle(names)
    return Wanted(
        name=f"j{n}",
        client=chance.randrange(size.clients),
        gateways=tuple(names[:2]),
        at=1.0 + chance.random() * size.spread_s,
        steps=chance.randrange(1, 5),
        deadline_s=chance.choice((6.0, 20.0, 40.0)),
        limit_permille=chance.choice((0, 0, 700, 1500)),
        cheap=chance.randrange(3) == 0,
        patient=chance.randrange(3) == 0,
        cancel_after=chance.random() * 2 if chance.randrange(10) == 0 else None,
        again=chance.randrange(5) == 0,
    )


def _with_liars(
    chance: Random, buyers: tuple[Buyer, ...], sellers: tuple[Seller, ...]
) -> tuple[tuple[Buyer, ...], tuple[Seller, ...]]:
    """Up to a quarter of the sellers lie, cheaply, so that they are asked; and sometimes the last gateway."""
    lies = [lie for lie in Lie if lie is not Lie.UNPAYING]
    liars = set(chance.sample(range(len(sellers)), chance.randrange(1, max(2, len(sellers) // 4 + 1))))
    mixed = tuple(
        replace(one, lie=chance.choice(lies), price=one.price // 2) if n in liars else one
        for n, one in enumerate(sellers)
    )
    if chance.randrange(4) == 0:
        buyers = (*buyers[:-1], replace(buyers[-1], lie=Lie.UNPAYING))
    return buyers, mixed


def _disturbance(chance: Random, name: str, size: Size) -> Disturbance:
    gateway, seller = f"g{chance.randrange(size.gateways)}", f"o{chance.randrange(size.orchestrators)}"
    node = chance.choice((gateway, seller))
    at, lasts = 1.0 + chance.random() * (size.spread_s + 5), chance.choice((0.3, 1.5, 4.0, 9.0))
    match chance.randrange(9):
        case 0:
            return Crash(name, node, at, lasts)
        case 1 | 2 | 3:
            point, nth, after = chance.choice(POINTS), chance.randrange(1, 6), chance.choice((0.0, 0.03, 0.1))
            return Crash(name, node, at, lasts, point, nth, after)
        case 4:
            others = [f"o{n}" for n in range(size.orchestrators)] + [f"g{n}" for n in range(size.gateways)]
            return Island(name, frozenset({node, *chance.sample(others, chance.randrange(0, 3))}), at, lasts)
        case 5:
            return Cut(name, gateway, seller, at)
        case 6:
            return Slow(name, node, at, lasts, chance.choice((5.0, 30.0)))
        case _:
            return Stall(name, seller, at)
