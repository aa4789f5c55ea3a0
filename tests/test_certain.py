"""On a development chain luck is helped on: who has sold twice without a win is paid with a ticket that wins."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from ledger.receiving import ReceivingBooks
from market.client import Delivered
from market.sale import LUCKLESS_JOBS
from tests.support.marketplace import marketplace


async def test_the_third_job_without_a_win_is_paid_with_certainty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReceivingBooks, "has_won", property(lambda books: False))
    with trio.fail_after(30), capture_logs() as logs:
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000)
            client, _ = await market.client(3)
            sure_after = []
            for _ in range(LUCKLESS_JOBS + 1):
                bid = await market.bid(client, gateway.key.peer)
                assert isinstance(await client.bid(gateway.key.peer, bid, lambda news: None), Delivered)
                sure_after.append(any(line["event"] == "tickets sure to win" for line in logs))
                logs_before = [line for line in logs if line["event"] == "ticket won"]
                logs.clear()
    assert sure_after == [False] * LUCKLESS_JOBS + [True]
    assert len(logs_before) >= 15  # under those params every ticket wins
