"""What holds at the end of every simulation, whatever happened in it. Each rule gives what is wrong, in words.

No bid is lost: each ends, in time, with a result or a typed refusal. No job is delivered twice or charged otherwise
than it was said. No money is paid twice, from nowhere or into nowhere. No honest peer is banned. Nothing stays held.
Liars are judged by nobody here: what is between two of them, or what one did to itself, is its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import trio

from benchmarks.simulator.schedule import Schedule, Wanted
from benchmarks.simulator.town import Node, Town, units_of
from benchmarks.simulator.trace import End, Followed, Seen, told
from ledger.auditor import audit
from ledger.database import Transaction
from ledger.schema import of_wei
from market.bidwire import BidCancelled, JobFailed
from market.client import AFTER_DEADLINE_S, Delivered
from market.gateway import Gateway
from market.orchestrator import Orchestrator
from market.refusal import Code, Refusal
from p2p.errors import PasarError
from p2p.peer import Address, PeerId

AT_PEACE_S = 15.0  # past its deadline, the most that a bid may take in a world in which nothing goes wrong


def judged(schedule: Schedule, town: Town, seen: Seen) -> list[str]:
    """Everything that is wrong."""
    found = [f"{name} fell over: {why}" for name, why in seen.fallen.items()]
    found += _bids(schedule, town, seen)
    for gateway in town.honest(Gateway):
        found += (f"{gateway.name}: {text}" for text in _gateway(gateway, town, seen))
    for seller in town.honest(Orchestrator):
        found += (f"{seller.name}: {text}" for text in _seller(seller, town, seen))
    found += _pairs(town, peaceful(schedule))
    found += _payments(town, seen)
    found += _keys(seen)
    return found


def peaceful(schedule: Schedule) -> bool:
    """Whether nothing goes wrong in this world but what its clients want."""
    liars = any(one.lie for one in schedule.buyers) or any(one.lie for one in schedule.sellers)
    return not schedule.disturbances and not schedule.loss and not liars


# -- bids ------------------------------------------------------------------------------------------------------------


def _bids(schedule: Schedule, town: Town, seen: Seen) -> Iterator[str]:
    for job in schedule.jobs:
        followed = seen.jobs[job.name]
        if not followed.ends:
            yield f"{job.name}: no end"
        slack = AT_PEACE_S if peaceful(schedule) else AFTER_DEADLINE_S
        for end in followed.ends:
            began = followed.asked_at if end is followed.ends[0] else followed.ends[0].at
            if end.at > began + job.deadline_s + slack + 1.0:
                yield f"{job.name}: ended {end.at - began - job.deadline_s:.1f} s past its deadline"
            if town.nodes[end.gateway].honest:
                yield from (f"{job.name} at {end.gateway}: {text}" for text in _end(job, end, town, seen))
        yield from (f"{job.name}: {text}" for text in _again(followed))


def _end(job: Wanted, end: End, town: Town, seen: Seen) -> Iterator[str]:
    """One ending, beside what its gateway's books say of it."""
    state, price = _charged(town.nodes[end.gateway].disk.db, end.job_id)
    disturbed = end.gateway in seen.disturbed or f"c{job.client}" in seen.disturbed
    match end.ending:
        case Delivered(done=done, receipt=receipt):
            if (state, price) != ("charged", receipt.price):
                yield f"delivered for {receipt.price}, and {state} {price}"
            if receipt.price > done.limit:
                yield f"delivered for {receipt.price} above the limit {done.limit}"
            yield from _dear(town, receipt.orchestrator, receipt.price, job)
        case Refusal(code=Code.CONFLICT) if not disturbed or state != "returned":
            yield f"refused as a conflict with itself, and {state} {price}"  # else: it was over when its gateway died
        case BidCancelled(charged=charged):
            if job.cancel_after is None:
                yield "cancelled, and nobody had asked for that"
            if (state, price) not in (("charged", charged), ("returned", 0)) or (state == "returned" and charged):
                yield f"cancelled for {charged}, and {state} {price}"
        case Refusal() | JobFailed():
            if state not in ("", "returned"):
                yield f"{told(end.ending)}, and {state} {price}"
        case str() as code:
            if code.startswith("FAULT") or not disturbed:
                yield f"no ending: {code}"
            elif state == "reserved":
                yield f"{code}, and its money is still reserved"


def _dear(town: Town, seller: PeerId, price: int, job: Wanted) -> Iterator[str]:
    """Nobody is paid more than it offered."""
    node = town.nodes[town.names[seller]]
    units = units_of(job.steps)
    if price > -(-node.price * units // 10**6):
        yield f"{node.name} was paid {price}, above its own offer"


def _again(followed: Followed) -> Iterator[str]:
    """The same bid said again comes to the same."""
    first, again = followed.ends[-1].ending if followed.ends else "", followed.again
    if again is None or isinstance(again, str):
        return
    if isinstance(first, Delivered) and isinstance(again, Delivered):
        if (first.done, first.files) != (again.done, again.files):
            yield "delivered twice, and not the same"
    elif isinstance(first, Delivered):
        yield f"delivered, and then {told(again)}"


def _charged(db: sqlite3.Connection, job_id: bytes) -> tuple[str, int]:
    row = db.execute("SELECT state, price FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    return ("", 0) if row is None else (row[0], of_wei(row[1]))


# -- nodes -----------------------------------------------------------------------------------------------------------


def _gateway(node: Node, town: Town, seen: Seen) -> Iterator[str]:
    yield from _node(node, town)
    for state, count in node.disk.db.execute("SELECT state, count(*) FROM jobs WHERE state = 'reserved' GROUP BY 1"):
        yield f"{count} jobs are {state} for ever"
    for what in ("bids", "sessions"):
        count = _count(node.disk.db, what)
        if count:
            yield f"{count} {what} are kept for ever"
    assert isinstance(node.role, Gateway)
    now = int(trio.current_time() * 1000)
    for seller in town.honest(Orchestrator):
        record = node.role.reputation.of(seller.key.peer, now)
        if record.faults:
            yield f"{record.faults} faults of {seller.name}, which is honest"
        if record.banned_until > now and seller.name not in seen.disturbed and node.name not in seen.disturbed:
            yield f"has banned {seller.name}, which is honest"


def _seller(node: Node, town: Town, seen: Seen) -> Iterator[str]:
    yield from _node(node, town)
    assert isinstance(node.role, Orchestrator)
    assert node.worker is not None
    if held := node.role.desk.held():
        yield f"{held} places are held for ever"
    if busy := sum(sale.in_work for sale in node.role._sales.values()):
        yield f"{busy} sales are in work for ever"
    if node.worker.queue_depth:
        yield f"{node.worker.queue_depth} jobs run for ever"
    for gateway in town.honest(Gateway):
        row = node.disk.db.execute(
            "SELECT faults FROM standings WHERE side = 'in' AND peer = ?", (gateway.key.address,)
        ).fetchone()
        if row and row[0] and not seen.disturbed & {node.name, gateway.name}:
            yield f"{row[0]} faults of {gateway.name}, which is honest"


def _node(node: Node, town: Town) -> Iterator[str]:
    yield from audit(Transaction(node.disk.db))
    for failure in node.failures:
        if not isinstance(failure, PasarError):
            yield f"a stream broke with {type(failure).__name__}: {failure}"
    assert node.seat is not None
    for other in town.nodes.values():
        if other.honest and node.seat.scores.graylisted(other.key.peer, trio.current_time()):
            yield f"has graylisted {other.name}, which is honest"


def _count(db: sqlite3.Connection, table: str) -> int:
    try:
        where = " WHERE side = 'buying'" if table == "sessions" else ""
        count: int = db.execute(f"SELECT count(*) FROM {table}{where}").fetchone()[0]
    except sqlite3.OperationalError:  # a node that never got as far as to make it
        return 0
    return count


# -- money -----------------------------------------------------------------------------------------------------------


def _pairs(town: Town, at_peace: bool) -> Iterator[str]:
    """Both books of every honest pair say the same of the same money."""
    for gateway in town.honest(Gateway):
        for seller in town.honest(Orchestrator):
            sent = _account(gateway, "out", seller.key.address)
            got = _account(seller, "in", gateway.key.address)
            row = gateway.disk.db.execute(
                "SELECT wei_sum(value) FROM payments_out WHERE recipient = ? AND state = 'signed'",
                (seller.key.address,),
            ).fetchone()
            flying = of_wei(row[0])
            where = f"{gateway.name} and {seller.name}"
            if not 0 <= got[0] - sent[0] <= flying:
                yield f"{where}: {sent[0]} was credited by one, {got[0]} by the other, {flying} is under way"
            if sent[1] > got[1]:
                yield f"{where}: {sent[1]} was spent, {got[1]} was earned"
            if at_peace and (*sent, flying) != (*got, 0):
                yield f"{where}: at peace, and the books say {sent} and {got}, {flying} is under way"
            yield from (f"{where}: {text}" for text in _attempts(gateway, seller))


def _attempts(gateway: Node, seller: Node) -> Iterator[str]:
    """What one attempt cost is what it earned, and a seller earns nothing that its gateway never signed."""
    spent, earned = _debits(gateway, "out", seller.key.address), _debits(seller, "in", gateway.key.address)
    for name, amount in spent.items():
        if amount != earned.get(name, 0):
            yield f"attempt {name[1]} of {name[0].hex()[:8]} cost {amount} and earned {earned.get(name, 0)}"


def _debits(node: Node, side: str, peer: Address) -> dict[tuple[bytes, int], int]:
    rows = node.disk.db.execute("SELECT job_id, attempt, amount FROM debits WHERE side = ? AND peer = ?", (side, peer))
    found: dict[tuple[bytes, int], int] = {}
    for job, attempt, amount in rows:
        found[job, attempt] = found.get((job, attempt), 0) + of_wei(amount)
    return found


def _account(node: Node, side: str, peer: Address) -> tuple[int, int]:
    row = node.disk.db.execute(
        "SELECT credit, debit FROM accounts WHERE side = ? AND peer = ?", (side, peer)
    ).fetchone()
    return (0, 0) if row is None else (of_wei(row[0]), of_wei(row[1]))


def _payments(town: Town, seen: Seen) -> Iterator[str]:
    """One payment is credited once; and once signed it stays as it is, unless its recipient refused it."""
    gateways: dict[bytes, Node] = {node.key.address: node for node in town.honest(Gateway)}
    for (seller, sender, _), line in seen.payments.items():
        if sender not in gateways or not town.nodes[seller].honest:
            continue
        where = f"{gateways[sender].name} to {seller}"
        credited = [amount for amount in line.payloads.values() if amount]
        if len(credited) > 1:
            yield f"{where}: one payment was credited {len(credited)} times"
        if len(line.payloads) > 1 and next(iter(line.payloads.values())):
            yield f"{where}: a payment was signed anew although it was credited"


def _keys(seen: Seen) -> Iterator[str]:
    """A key is said once on a stream, and again only to whoever asks where things stand."""
    for (_, job, attempt), (said, asked) in seen.keys.items():
        if said > max(1, asked):
            yield f"the key of attempt {attempt} of {job.hex()[:8]} was sent {said} times"
