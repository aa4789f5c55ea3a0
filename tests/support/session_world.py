"""Two real sessions, joined by a stream that loses, repeats and reorders, with toy books, a toy worker and crashes.

Every choice comes from one seed. What must hold at any time is asserted in ``check``; ``calm`` lets everything arrive
and time pass until nothing is left to happen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from typing import Any

from compute.spec import JobShape, JobSpec
from ledger.money import Settlement
from market import jobwire as wire
from market.session import Buying, BuyingState, Selling, SellingState
from market.session import commands as cmd
from market.session import events as ev
from p2p.codec import encode
from p2p.envelope import Signed
from p2p.peer import Address

JOB = b"j" * 32
SHAPE = JobShape("text-to-image", b"m" * 32, 64, 64, 4, guided=False)
SPEC = JobSpec(SHAPE, "a lighthouse", "", 1000, 7, b"s" * 16)
SETTLEMENT = Settlement(1337, Address(b"b" * 20))
RECEIPT = Signed(b"receipt", bytes(65))


def ref(name: str) -> wire.BlobRef:
    return wire.BlobRef(sha256(name.encode()).digest(), 3 * 2**20)


def award(**changes: Any) -> wire.Award:
    """An award of 1 600 wei, so that the reservation is 100."""
    quote = Signed(b"quote", bytes(65))
    return replace(wire.Award(JOB, 1, SETTLEMENT, quote, 1600, 20_000, 40, 60_000, 0, SPEC), **changes)


def seal_made(
    to: wire.Award, price: int, late_ms: int = 0, files: int = 1, params: bytes = b"sealed-params"
) -> ev.SealMade:
    """What a seller's shell answers to SealArtifacts."""
    artifacts = tuple(wire.SealedArtifact("image/png", ref(f"plain{n}"), ref(f"cipher{n}")) for n in range(files))
    bound = wire.Commitment(to.job_id, to.attempt, artifacts, price, late_ms, params)
    key = wire.SealKey(to.job_id, to.attempt, b"k" * 32)
    sealed = tuple(a.cipher for a in artifacts)
    return ev.SealMade(Signed(encode(bound), bytes(65)), sealed, Signed(encode(key), bytes(65)))


@dataclass
class Plan:
    """What this run is about; everything that is not said goes well."""

    award: wire.Award = field(default_factory=award)
    params: bytes = b"cached-params"  # what the gateway has before the award
    judged: ev.AwardJudged = field(default_factory=lambda: ev.AwardJudged(params=b"accept-params"))
    refuse: float = 0.0  # share of payments that the seller's books refuse
    partial: float = 0.0  # share that they credit by half
    decline: float = 0.0  # share that the gateway cannot sign under the params it has
    decline_code: str = ""
    work_fails: bool = False
    seal_fails: bool = False
    receipt_fails: bool = False
    overprice: int = 0
    opens: str = ""  # the code that the result opens with
    steps: int = 3
    files: int = 1


class World:
    """The two machines, their books, and what is on its way. ``entered`` collects every row of either table."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.random, self.now = plan, Random(seed), 0
        self.buying, self.selling = Buying.of(plan.award), Selling()
        self.entered: dict[str, set[tuple[str, str]]] = {"buying": set(), "selling": set()}
        self.records: dict[str, bytes | None] = {"buying": None, "selling": None}
        self.kept: dict[str, str] = {}  # the states that the newest records are in
        self.wire: list[tuple[str, Any]] = []  # (to whom, message or blob)
        self.local: list[tuple[str, Any]] = []  # (whose, event)
        self.connected = False
        self.signed: dict[bytes, tuple[int, bytes]] = {}  # the gateway's journal of payments
        self.judged: dict[bytes, bytes] = {}  # the seller's verdicts, by payment bytes
        self.credited: dict[bytes, int] = {}  # by payment id
        self.debits = {"buying": 0, "selling": 0}
        self.faults: dict[str, list[str]] = {"buying": [], "selling": []}
        self.closed: dict[str, list[str]] = {"buying": [], "selling": []}
        self.delivered: list[cmd.Deliver] = []
        self.key_left = False
        self.forgotten = False
        self.params = 0
        self.wanted: dict[str, set[tuple[str, str]]] = {"buying": set(), "selling": set()}  # rows to look for
        self.past: list[tuple[str, Any]] = []  # every message and answer that ever arrived

    # -- machines ----------------------------------------------------------------------------------------------------

    def machine(self, side: str) -> Buying | Selling:
        return self.buying if side == "buying" else self.selling

    def tell(self, side: str, event: Any, crash_after: int | None = None) -> list[cmd.Command]:
        """Hand one event in and carry its commands out; with ``crash_after``, only so many of them, then die."""
        if not isinstance(event, ev.Link):
            self.past.append((side, event))
        machine = self.machine(side)
        commands = machine.handle(event, self.now)
        if machine.entered is not None:
            self.entered[side].add(machine.entered)
        for done, command in enumerate(commands):
            if crash_after is not None and done >= crash_after:
                break
            self._carry(side, command)
        if crash_after is not None:
            self.restart(side)
        self.check()
        return commands

    def restart(self, side: str) -> None:
        """Kill one side and start it again from its newest record."""
        self.drop_link()
        self.local = [(whose, event) for whose, event in self.local if whose != side]
        record = self.records[side]
        if side == "buying":
            self.buying = Buying.of(self.plan.award) if record is None else Buying.restore(record, self.now)
        else:
            self.selling = Selling() if record is None else Selling.restore(record, self.now)
        if record is not None:
            self.tell(side, ev.Restarted())
        elif side == "buying":
            self.local.append((side, ev.Awarded(self.plan.params)))

    def wipe(self) -> None:
        """The seller loses its records: it knows nothing of this job any more."""
        self.drop_link()
        self.records["selling"], self.key_left = None, False
        self.kept.pop("selling", None)
        self.restart("selling")

    def drop_link(self) -> None:
        if self.connected:
            self.connected = False
            self.wire.clear()
            for side in ("buying", "selling"):
                self.tell(side, ev.Disconnected())

    def link(self) -> None:
        if not self.connected:
            self.connected = True
            have = tuple(wire.BlobHave(b, b"\x07") for b in self.buying.record.blobs)
            self.tell("selling", ev.Connected())
            self.tell("buying", ev.Connected(have, rtt_ms=20))

    # -- shells ------------------------------------------------------------------------------------------------------

    def _carry(self, side: str, command: cmd.Command) -> None:
        match command:
            case cmd.Journal(record):
                self.records[side], self.kept[side] = record, self.machine(side).state.value
            case cmd.SendMessage(message):
                self._send(side, message)
            case cmd.SendBlob(blob):
                self._send(side, blob)
            case cmd.Debit(total):
                self.debits[side] = total
            case cmd.Fault(code):
                self.faults[side].append(code)
            case cmd.Close(code):
                self.closed[side].append(code)
            case cmd.Forget():
                self.forgotten = True
            case cmd.Deliver():
                self.delivered.append(command)
            case _:
                self.local += [(side, event) for event in self._answers(command)]

    def _send(self, side: str, item: Any) -> None:
        key = isinstance(item, wire.Delivery) or (isinstance(item, wire.Seal) and item.key is not None)
        if self.connected:
            self.key_left |= key
            self.wire.append(("selling" if side == "buying" else "buying", item))

    def _answers(self, command: cmd.Command) -> list[Any]:
        plan = self.plan
        match command:
            case cmd.JudgeAward():
                return [plan.judged]
            case cmd.StartWork(to, slice_):
                return self._works(to, slice_)
            case cmd.SealArtifacts() if plan.seal_fails:
                return [ev.WorkFailed(wire.FAILED, "no space")]
            case cmd.SealArtifacts(price, late_ms):
                return [seal_made(plan.award, price + plan.overprice, late_ms, plan.files, self._fresh())]
            case cmd.SignReceipt() if plan.receipt_fails:
                return [ev.WorkFailed(wire.FAILED, "lost")]
            case cmd.SignReceipt():
                return [ev.ReceiptSigned(RECEIPT)]
            case cmd.OfferParams(payment_id):
                return [ev.ParamsOffered(payment_id, self._fresh())]
            case cmd.CreditPayment(payment_id, payment):
                return [self._credit(payment_id, payment)]
            case cmd.Pay():
                return [self._sign(command)]
            case cmd.SettlePayment(payment_id, verdict):
                credited = int.from_bytes(verdict[33:], "big")
                return [ev.PaymentSettled(payment_id, verdict, credited, verdict[:1] == b"R")]
            case cmd.OpenSeal():
                return [ev.Opened(plan.opens)]
        return []

    def _works(self, to: wire.Award, slice_: int) -> list[Any]:
        steps: list[Any] = [ev.Stepped(n + 1, self.plan.steps, 1000) for n in range(self.plan.steps)]
        steps.insert(1, ev.PreviewMade(1, "image/png", b"preview"))
        if self.plan.work_fails:
            return [*steps, ev.WorkFailed(wire.FAILED)]
        return [*steps, ev.SliceWorked(slice_, ref(f"slice{slice_}"), self._fresh()) if to.slices else ev.WorkDone()]

    def _fresh(self) -> bytes:
        self.params += 1
        return b"params-%d" % self.params

    def _sign(self, pay: cmd.Pay) -> Any:
        known = self.signed.get(pay.payment_id)
        if known is not None and known[0] == pay.replaces:
            return ev.PaymentReady(pay.payment_id, known[1])
        assert known is None or known[0] < pay.replaces, "a payment was signed twice"
        if self.random.random() < self.plan.decline:
            return ev.PaymentDeclined(pay.payment_id, self.plan.decline_code)
        payment = pay.payment_id + pay.amount.to_bytes(16, "big") + bytes([pay.replaces]) + pay.params
        self.signed[pay.payment_id] = (pay.replaces, payment)
        return ev.PaymentReady(pay.payment_id, payment)

    def _credit(self, payment_id: bytes, payment: bytes) -> Any:
        verdict = self.judged.get(payment)
        if verdict is None:
            amount = int.from_bytes(payment[32:48], "big")
            refused = self.random.random() < self.plan.refuse or payment_id in self.credited
            if self.random.random() < self.plan.partial:
                amount //= 2
            self.credited.update({} if refused else {payment_id: amount})
            verdict = (b"R" if refused else b"C") + sha256(payment).digest()
            verdict += (0 if refused else amount).to_bytes(16, "big")
            self.judged[payment] = verdict
        cover = sum(self.credited.values()) + self.plan.judged.cover
        return ev.PaymentJudged(payment_id, verdict, cover, self._fresh())

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        price = self.plan.award.price
        assert sum(self.credited.values()) <= price
        assert self.buying.committed <= price
        for side, total in self.debits.items():
            assert 0 <= total <= price, side
        assert self.debits["selling"] <= sum(self.credited.values()) + self.plan.judged.cover
        if self.key_left and not self.plan.judged.first:
            assert self.debits["selling"] == self.selling.record.price
        assert self.forgotten <= (self.selling.state is SellingState.CLOSED)

    # -- time --------------------------------------------------------------------------------------------------------

    def deliver(self, index: int = 0, crash_after: int | None = None) -> None:
        side, item = self.wire.pop(index)
        if isinstance(item, bytes):
            self.local.append(("selling" if side == "buying" else "buying", ev.BlobSent(item)))
            item = ev.BlobReceived(item)
        self.tell(side, item, crash_after)

    def happen(self, index: int = 0, crash_after: int | None = None) -> None:
        side, event = self.local.pop(index)
        self.tell(side, event, crash_after)

    def storm(
        self,
        steps: int,
        lose: float = 0.1,
        crash: float = 0.0,
        jump: float = 0.0,
        cut: float = 0.05,
        echo: float = 0.0,
        lazy: str = "",
    ) -> None:
        """Anything in any order: loss, late repeats, breaks, jumps of the clock, crashes between two commands.

        The shell of the ``lazy`` side answers only when little else is left to happen.
        """
        for _ in range(steps):
            dice = self.random.random()
            if dice < echo and self._seek():
                continue
            if not self.connected and dice < 0.4:
                self.link()
            elif dice < jump:
                self.pass_time(self.random.choice((50, 1000, 5100, 10_100, 30_000)))
            elif dice < jump + cut:
                self.drop_link()
            elif self.past and dice < jump + cut + echo:
                self.tell(*self.random.choice(self.past))
            elif self.wire and (not self.local or self.random.random() < 0.5):
                self._jolt(lose, crash)
            elif self.local:
                index = 0 if self.random.random() < 0.8 else self.random.randrange(len(self.local))
                if self.local[index][0] == lazy and self.random.random() < 0.8:
                    index = next((i for i, (side, _) in enumerate(self.local) if side != lazy), index)
                if self.random.random() < 0.1:
                    self.local.append(self.local[index])
                self.happen(index, self.random.randrange(5) if self.random.random() < crash else None)

    def _seek(self) -> bool:
        """Let something happen that enters a wanted row, if the present states and the past have it to offer."""
        for side, rows in self.wanted.items():
            events = {event for state, event in rows if state == self.machine(side).state.value}
            late = [event for whose, event in self.past if whose == side and type(event).__name__ in events]
            if late:
                self.tell(side, self.random.choice(late))
                return True
            if "Restarted" in events and self.records[side] is not None:
                self.restart(side)
                return True
            if "CancelAsked" in events:
                self.tell(side, ev.CancelAsked())
                return True
            now, kept = self.machine(side).state.value, self.kept.get(side)
            if kept != now and any(state == kept for state, _ in rows):
                self.restart(side)
                return True
        return False

    def _jolt(self, lose: float, crash: float) -> None:
        index = self.random.randrange(len(self.wire)) if self.random.random() < 0.5 else 0
        if self.random.random() < 0.15:
            self.wire.append(self.wire[index])
        if self.random.random() < lose:
            self.wire.pop(index)
        else:
            self.deliver(index, self.random.randrange(5) if self.random.random() < crash else None)

    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.tell("buying", ev.Ticked())
        self.tell("selling", ev.Ticked())

    def steady(self, steps: int) -> None:
        """So many things happen as they should."""
        self.link()
        for _ in range(steps):
            if self.local:
                self.happen()
            elif self.wire:
                self.deliver()

    def calm(self, rounds: int = 4000) -> None:
        """A new stream; everything arrives in order; time goes from deadline to deadline, until all is at rest."""
        self.drop_link()
        for _ in range(rounds):
            if self.local:
                self.happen()
            elif self.wire:
                self.deliver()
            elif not self.connected:
                self.link()
            elif (wake := [m.wake_at for m in (self.buying, self.selling) if m.wake_at is not None]) != []:
                self.pass_time(max(0, min(wake) - self.now))
            else:
                return
        raise AssertionError(f"never came to rest: {self.buying.state}, {self.selling.state}")

    @property
    def over(self) -> bool:
        return self.buying.state is BuyingState.CLOSED and self.selling.state in (
            SellingState.CLOSED,
            SellingState.IDLE,
        )
