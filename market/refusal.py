"""Refusal: why nobody does this job, counted, with what to change. A value that travels; it raises nothing.

Every non-match has a reason: which rule excluded how many offers, the cheapest price seen, and a hint in one sentence.
Knows no book and no auction; they fill it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from ledger.money import Amount
from p2p.codec import U32, Size, message


class Rule(StrEnum):
    """What excludes an offer from one job. An offer is counted once, under the first rule in this order."""

    PIPELINE = "pipeline"
    SETTLEMENT = "settlement"
    MODEL = "model"
    PARAMETERS = "parameters"
    QUALITY = "quality"
    VERIFICATION = "verification"
    WITHOUT = "without"
    BANNED = "banned"
    PRICE = "price"
    FINISH = "finish"
    EXPOSURE = "exposure"
    NO_ANSWER = "no-answer"
    REFUSED_LATELY = "refused-lately"


class Code(StrEnum):
    """Why a bid ends without a result, as it travels to the caller."""

    NO_OFFERS = "NO_OFFERS"  # nobody offers this pipeline here
    NO_MATCH = "NO_MATCH"  # offers are known, and none could ever serve this bid as it stands
    NO_CREDIT = "NO_CREDIT"  # the client has too little prepaid
    NO_ANSWER = "NO_ANSWER"  # the sellers that could serve it cannot be reached
    BUSY = "BUSY"  # some could serve it, none has a place now
    DEADLINE = "DEADLINE"  # the bid's time is over
    TOO_MANY = "TOO_MANY"  # this client has its share of bids already
    POLICY = "POLICY"  # the operator does not take such jobs
    CONFLICT = "CONFLICT"  # another body under an id that is taken
    CANCELLED = "CANCELLED"  # the client took it back
    FAILED = "FAILED"  # tried, and not delivered by anybody


@dataclass(frozen=True, slots=True)
class Excluded:
    """How many offers one rule excluded."""

    rule: Rule
    offers: U32


@message("refusal", 1)
@dataclass(frozen=True, slots=True)
class Refusal:
    """``excluded`` and what could have served sum to ``known``; ``cheapest_wei`` is 0 when no price was seen."""

    code: Code
    known: U32
    excluded: Annotated[tuple[Excluded, ...], Size(0, len(Rule))]
    cheapest_wei: Amount
    limit_wei: Amount
    hint: Annotated[str, Size(0, 400)]

    @property
    def counts(self) -> dict[str, int]:
        """Offers by the name of the rule that excluded them."""
        return {entry.rule.value: entry.offers for entry in self.excluded}

    def __str__(self) -> str:
        counted = ", ".join(f"{entry.rule.value} {entry.offers}" for entry in self.excluded)
        return f"{self.code.value}: {self.hint}" + (f" ({counted})" if counted else "")


def listed(counts: Mapping[Rule, int]) -> tuple[Excluded, ...]:
    """Counts as they travel: in the order of the rules, without zeros."""
    return tuple(Excluded(rule, counts[rule]) for rule in Rule if counts.get(rule, 0))


def simple(code: Code, hint: str, *, limit_wei: int = 0) -> Refusal:
    """A refusal that has nothing to count."""
    return Refusal(code, 0, (), 0, limit_wei, hint[:400])


_ADVICE = {
    Rule.PIPELINE: "nobody offers this pipeline here",
    Rule.SETTLEMENT: "the offers settle on another chain or contract",
    Rule.MODEL: "nobody offers this model: name one of the models on offer",
    Rule.PARAMETERS: "ask for fewer pixels or fewer steps",
    Rule.QUALITY: "ask for quality fast",
    Rule.VERIFICATION: "ask for a weaker verification",
    Rule.WITHOUT: "the sellers that could are those that the bid excludes: nobody checks its own work",
    Rule.BANNED: "the sellers that could are banned for faults: try again later",
    Rule.FINISH: "allow more time",
    Rule.EXPOSURE: "ask for a smaller job: these sellers are too new for one this large",
    Rule.NO_ANSWER: "the sellers that could do it do not answer: try again a little later",
    Rule.REFUSED_LATELY: "try again in two seconds",
}


def hint_for(counts: Mapping[Rule, int], cheapest_wei: int, limit_wei: int) -> str:
    """One sentence on what to change: the advice for the rule closest to a match, which is the last one that bit."""
    bitten = [rule for rule in Rule if counts.get(rule, 0)]
    if not bitten:
        return "no offers are known yet: wait a little, or check the bootstrap address"
    if Rule.PRICE in counts and counts[Rule.PRICE] and cheapest_wei > limit_wei:
        return f"raise the limit: the cheapest asks {cheapest_wei} wei, the limit is {limit_wei} wei"
    return _ADVICE.get(bitten[-1], "raise the limit")
