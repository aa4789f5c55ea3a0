"""Models of a hub: fetched only when asked, only what is harmless, resumed, verified; found and removed again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute import transferring
from compute.catalog import ModelEntry
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.modelfolder import read_folder
from compute.modelref import BundledModel, FolderModel, HubModel, parse_ref
from compute.modelstore import ModelStore
from compute.pulling import Pulled, pull
from compute.pullplan import MAX_PLAIN, SPARE_DISK, Remote, check_disk, plan
from compute.served import Wanted, serve
from compute.transferring import transfer
from p2p.errors import Misconfigured, Unavailable
from tests.support.hub import COMMIT, Hub, serving
from tests.support.model_folders import hollow_model

ROOT = Path(__file__).parent.parent
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
REF = HubModel("org", "name")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # another test may have taken this process offline
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    folder = hollow_model(tmp_path / "there", b"w" * 50_000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "old.ckpt"):
        (folder / name).write_bytes(b"not wanted")
    with serving(Hub(folder)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", others=())


def fetch(store: ModelStore, ref: HubModel = REF, disk: int = 0) -> Pulled:
    return pull(ref, store, DigestCache(store.root.parent / "digests.json"), disk)


def test_what_is_fetched_is_what_is_needed_and_the_same_model(hub: Hub, store: ModelStore) -> None:
    assert store.find(REF) is None
    pulled = fetch(store)
    assert pulled.commit == COMMIT
    original: ModelEntry = read_folder(hub.folder)
    assert (pulled.entry.model, pulled.entry.name, pulled.entry.licence) == (original.model, "org/name", "mit")
    wanted = [WEIGHTS, "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
    assert sorted(hub.fetched()) == sorted([*wanted, "model_index.json", "README.md"])
    assert store.find(REF) == store.find(HubModel("org", "name", COMMIT)) == Path(pulled.entry.folder)
    assert [str(kept.ref) for kept in store.kept()] == ["org/name"]
    assert store.used() > 50_000
    asked = len(hub.fetched())
    assert fetch(store).entry == pulled.entry
    assert len(hub.fetched()) == asked  # nothing is fetched twice
    assert store.remove(REF) > 50_000
    assert store.find(REF) is None
    with pytest.raises(Misconfigured, match="not pulled"):
        store.remove(REF)


def test_a_transfer_that_breaks_goes_on_where_it_stopped(
    hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transferring, "PAUSE_S", 0.0)
    monkeypatch.setattr(transferring, "_CHUNK", 1000)
    hub.cuts[WEIGHTS] = [20_000, 10_000, 0, 0, 0, 0, 0]
    with pytest.raises(Unavailable, match="go on later"):
        fetch(store)
    hub.cuts.clear()
    told: list[tuple[str, int, int]] = []
    entry = pull(REF, store, DigestCache(), 0, tell=lambda *news: told.append(news)).entry
    assert entry.model == read_folder(hub.folder).model
    assert hub.ranges[WEIGHTS] == [0, 20_000, *[30_000] * 6]
    assert told[-1] == (WEIGHTS, 50_076, 50_076)
    assert not list(store.root.rglob("*.part"))


def test_a_hub_that_knows_no_ranges_or_sends_more_than_it_states(tmp_path: Path, hub: Hub, store: ModelStore) -> None:
    hub.ranged = False
    blob = store.root / REF.folder / "blobs" / hub.sha(WEIGHTS)
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".part").write_bytes(b"x" * 100)
    assert fetch(store).entry.model == read_folder(hub.folder).model
    with pytest.raises(Unavailable, match="more than it states"):
        transfer(f"{hub.url}/org/name/resolve/{COMMIT}/{WEIGHTS}", {}, 1000, tmp_path / "file", lambda have, size: None)


def test_a_file_that_is_not_what_the_hub_states_is_thrown_away(hub: Hub, store: ModelStore) -> None:
    hub.lies[WEIGHTS] = "ab" * 32
    with pytest.raises(Unavailable, match="thrown away"):
        fetch(store)
    hub.lies.clear()
    assert fetch(store).entry.model == read_folder(hub.folder).model


def test_too_large_for_the_disk_or_its_limit_is_said_before_anything_large_is_fetched(
    hub: Hub, store: ModelStore
) -> None:
    with pytest.raises(Misconfigured, match=r"disk: .* remove some, or raise the limit"):
        fetch(store, disk=10_000)
    hub.sizes[WEIGHTS] = 100 * 2**30
    with pytest.raises(Misconfigured, match=r"disk: .* are free"):
        fetch(store)
    assert WEIGHTS not in hub.fetched()


@pytest.mark.parametrize(
    ("name", "data", "flaw"),
    [
        ("pipeline.py", "import os", Flaw.REMOTE_CODE),
        ("unet/modeling.py", "import os", Flaw.REMOTE_CODE),
        ("model_index.json", '{"_class_name": "OtherPipeline"}', Flaw.UNSERVED),
        ("model_index.json", '{"_class_name": ["own", "Own"]}', Flaw.REMOTE_CODE),
        ("model_index.json", " " * (2**20 + 1), Flaw.TOO_LARGE),
        ("unet/config.json", '{"auto_map": {"AutoModel": "a.B"}}', Flaw.REMOTE_CODE),
        (WEIGHTS, "no safetensors at all", Flaw.TOO_LARGE),
    ],
)
def test_a_hostile_model_is_refused(hub: Hub, store: ModelStore, name: str, data: str, flaw: Flaw) -> None:
    (hub.folder / name).write_text(data)
    with pytest.raises(BadModel) as told:
        fetch(store)
    assert told.value.flaw is flaw


def test_what_the_hub_does_not_have_is_said(hub: Hub, store: ModelStore) -> None:
    with pytest.raises(Misconfigured, match="no org/name@nowhere"):
        fetch(store, HubModel("org", "name", "nowhere"))
    with pytest.raises(Misconfigured, match="no org/other"):
        fetch(store, HubModel("org", "other"))


def test_no_hub_is_not_the_operators_fault(store: ModelStore, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="could not be pulled"):
        fetch(store)


def test_a_node_pulls_only_when_it_may(hub: Hub, store: ModelStore, tmp_path: Path) -> None:
    wanted = Wanted(("org/name",), store, DigestCache(tmp_path / "digests.json"))
    with pytest.raises(Misconfigured, match="models pull org/name"):
        serve(wanted)
    assert hub.asked == []
    served = serve(Wanted(("org/name",), store, wanted.cache, pinned=("org/name",), pulls=True))
    assert [entry.name for entry in served.entries] == ["org/name"]
    assert served.pinned == {served.entries[0].model}
    assert serve(wanted).entries == served.entries  # from now on without the hub


@pytest.mark.live
def test_the_command_pulls_lists_and_removes(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub_home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "PASAR_HOME": str(home)}

    def run(*argv: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / "node.py"), "models", *argv],
            env={**os.environ, **hub_home},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("pull", "org/name", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["licence"], told["commit"], told["pipeline"]) == ("mit", COMMIT, "text-to-image")
    code, out, _ = run("list", "--json")
    rows = {row["named"]: row for row in json.loads(out)}
    assert rows["org/name"]["model_hash"] == told["model_hash"]
    assert rows["org/name"]["is"] == "not served"
    code, out, err = run("remove", "org/name")
    assert (code, "removed org/name" in out) == (0, True), err
    code, out, err = run("remove", "org/name")
    assert (code, out) == (2, "")
    assert err.startswith("pasar: org/name was not pulled")


# -- names and plans ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("tiny", BundledModel("tiny")),
        ("org/name", HubModel("org", "name")),
        ("org/name@v1.0", HubModel("org", "name", "v1.0")),
        ("org/name@" + COMMIT, HubModel("org", "name", COMMIT)),
        ("/some/folder", FolderModel("/some/folder")),
        ("./org/name", FolderModel("./org/name")),
        ("~/model", FolderModel("~/model")),
    ],
)
def test_a_model_has_three_kinds_of_names(text: str, ref: object) -> None:
    assert parse_ref(text, ("tiny",), is_folder=False) == ref


@pytest.mark.parametrize(
    "text",
    [
        *("", "other", "a/b/c", "org/../name", "org/na..me", "-o/name"),
        *("org/--name", "org/name@../up", "a b/c", "a\0b"),
    ],
)
def test_other_names_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_ref(text, ("tiny",), is_folder=False)


def test_a_folder_that_is_there_wins() -> None:
    assert parse_ref("org/name", ("tiny",), is_folder=True) == FolderModel("org/name")


def test_a_model_whose_files_lie_beside_its_index_is_planned_too() -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "pytorch_model.bin", "onnx/model.onnx")
    chosen = plan([Remote(name, 10) for name in names], "config.json", ())
    assert [file.path for file in chosen] == ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    with pytest.raises(BadModel) as told:
        plan([Remote("config.json", 10), Remote("pytorch_model.bin", 10)], "config.json", ())
    assert told.value.flaw is Flaw.PICKLE
    with pytest.raises(BadModel) as told:
        plan([Remote("config.json", MAX_PLAIN + 1), Remote("model.safetensors", 10)], "config.json", ())
    assert told.value.flaw is Flaw.TOO_LARGE


def test_the_disk_keeps_a_spare() -> None:
    check_disk(10, SPARE_DISK + 10, 0, 0)
    with pytest.raises(Misconfigured):
        check_disk(11, SPARE_DISK + 10, 0, 0)
    check_disk(10, 2 * SPARE_DISK, 90, 100)
    with pytest.raises(Misconfigured):
        check_disk(11, 2 * SPARE_DISK, 90, 100)


def test_what_other_programs_pulled_is_found_and_never_removed(hub: Hub, store: ModelStore, tmp_path: Path) -> None:
    folder = Path(fetch(store).entry.folder)
    other = ModelStore(tmp_path / "empty", others=(store.root,))
    assert other.find(REF) == folder
    with pytest.raises(Misconfigured):
        other.remove(REF)
    assert folder.is_dir()
    shutil.rmtree(store.root)
