"""A job's life at the gateway, across its attempts: who has it, who had it, what it came to.

    OPEN -award-> AWARDED -accept-> RUNNING -deliver-> DELIVERED -settle-> SETTLED
      ^              |                 |       ^
      +---- end -----+------- end -----+       |  a paid key of an ended attempt, while the job is open
      | fail -> FAILED                 +-------+

A value: every method gives the job as it then is, and what cannot happen is refused. One attempt is live at most; the
first result is the result. Pure; knows no auction and no session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from ledger.money import Amount
from market.jobwire import BAD_INPUT, MAX_ATTEMPT, OTHER_BODY, POLICY, Code
from market.jobwire import Attempt as Number
from p2p.codec import Hash, JobId, Size, message
from p2p.errors import Refused
from p2p.peer import PeerId, WirePeer

LAWFUL_NOES = (BAD_INPUT, POLICY)
BELIEVED = 2  # sellers that find fault with a job: one alone may lie, and another one is asked
MOST_NOES = 8  # for one job


class JobState(StrEnum):
    """Where a job is. The last two are for good."""

    OPEN = "open"  # nobody has it: it is being auctioned, or rests
    AWARDED = "awarded"  # offered to a seller that has not answered
    RUNNING = "running"  # a seller has taken it
    DELIVERED = "delivered"  # a checked result is here
    SETTLED = "settled"  # and the customer was charged for it
    FAILED = "failed"  # no result, and none to come; a cancelled job ends here too


OVER = (JobState.DELIVERED, JobState.SETTLED, JobState.FAILED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One award of a job. ``code`` is why it ended, None while it is live; ``paid`` what the seller then had of it."""

    number: Number
    seller: WirePeer
    price: Amount
    accepted: bool = False
    code: Annotated[Code | None, Size(1, 32)] = None
    paid: Amount = 0
    cost: Amount = 0


@message("job", 1)
@dataclass(frozen=True, slots=True)
class Job:
    """``body`` is the digest of what was asked; ``result`` the number of the attempt whose result is the job's."""

    job_id: JobId
    body: Hash
    limit: Amount
    state: JobState = JobState.OPEN
    attempts: Annotated[tuple[Attempt, ...], Size(0, MAX_ATTEMPT)] = ()
    result: Annotated[int | None, Number] = None
    code: Annotated[Code | None, Size(1, 32)] = None

    @property
    def live(self) -> Attempt | None:
        """The attempt that is not over, if there is one."""
        return self.attempts[-1] if self.state in (JobState.AWARDED, JobState.RUNNING) else None

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    def repeat(self, body: bytes) -> Job:
        """The same request again is this job. Raises Refused when another body comes under its id."""
        if body != self.body:
            raise Refused(OTHER_BODY, "this job id was used for another request")
        return self

    def candidates(self, sellers: Iterable[PeerId]) -> tuple[PeerId, ...]:
        """Who may be asked: whoever has not failed this job yet; among all again when nobody else is left."""
        known = tuple(sellers)
        failed = {one.seller for one in self.attempts if one.code is not None}
        return tuple(s for s in known if s not in failed) or known

    def is_declined(self, sellers: Iterable[PeerId], *, more: bool) -> bool:
        """Whether the last no was enough: two found fault with it, or all ``sellers`` said no and no ``more`` come."""
        noes = [one for one in self.attempts if one.code in LAWFUL_NOES]
        if not noes or noes[-1] != self.attempts[-1]:
            return False
        found = {one.seller for one in noes if one.code == BAD_INPUT}
        everybody = not more and {one.seller for one in noes}.issuperset(sellers)
        return everybody or len(found) >= BELIEVED or len(noes) >= MOST_NOES

    @property
    def contradicted(self) -> frozenset[PeerId]:
        """Who found a fault with what somebody else then did."""
        if self.result is None:
            return frozenset()
        found = {one.seller for one in self.attempts if one.code == BAD_INPUT}
        return frozenset(found - {self.attempts[self.result - 1].seller})

    def award(self, seller: PeerId, price: int) -> Job:
        """A new attempt. Raises Refused while another is live, after the end, past the limit or the last number."""
        if self.state is not JobState.OPEN:
            raise Refused("NOT_OPEN", f"the job is {self.state}")
        if len(self.attempts) == MAX_ATTEMPT:
            raise Refused("ATTEMPTS", have=len(self.attempts), need=MAX_ATTEMPT)
        if price > self.limit:
            raise Refused("LIMIT", have=self.limit, need=price)
        attempt = Attempt(len(self.attempts) + 1, seller, price)
        return replace(self, state=JobState.AWARDED, attempts=(*self.attempts, attempt))

    def accept(self, number: int) -> Job:
        """The seller has taken it; said twice, or of an attempt that is over, it changes nothing."""
        live = self.live
        if live is None or live.number != number:
            return self
        return replace(self._with(replace(live, accepted=True)), state=JobState.RUNNING)

    def end(self, number: int, code: str, paid: int = 0, cost: int = 0) -> Job:
        """An attempt is over without a result; the job is open again if it was the live one."""
        attempt = self._attempt(number)
        if attempt is None or number == self.result:
            return self
        ended = self._with(replace(attempt, code=attempt.code or code, paid=max(paid, attempt.paid), cost=cost))
        return replace(ended, state=JobState.OPEN) if attempt == self.live else ended

    def deliver(self, number: int, price: int, paid: int) -> Job:
        """A checked result of this attempt, live or over; while there is none yet it is the job's."""
        attempt = self._attempt(number)
        if attempt is None or self.is_over:
            return self
        done = self._with(replace(attempt, accepted=True, price=min(price, attempt.price), paid=paid))
        return replace(done, state=JobState.DELIVERED, result=number)

    def settle(self) -> Job:
        """The customer was charged. Raises Refused when there is nothing to charge for."""
        if self.state not in (JobState.DELIVERED, JobState.SETTLED):
            raise Refused("NO_RESULT", f"the job is {self.state}")
        return replace(self, state=JobState.SETTLED)

    def fail(self, code: str) -> Job:
        """There will be no result. A job that has one stays as it is."""
        return self if self.is_over else replace(self, state=JobState.FAILED, code=code)

    @property
    def charge(self) -> int:
        """What the customer owes: the result's price, or what a cancel cost; never more than the limit."""
        if self.result is not None:
            return min(self.attempts[self.result - 1].price, self.limit)
        return min(self.attempts[-1].cost, self.limit) if self.attempts else 0

    @property
    def stranded(self) -> dict[PeerId, int]:
        """Paid and not delivered, by seller: our credit there, never the customer's spend."""
        left: dict[PeerId, int] = {}
        for one in self.attempts:
            if one.number != self.result and one.paid > one.cost:
                left[one.seller] = left.get(one.seller, 0) + one.paid - one.cost
        return left

    @property
    def superfluous(self) -> Attempt | None:
        """An attempt that still runs although another one has delivered: to be cancelled."""
        last = self.attempts[-1] if self.attempts else None
        waits = last is not None and last.code is None and last.number != self.result
        return last if self.is_over and waits else None

    def _attempt(self, number: int) -> Attempt | None:
        return self.attempts[number - 1] if 1 <= number <= len(self.attempts) else None

    def _with(self, changed: Attempt) -> Job:
        at = changed.number - 1
        return replace(self, attempts=(*self.attempts[:at], changed, *self.attempts[at + 1 :]))
