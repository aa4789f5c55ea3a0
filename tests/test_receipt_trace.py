"""The trace of a real Receipt: two leaves are opened with their paths, and the step between them is run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from compute.trace import verify_leaf
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from market.client import Delivered
from tests.support.marketplace import marketplace
from tests.support.model_folders import random_model

pytest.importorskip("torch")
pytestmark = pytest.mark.live

STEPS = 6
TOLERANCE_NANO = 100_000  # 1e-4: what threads and batches may change is a hundredth of it
K = 3


async def test_a_step_of_a_bought_picture_is_run_again(tmp_path: Path) -> None:
    worker = Worker(WorkerConfig(tmp_path / "node", (random_model(tmp_path / "random"),), device="cpu", threads=1))
    with trio.fail_after(240):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=worker)
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer, steps=STEPS, deadline_ms=120_000)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Delivered)
            root, job = got.receipt.trace_root, got.receipt.job_id
            assert root is not None

            before, after = await worker.open_trace(job, (K, K + 1))
            assert verify_leaf(root, job, STEPS, before)
            assert verify_leaf(root, job, STEPS, after)
            assert not verify_leaf(root, job, STEPS, replace(after, index=K))
            again = await worker.replay_step(bid.spec, before, after)
            assert again.max_diff_nano < TOLERANCE_NANO

            changed = bytearray(after.raw)
            changed[3] ^= 0x01  # the sign and exponent of one number, by one bit
            false = replace(after, raw=bytes(changed))
            assert not verify_leaf(root, job, STEPS, false)
            assert (await worker.replay_step(bid.spec, before, false)).max_diff_nano > TOLERANCE_NANO
            nursery.cancel_scope.cancel()
