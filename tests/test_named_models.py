"""Whisper, SAM and a safety checker by the names that an operator gives: a folder of their own, or ORG/NAME of a hub.

The hub is one on loopback, the models are of the library's own classes with random weights; the checker has learned.
"""

from __future__ import annotations

import json
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest
import trio

from compute.capability import Dtype
from compute.costbook import CostBook
from compute.digestcache import DigestCache
from compute.modelref import HubModel
from compute.modelstore import ModelStore
from compute.offline import go_offline, hush
from compute.pulling import pull
from compute.safety import CHECKER, POLICY, WHOLE, Checking
from compute.served import Wanted, serve
from compute.spec import AUDIO_TO_TEXT, SEGMENT_ANYTHING, TEXT_TO_IMAGE, UPSCALE
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from compute.yardstick import picture, shape_of, sound, yardstick
from market.asking import ask
from market.bidwire import JobFailed
from market.client import Client, Delivered, Ending, Wish, bid_for, choose_model
from market.conversation import now_ms
from market.prices import PriceList
from market.pricing import Pricing
from market.refusal import Refusal
from p2p.peer import PeerId
from tests.support.hub import Hub, serving
from tests.support.marketplace import Marketplace, Place, marketplace

go_offline()
pytest.importorskip("torch")
hush()

from compute.device import pipeline_class  # noqa: E402 - after the environment is set
from tests.support.checkers import plain_png, trained_checker  # noqa: E402
from tests.support.small_models import random_sam, random_whisper  # noqa: E402

REF = HubModel("org", "name")
LEGACY = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.fp32-00001-of-00002.safetensors", "x.ckpt")
MAKERS = {AUDIO_TO_TEXT: random_whisper, SEGMENT_ANYTHING: random_sam, CHECKER: trained_checker}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("models")
    return {pipeline: make(where / f"my-{pipeline}") for pipeline, make in MAKERS.items()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # another test may have taken this process offline
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)

    def of(folder: Path) -> Any:
        there = tmp_path / "there"
        there.mkdir()
        for path in folder.iterdir():
            (there / path.name).write_bytes(path.read_bytes())
        for name in LEGACY:  # what such repositories have beside it
            (there / name).write_bytes(b"not wanted")
        return serving(Hub(there))

    return of


def fetched(hub: Any, folder: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    with hub(folder) as there:
        monkeypatch.setenv("HF_ENDPOINT", there.url)
        pulled = pull(REF, store, DigestCache(), 0)
        assert not set(LEGACY) & set(there.fetched())
    return pulled


@pytest.mark.parametrize("pipeline", MAKERS)
def test_it_is_pulled_and_is_the_same_as_in_its_folder(
    hub: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str
) -> None:
    store = ModelStore(tmp_path / "models", others=())
    pulled = fetched(hub, folders[pipeline], store, monkeypatch)
    assert (pulled.entry.pipeline, pulled.entry.name) == (pipeline, "org/name")
    if pipeline == CHECKER:
        served = serve(Wanted(("tiny-upscaler",), store, DigestCache(), checking=Checking("org/name", ("nsfw",))))
        assert served.checking is not None
        assert served.checking.checker == pulled.entry.folder
        return
    (named,) = serve(Wanted(("org/name",), store, DigestCache())).entries
    (own,) = serve(Wanted((str(folders[pipeline]),), store, DigestCache())).entries
    assert (named.model, named.max_length, named.max_input) == (own.model, own.max_length, own.max_input)
    spec, files = yardstick(shape_of(pipeline, named.model, 0), bytes(16))
    assert named.capability(Dtype.FP32).unfit(spec.shape) is None
    run = pipeline_class(pipeline).load(Path(named.folder), device="cpu", dtype=Dtype.FP32).open(spec, files)
    assert json.loads(run.finish(run.step(run.start(), 0))[0].data)


# -- in the market ---------------------------------------------------------------------------------------------------


async def bought(client: Client, gateway: PeerId, pipeline: str, file: Path, *options: str) -> Ending:
    """What ``bid PIPELINE --file FILE --set OPTION`` comes to."""
    asked = ask(pipeline, Wish("", deadline_ms=20_000), file, options)
    model = choose_model(await client.models(gateway, pipeline), asked.wish)
    assert not isinstance(model, Refusal)
    bid = bid_for(asked.wish, model, pipeline, token_bytes)
    return await client.bid(gateway, bid, lambda news: None, files=asked.files)


@pytest.mark.live
@pytest.mark.prove
async def test_they_are_sold_at_prices_of_their_own_and_results_are_checked(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "models", others=())
    names = (str(folders[AUDIO_TO_TEXT]), str(folders[SEGMENT_ANYTHING]), "tiny-upscaler", "tiny")
    wanted = Wanted(names, store, DigestCache(), checking=Checking(str(folders[CHECKER]), ("nsfw",), WHOLE // 2))
    worker = Worker(WorkerConfig(tmp_path / "node", (), device="cpu", threads=1), lambda: serve(wanted))
    costs = tmp_path / "costs.json"
    pipelines = (AUDIO_TO_TEXT, SEGMENT_ANYTHING, UPSCALE)
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery, marketplace(tmp_path, pipelines=pipelines) as market:
            await nursery.start(worker.run)
            gateway = await market.gateway(1)
            pricing = Pricing(PriceList(2_000_000), CostBook(costs), lambda: worker.device)
            seller = await market.orchestrator(2, price=1, machine=worker, pricing=pricing)
            await priced(gateway, worker, pricing, pipelines)
            client, _ = await market.client(3)
            await sell(market, client, gateway, seller, tmp_path)
            told = json.loads(costs.read_text())
            assert set(told["cpu"]) >= {*pipelines, "text-to-image"}
            for pipeline in pipelines:
                ours = seller.role.offering.current(pipeline)  # type: ignore[union-attr]
                assert ours.price == pricing.ask(pipeline, worker.capability())
                assert ours.price != 1
            nursery.cancel_scope.cancel()


async def priced(gateway: Place, worker: Worker, pricing: Pricing, pipelines: tuple[str, ...]) -> None:
    """Until every model is measured, and the offers that the gateway knows say so."""
    feed = gateway.role._m.feed  # type: ignore[union-attr]
    needed = {*pipelines, TEXT_TO_IMAGE}
    while not all(  # noqa: ASYNC110 - another process
        entry.unit_ps for entry in worker.capability().models if entry.pipeline in needed
    ):
        await trio.sleep(0.05)
    await pricing.learn(worker.capability())
    asked = {pipeline: pricing.ask(pipeline, worker.capability()) for pipeline in pipelines}
    while {posting.offer.pipeline: posting.offer.price for posting in feed.book.postings()} != asked:
        await feed.changed()


async def sell(market: Marketplace, client: Client, gateway: Place, seller: Place, tmp_path: Path) -> None:
    files = {"a.wav": sound(2000), "a.png": picture(64), "blue.png": plain_png("blue"), "red.png": plain_png("red")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    heard = await bought(client, gateway.key.peer, AUDIO_TO_TEXT, tmp_path / "a.wav")
    assert isinstance(heard, Delivered)
    assert json.loads(heard.files[0])["duration_ms"] == 2000
    assert heard.receipt.safety is None
    found = await bought(client, gateway.key.peer, SEGMENT_ANYTHING, tmp_path / "a.png", "box=[8, 8, 40, 40]")
    assert isinstance(found, Delivered)
    assert len(json.loads(found.files[0])["segments"]) == 1
    passed = await bought(client, gateway.key.peer, UPSCALE, tmp_path / "blue.png")
    assert isinstance(passed, Delivered)
    assert passed.receipt.safety is not None
    assert passed.receipt.safety.score < WHOLE // 2
    stopped = await bought(client, gateway.key.peer, UPSCALE, tmp_path / "red.png")
    assert isinstance(stopped, JobFailed)
    assert (stopped.code, stopped.charged) == (POLICY, 0)
    known = gateway.role.reputation.of(seller.key.peer, now_ms())  # type: ignore[union-attr]
    assert (known.faults, known.failed_in_row, known.banned_until) == (0, 0, 0)
    assert gateway.books.standing(seller.key.address).faults == 0
    again = await bought(client, gateway.key.peer, AUDIO_TO_TEXT, tmp_path / "a.wav")
    assert isinstance(again, Delivered)
