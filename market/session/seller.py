"""What an orchestrator's record means: its name, its deadlines, its prices, and what it says about where it stands.

The rules that change the record are in ``selling.py``. Pure; knows no quote and no ledger.
"""

from __future__ import annotations

from market.jobwire import (
    DEADLINE,
    DONE,
    LOST,
    UNCOVERED,
    UNPAID,
    Acceptance,
    Award,
    BlobHave,
    Delivery,
    Due,
    Failure,
    Start,
)
from market.session import events as ev
from market.session.commands import CancelWork, Close, Command, Fault, SendBlob
from market.session.money import late_price
from market.session.records import SellingRecord
from market.session.records import SellingState as S
from market.session.table import Machine

COVERING_MS = 20_000  # from the award to its cover, however often the stream breaks
COVER_MS = 10_000  # from asking for cover, on a live stream, to giving the place away
PAY_MS = 10_000  # from the last acknowledged byte of the seal, on a live stream, to a fault of the gateway
KEEP_MS = 600_000  # sealed artifact and key, and the answers of a closed session

_HOLDING = (S.COVERING, S.WORKING, S.PAUSED, S.SEALING, S.SEALED, S.RECEIPTING)


class Seller(Machine[SellingRecord]):
    """One attempt at one job, as the seller sees it."""

    record_class = SellingRecord

    def __init__(self, record: SellingRecord | None = None) -> None:
        super().__init__(record or SellingRecord())

    @property
    def held(self) -> int:
        """Credit of this gateway that is spoken for here and not debited yet: no other session may count on it."""
        r = self.record
        return min(r.due, self.spare) if r.state in _HOLDING else 0

    @property
    def spare(self) -> int:
        """What covers this attempt and is not earned yet."""
        return max(0, self.record.cover - self.record.debited)

    @property
    def wake_at(self) -> int | None:
        """When ``Ticked`` is due, if nothing else happens."""
        return min(self._deadlines().values(), default=None)

    @property
    def award(self) -> Award:
        if self.record.award is None:
            raise AssertionError("no award on this stream")
        return self.record.award

    @property
    def _name(self) -> tuple[bytes, int]:
        return (self.award.job_id, self.award.attempt)

    def _concerns(self, event: ev.Event) -> bool:
        return self.record.award is None or super()._concerns(event)

    def _deadlines(self) -> dict[str, int]:
        """Every time that means something in this state, by the code of what then happens."""
        r = self.record
        if r.kept_at is not None:
            due = r.state is S.SEALED and r.asked_at is not None and r.fault is None
            return {DONE: r.kept_at + KEEP_MS} | ({UNPAID: (r.asked_at or 0) + PAY_MS} if due else {})
        if r.state not in (S.COVERING, S.WORKING, S.PAUSED):
            return {}
        finish_at = self._awarded_at + self.award.finish_by_ms
        found = {DEADLINE: self._deadline_at}
        if r.state is S.COVERING:
            found[DEADLINE] = min(finish_at, self._deadline_at)
        elif not r.connected:
            found[LOST] = finish_at
        if r.asked_at is not None and self.spare < r.due and r.state is not S.WORKING:
            found[UNCOVERED] = r.asked_at + COVER_MS
        if r.state is S.COVERING and self.spare < r.due:
            at_most = self._awarded_at + COVERING_MS
            found[UNCOVERED] = min(found.get(UNCOVERED, at_most), at_most)
        return found

    @property
    def _awarded_at(self) -> int:
        at = self.record.awarded_at
        if at is None:
            raise AssertionError("no award on this stream")
        return at

    @property
    def _deadline_at(self) -> int:
        return self._awarded_at + self.award.deadline_ms

    def _late_ms(self, now: int) -> int:
        return max(0, now - self._awarded_at - self.award.finish_by_ms)

    def _price_at(self, now: int) -> int:
        return late_price(self.award.price, self.award.late_rate, self._late_ms(now))

    @property
    def _all_sent(self) -> bool:
        return {c.blob for c in self.record.ciphers} <= set(self.record.sent)

    # -- what is said about where it stands --------------------------------------------------------------------------

    def _stand(self, slices: int, have: tuple[BlobHave, ...]) -> list[Command]:
        """Everything that a gateway with ``slices`` and ``have`` needs to hear to be where we are."""
        r = self.record
        chunks = {h.blob: h.chunks for h in have}
        if r.state is S.COVERING:
            return self._say(self._acceptance())
        if r.seal is not None:
            blobs: list[Command] = [SendBlob(c.blob, chunks.get(c.blob, b"")) for c in r.ciphers]
            return [*self._say(r.seal), *blobs, *(self._deliver() if r.state is S.DELIVERED else [])]
        said = self._say(Start(*self._name)) + (self._say(r.progress) if r.progress else [])
        for piece in r.outputs[slices:]:
            said += self._say(piece)
            said.append(SendBlob(piece.output.blob, chunks.get(piece.output.blob, b"")))
        if r.state is S.PAUSED:
            said += self._ask()
        return said + (self._deliver() if r.state is S.DELIVERED else [])

    def _acceptance(self) -> Acceptance:
        r = self.record
        part = tuple(h for h in r.have if h.blob not in r.inputs)
        whole = tuple(BlobHave(i.blob, _all_chunks(i.size)) for i in self.award.inputs if i.blob in r.inputs)
        return Acceptance(*self._name, max(0, r.due - self.spare), r.params, part + whole)

    def _ask(self) -> list[Command]:
        r = self.record
        return self._say(Due(*self._name, r.slice, max(0, r.due - self.spare), r.params))

    def _deliver(self) -> list[Command]:
        r = self.record
        return self._say(Delivery(*self._name, r.key, r.receipt), journal_first=True) if r.receipt else []

    # -- ends --------------------------------------------------------------------------------------------------------

    def _fault(self, code: str) -> list[Command]:
        self._set(fault=code)
        return [Fault(code)]

    def _finish(self, now: int) -> list[Command]:
        self._set(kept_at=now, code=DONE)
        return [Close(DONE, self.record.debited, self.record.debited)]

    def _close(self, code: str, now: int, hint: str = "") -> list[Command]:
        self._set(state=S.CLOSED, code=code, kept_at=now, asked_at=None)
        return [Close(code, self.record.debited, self.record.debited, hint)]

    def _give_up(self, code: str, now: int, hint: str = "") -> list[Command]:
        stop: list[Command] = [CancelWork()] if self.state is S.WORKING else []
        return [*stop, *self._say(Failure(*self._name, code, hint)), *self._close(code, now, hint)]


def _all_chunks(size: int) -> bytes:
    chunks = -(-size // 2**20)
    return ((1 << chunks) - 1).to_bytes(-(-chunks // 8), "little")
