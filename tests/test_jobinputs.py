"""Files that a job works on: from the client by its gateway to the winner, whole, over broken streams and restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from compute.capability import Capability
from compute.spec import MAX_INPUT, Input, JobSpec
from compute.work import JobResult, Step
from market import gateway as gateway_module
from market.bid import Bid
from market.bidwire import BidTaken
from market.client import Delivered
from market.jobinputs import JobInputs, refs_of
from market.jobwire import blob_id
from market.keeping import Keeping, name_of
from market.parcels import Parcels
from market.protocol import BID
from market.refusal import Code, Refusal
from p2p.blobs import CHUNK, Chunk
from p2p.codec import encode
from p2p.errors import MalformedMessage, Misconfigured, Unavailable
from p2p.stream import JOB_FRAME, MessageStream
from tests.support.market_values import spec, spec_on_files
from tests.support.marketplace import marketplace

FILES = (b"first" * 500_000, b"second")


class Reader(NoopWorker):
    """Takes inputs, and remembers them."""

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.read: list[tuple[bytes, ...]] = []
        models = tuple(replace(entry, max_input=MAX_INPUT) for entry in self._capability.models)
        self._capability = Capability(models, self._capability.slots)

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        self.read.append(tuple(files))
        return await super().generate(job_id, spec, on_step, files)


def on_files(bid: Bid, files: Sequence[bytes]) -> Bid:
    inputs = tuple(Input("image/png", len(data), sha256(data).digest()) for data in files)
    shape = replace(bid.spec.shape, input_bytes=sum(map(len, files)))
    return replace(bid, spec=replace(bid.spec, shape=shape, inputs=inputs))


async def test_a_job_gets_its_files(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway, machine = await market.gateway(1), Reader()
            await market.orchestrator(2, price=2_000_000, machine=machine)
            client, _ = await market.client(3)
            bid = on_files(await market.bid(client, gateway.key.peer), FILES)
            got = await client.bid(gateway.key.peer, bid, lambda news: None, files=FILES)
            assert isinstance(got, Delivered)
            assert machine.read == [FILES]
            again = await client.bid(gateway.key.peer, bid, lambda news: None, files=FILES)
            assert isinstance(again, Delivered)
            while any((tmp_path / "1" / "inputs").iterdir()):  # noqa: ASYNC110  # dropped after the result is told
                await trio.sleep(0.01)


async def test_the_next_seller_gets_them_too_without_the_client(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            broken, good = Reader(lose_at=2), Reader()
            await market.orchestrator(2, price=1_000_000, machine=broken)
            await market.orchestrator(3, price=2_000_000, machine=good)
            client, _ = await market.client(4)
            bids = [on_files(await market.bid(client, gateway.key.peer, prefer="price"), FILES) for _ in range(4)]
            for bid in bids:
                assert isinstance(await client.bid(gateway.key.peer, bid, lambda news: None, files=FILES), Delivered)
            assert set(good.read) == {FILES}
            assert set(broken.read) <= {FILES}


async def test_a_restarted_gateway_asks_for_what_it_has_not_got(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway, machine = await market.gateway(1), Reader()
            await market.orchestrator(2, price=2_000_000, machine=machine)
            client, _ = await market.client(3)
            bid = on_files(await market.bid(client, gateway.key.peer), FILES)
            async with trio.open_nursery() as nursery:

                async def again() -> None:
                    await gateway.gone.wait()
                    await market.gateway(1)

                def tell(news: object) -> None:
                    if isinstance(news, BidTaken) and not gateway.scope.cancel_called:
                        gateway.kill()

                nursery.start_soon(again)
                got = await client.bid(gateway.key.peer, bid, tell, files=FILES)
            assert isinstance(got, Delivered)
            assert machine.read == [FILES]


async def test_more_than_anybody_takes_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=NoopWorker())
            client, _ = await market.client(3)
            bid = on_files(await market.bid(client, gateway.key.peer), FILES)
            got = await client.bid(gateway.key.peer, bid, lambda news: None, files=FILES)
            assert isinstance(got, Refusal)
            assert got.code is Code.NO_MATCH
            assert got.counts == {"parameters": 1}


async def test_files_that_the_bid_does_not_name_are_nobodys_inputs(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=Reader())
            client, _ = await market.client(3)
            bid = on_files(await market.bid(client, gateway.key.peer), FILES)
            with pytest.raises(Misconfigured):
                await client.bid(gateway.key.peer, bid, lambda news: None, files=FILES[:1])


async def test_a_gateway_holds_so_much_input_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "MAX_INPUT_BYTES", 2 * sum(map(len, FILES)) - 1)
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=Reader())
            client, seat = await market.client(3)
            slow, late = [on_files(await market.bid(client, gateway.key.peer), FILES) for _ in range(2)]
            stream = MessageStream(await seat.open(gateway.key.peer, BID), JOB_FRAME)
            await market.greeter("client").say(stream, slow)  # and sends nothing
            await market.greeter("client").hear(stream)
            assert isinstance(await stream.receive(), BidTaken)
            got = await client.bid(gateway.key.peer, late, lambda news: None, files=FILES)
            assert isinstance(got, Refusal)
            assert got.code is Code.BUSY
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sizes", [(MAX_INPUT + 1,), (MAX_INPUT, 1)])
def test_a_spec_names_no_more_input_than_a_node_holds(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="outside"):
        encode(spec_on_files(sizes=sizes))


async def test_wrong_bytes_and_blobs_that_nobody_waits_for(tmp_path: Path) -> None:
    data = b"x" * (CHUNK + 5)
    asked = on_files_spec((data,))
    kept = JobInputs(Keeping(tmp_path), name_of(b"\1" * 32), asked)
    blob = blob_id(sha256(data).digest())
    good = [Chunk(blob, n, sha256(part).digest(), part) for n, part in enumerate((data[:CHUNK], data[CHUNK:]))]
    with pytest.raises(MalformedMessage):
        await kept.take(Chunk(b"\7" * 16, 0, sha256(b"a").digest(), b"a"))
    with pytest.raises(MalformedMessage):
        await kept.take(Chunk(blob, 0, sha256(b"a").digest(), b"b" * CHUNK))
    await kept.take(good[1])
    assert [have.blob for have in kept.have()] == [blob]
    assert not kept.whole.is_set()
    await kept.take(good[0])
    assert kept.whole.is_set()
    assert (await kept.take(good[0])).index == 0  # again, on a stream that broke
    restored = JobInputs(Keeping(tmp_path), name_of(b"\1" * 32), asked)
    await restored.restore()
    assert restored.whole.is_set()
    assert await restored.files(Parcels()) == (data,)
    await restored.drop()
    with pytest.raises(Unavailable):
        await restored.files(Parcels())


async def test_what_another_spec_left_is_not_taken_for_ours(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    one, two = on_files_spec((b"one",)), on_files_spec((b"two",))
    await keeping.put("job", one, [b"one"])
    kept = JobInputs(keeping, "job", two)
    await kept.restore()
    assert not kept.whole.is_set()
    assert refs_of(two)[0].size == 3


def on_files_spec(files: Sequence[bytes]) -> JobSpec:
    inputs = tuple(Input("image/png", len(data), sha256(data).digest()) for data in files)
    plain = spec()
    return replace(plain, shape=replace(plain.shape, input_bytes=sum(map(len, files))), inputs=inputs)
