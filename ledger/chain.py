"""A broker on a chain, as far as this node knows it: read without waiting, refreshed in the background.

The chain is never on a job's path. ``deposit_of`` and ``round_now`` answer from the last look; a look is a batch of
views and of the broker's events since the look before. The last knowledge is kept on disk, so that a node starts and
works while its chain cannot be reached. It signs nothing (``wallet`` does) and knows no job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from ledger.broker import BrokerTerms, is_development
from ledger.chain_views import find_settlement, number_of, read_terms, value_of
from ledger.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ledger.contract import call_data, event_of, prepare, redeem_data, topic_of
from ledger.cover import NO_COVER, Cover, Round
from ledger.money import Settlement
from ledger.rpc import HttpRpc, Rpc, RpcRefused
from ledger.ticket import Winner
from ledger.transactor import refusal_of
from p2p.errors import Refused, Unavailable
from p2p.peer import Address, address_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_WATCHED = 10_000
MAX_BATCH = 100
MAX_BLOCKS = 2_000  # a longer gap is not read as events: everything watched is read anew
OVERLAP = 12
MAX_PAUSE = 60.0
KEEP_MS = 5_000
_FUNDS = (
    "DepositFunded",
    "ReserveFunded",
    "ReserveClaimed",
    "WinningTicketTransfer",
    "Unlock",
    "UnlockCancelled",
    "Withdrawal",
)

log = structlog.get_logger(__name__)


def wall_ms() -> int:
    """The calendar, in milliseconds."""
    return time.time_ns() // 1_000_000


class Chain:
    """What is known of one settlement. A sender that was asked about once is kept up to date from then on."""

    def __init__(
        self, rpc: Rpc, known: Checkpoint, file: Path | None = None, clock: Callable[[], int] = wall_ms
    ) -> None:
        self.rpc, self._known, self._file, self._clock = rpc, known, file, clock
        self._covers: dict[Address, Cover] = dict(known.covers)
        self._unread: set[Address] = set()
        self._marked: frozenset[tuple[str, str]] = frozenset()  # the events that the last look saw
        self._looking = trio.Lock()
        self._known_at = self._kept_at = 0
        self.online = False

    @classmethod
    async def connect(cls, rpc_url: str, broker: Address | None = None, *, checkpoint: Path | None = None) -> Chain:
        """The broker at a node; without an address, the one that a development chain names.

        Raises Misconfigured when there is no such broker, Unavailable when the node cannot be reached and
        ``checkpoint`` holds nothing to go on with.
        """
        return await cls.over(HttpRpc(rpc_url), broker, checkpoint=checkpoint)

    @classmethod
    async def over(
        cls,
        rpc: Rpc,
        broker: Address | None = None,
        *,
        checkpoint: Path | None = None,
        clock: Callable[[], int] = wall_ms,
    ) -> Chain:
        """Like ``connect``, over any node."""
        await trio.to_thread.run_sync(prepare)
        kept = await trio.to_thread.run_sync(read_checkpoint, checkpoint) if checkpoint else None
        try:
            settlement = await find_settlement(rpc, broker)
        except Unavailable:
            if kept is None or broker not in (None, kept.settlement.broker):
                raise
            log.warning("chain unreachable, going on with what was known", node=str(rpc), block=kept.block)
            return cls(rpc, kept, checkpoint, clock)
        terms = await read_terms(rpc, settlement.broker)
        fresh = kept is None or kept.settlement != settlement
        chain = cls(rpc, Checkpoint(settlement, terms) if fresh or kept is None else kept, checkpoint, clock)
        await chain.refresh()
        return chain

    @property
    def settlement(self) -> Settlement:
        return self._known.settlement

    @property
    def development(self) -> bool:
        return is_development(self.settlement.chain_id)

    @property
    def terms(self) -> BrokerTerms:
        return self._known.terms

    @property
    def current_round(self) -> int:
        """The round at the last look."""
        return self._known.current_round

    # --- what is known, without waiting

    def deposit_of(self, sender: Address) -> Cover:
        """A sender's funds at the last look. Nothing counts of what may leave before the next round is over."""
        cover = self._covers.get(sender)
        if cover is None:
            self._watch(sender)
            return NO_COVER
        known_at = max(cover.known_at_ms, self._known_at)
        if cover.withdraw_round and cover.withdraw_round <= self.current_round + 1:
            return Cover(0, 0, cover.withdraw_round, known_at)
        return Cover(cover.deposit, cover.reserve, cover.withdraw_round, known_at)

    def round_now(self) -> Round | None:
        """The newest round with a hash, while tickets of it still can be redeemed for a while."""
        known = self._known
        if not known.round_hash or known.anchor_round + known.terms.validity <= known.current_round + 1:
            return None
        return Round(known.anchor_round, known.round_hash, known.terms.validity)

    @property
    def round_is_stale(self) -> bool:
        """Whether somebody should initialise a round: tickets bound to the last one lost half of their time."""
        known = self._known
        return known.current_round - known.anchor_round > known.terms.validity // 2

    def _watch(self, sender: Address) -> None:
        if sender in self._covers or sender in self._unread:
            return
        if len(self._covers) + len(self._unread) >= MAX_WATCHED:
            self._covers.pop(next(iter(self._covers)), None)
        self._unread.add(sender)

    # --- looking

    async def cover_of(self, sender: Address) -> Cover:
        """A sender's funds, read now when they never were. Raises Unavailable."""
        if sender not in self._covers:
            await self.refresh([sender])
        return self.deposit_of(sender)

    async def refresh(self, senders: Iterable[Address] = ()) -> None:
        """Look now. Raises Unavailable, and then what was known stays known."""
        asked = list(senders)
        for sender in asked:
            self._watch(sender)
            self._unread.add(sender)
        async with self._looking:
            try:
                await self._look()
            except (Unavailable, RpcRefused) as exc:
                self.online = False
                raise exc if isinstance(exc, Unavailable) else Unavailable(f"the node refuses: {exc.text}") from exc
            self.online = True
            if self._file is not None and (asked or self._clock() - self._kept_at >= KEEP_MS):
                self._kept_at = self._clock()
                await self._keep(self._file)

    async def _keep(self, file: Path) -> None:
        """One at a time: two would move each other's file away. It is a cache, and a full disk ends nothing."""
        try:
            await trio.to_thread.run_sync(write_checkpoint, file, self._snapshot())
        except OSError as exc:
            log.warning("what is known of the chain is not kept", reason=exc.strerror)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every second on a development chain, every twelve elsewhere; less often while nobody answers."""
        every = 1.0 if self.development else 12.0
        pause = every
        task_status.started()
        while True:
            await trio.sleep(pause)
            was_online = self.online
            try:
                await self.refresh()
                pause = every
            except Unavailable as exc:
                pause = min(pause * 2, MAX_PAUSE)
                if was_online:
                    log.warning("chain lost; work goes on and settles later", node=str(self.rpc), why=str(exc))
            if self.online and not was_online:
                log.info("chain is back", node=str(self.rpc), block=self._known.block)

    async def _look(self) -> None:
        known = self._known
        since = max(0, known.block - OVERLAP)
        events = {"address": address_text(known.settlement.broker), "fromBlock": hex(since), "toBlock": "latest",
                  "topics": [["0x" + topic_of(name).hex() for name in _FUNDS]]}  # fmt: skip
        chain_id, head, current, anchor, logs = await self.rpc.batch(
            [
                ("eth_chainId", []),
                ("eth_blockNumber", []),
                self._view("currentRound"),
                self._view("lastInitializedRound"),
                ("eth_getLogs", [events]),
            ]
        )
        if number_of(chain_id) != known.settlement.chain_id:
            raise Unavailable(f"another chain answers there now: {number_of(chain_id)}")
        number = number_of(head)
        known.current_round = value_of("currentRound", current)
        if (newest := value_of("lastInitializedRound", anchor)) != known.anchor_round or not known.round_hash:
            found = (await self.rpc.batch([self._view("blockHashForRound", newest)]))[0]
            known.anchor_round, known.round_hash = newest, value_of("blockHashForRound", found)
        self._mark(logs, number)
        await self._read_unread()
        known.block = number

    def _mark(self, logs: Any, head: int) -> None:
        """Whose funds changed since the last look. Events only ever say that, so that one read twice does no harm."""
        if not isinstance(logs, list) or not 0 <= head - self._known.block <= MAX_BLOCKS:
            self._unread.update(self._covers)
            return
        entries = [(str(e.get("blockHash")), str(e.get("logIndex")), e) for e in logs if isinstance(e, dict)]
        for block, index, entry in entries:
            event = None if (block, index) in self._marked else event_of(entry)  # reading one costs a millisecond
            if event is not None:
                who = Address(event.fields.get("sender") or event.fields["reserveHolder"])
                if who in self._covers:
                    self._unread.add(who)
        self._marked = frozenset((block, index) for block, index, entry in entries if entry.get("blockHash"))

    async def _read_unread(self) -> None:
        now = self._clock()
        unread = list(self._unread)
        for start in range(0, len(unread), MAX_BATCH):
            some = unread[start : start + MAX_BATCH]
            answers = await self.rpc.batch([self._view("getSenderInfo", address) for address in some])
            for address, answer in zip(some, answers, strict=True):
                (deposit, withdraw_round), (reserve, _) = value_of("getSenderInfo", answer)
                self._covers[address] = Cover(deposit, reserve, withdraw_round, now)
                self._unread.discard(address)
        self._known_at = now  # of all that is watched: no event said otherwise

    def _view(self, function: str, *arguments: Any) -> tuple[str, Sequence[Any]]:
        data = "0x" + call_data(function, *arguments).hex()
        return "eth_call", [{"to": address_text(self.settlement.broker), "data": data}, "latest"]

    def _snapshot(self) -> Checkpoint:
        known = self._known
        return Checkpoint(
            known.settlement,
            known.terms,
            known.block,
            known.current_round,
            known.anchor_round,
            known.round_hash,
            dict(self._covers),
        )

    # --- questions that wait

    async def view(self, function: str, *arguments: Any) -> Any:
        """What a view of the broker says now. Raises Unavailable."""
        return value_of(function, (await self.rpc.batch([self._view(function, *arguments)]))[0])

    async def balance_of(self, address: Address) -> int:
        """Wei that an address holds itself. Raises Unavailable."""
        return number_of((await self.rpc.batch([("eth_getBalance", [address_text(address), "latest"])]))[0])

    async def fees_of(self, recipient: Address) -> int:
        """Wei that redeemed tickets earned a recipient and that it did not withdraw yet. Raises Unavailable."""
        return int(await self.view("fees", recipient))

    async def rehearse(self, winners: Sequence[Winner]) -> list[Refused | None]:
        """What redeeming each alone would come to right now: None, or the contract's reason. Raises Unavailable."""
        to = address_text(self.settlement.broker)
        calls = [{"to": to, "data": "0x" + redeem_data(winner).hex()} for winner in winners]
        answers = await self.rpc.batch([("eth_call", [call, "latest"]) for call in calls])
        return [refusal_of(answer) if isinstance(answer, RpcRefused) else None for answer in answers]
