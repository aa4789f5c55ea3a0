"""Reading model folders from disk: hashing once, refusing what is no model, bounded throughout."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compute import digestcache
from compute.catalog import licence_of
from compute.digestcache import DigestCache
from compute.flaws import BadModel
from compute.modelfolder import bundled, read_folder
from p2p.errors import Misconfigured
from tests.support.model_folders import as_safetensors, hollow_model


def test_the_same_weights_have_the_same_name_wherever_they_lie(tmp_path: Path) -> None:
    one, two = read_folder(hollow_model(tmp_path / "one")), read_folder(hollow_model(tmp_path / "deep" / "two"))
    other = read_folder(hollow_model(tmp_path / "three", b"weightS"))
    assert one.model == two.model != other.model
    assert (one.name, two.name) == ("one", "two")
    assert (one.native_side, one.max_side, one.weight_bytes) == (64, 256, 75)


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = hollow_model(tmp_path / "model"), DigestCache(tmp_path / "node" / "digests.json")
    hashed: list[Path] = []
    whole = digestcache._hash_file

    def counting(path: Path) -> bytes:
        hashed.append(path)
        return whole(path)

    monkeypatch.setattr(digestcache, "_hash_file", counting)
    first = read_folder(folder, cache)
    assert read_folder(folder, cache) == first
    assert read_folder(folder, DigestCache(cache.store)) == first
    assert len(hashed) == 1
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(as_safetensors(b"WEIGHTS"))
    os.utime(weights, ns=(1, 1))
    assert read_folder(folder, cache).model != first.model
    assert len(hashed) == 2


def test_a_damaged_cache_is_an_empty_one(tmp_path: Path) -> None:
    folder, store = hollow_model(tmp_path / "model"), tmp_path / "digests.json"
    expected = read_folder(folder)
    weights = str((folder / "unet" / "diffusion_pytorch_model.safetensors").resolve())
    stat = Path(weights).stat()
    for damage in ("{", "[]", json.dumps({weights: [stat.st_size, stat.st_mtime_ns, "zz"]})):
        store.write_text(damage)
        assert read_folder(folder, DigestCache(store)) == expected


def test_nodes_that_start_together_hash_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, hashed, whole = tmp_path / "digests.json", list[Path](), digestcache._hash_file
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for path in paths:
        path.write_bytes(path.name.encode())

    def counting(path: Path) -> bytes:
        hashed.append(path)
        return whole(path)

    monkeypatch.setattr(digestcache, "_hash_file", counting)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: DigestCache(store).digest(path), paths * 4))
    assert found == [whole(path) for path in paths] * 4
    assert sorted(hashed) == paths
    assert len(json.loads(store.read_text())) == len(paths)
    assert {path.name for path in tmp_path.iterdir()} == {*(p.name for p in paths), store.name, store.name + ".lock"}


def test_a_lock_whose_holder_does_not_let_go_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digestcache, "LOCK_S", 0.0)
    store, file = tmp_path / "digests.json", tmp_path / "file"
    file.write_bytes(b"data")
    with DigestCache(store)._locked():
        assert DigestCache(store).digest(file) == digestcache._hash_file(file)
    (tmp_path / "no").touch()
    assert DigestCache(tmp_path / "no" / "digests.json").digest(file) == digestcache._hash_file(file)


@pytest.mark.parametrize(
    ("card", "own", "licence"),
    [
        ("---\nlicense: mit\n---\nwords", {}, "mit"),
        ("---\nlicense: other\nlicense_name: 'open-x'\n---\n", {}, "open-x"),
        ("---\nlicense: mit\n---\n", {"license": "own"}, "own"),
        ("---\nlicense: m\x1b[2Jit" + "x" * 99 + "\n---\n", {}, "m[2Jit" + "x" * 58),
        ("license: mit", {}, ""),
        ("---\nlicense:\n---", {}, ""),
        ("", {"licence": 7}, ""),
    ],
)
def test_a_licence_is_shown_as_it_is_claimed_in_one_short_line(card: str, own: dict[str, object], licence: str) -> None:
    assert licence_of(own, card) == licence


def test_other_formats_and_variants_are_not_weights(tmp_path: Path) -> None:
    folder = hollow_model(tmp_path / "model")
    expected = read_folder(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    assert read_folder(folder) == expected
    (folder / "stray.ckpt").write_bytes(b"pickle")
    assert read_folder(folder) == expected
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadModel, match="safetensors"):
        read_folder(folder)


def test_what_is_no_model_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"model_index\.json"):
        read_folder(tmp_path)
    folder = hollow_model(tmp_path / "model")
    index = folder / "model_index.json"
    whole = index.read_text()
    for text, word in (("{", "no JSON"), ("[]", "no JSON object"), ("[" * 100_000, "nested"), (" " * 2**21, "larger")):
        index.write_text(text)
        with pytest.raises(BadModel, match=word):
            read_folder(folder)
    index.write_text(whole)
    (folder / "pasar.json").write_text('{"max_side": 128}')
    assert read_folder(folder).max_side == 128
    (folder / "vae" / "config.json").unlink()
    (folder / "vae").rmdir()
    with pytest.raises(Misconfigured, match="vae"):
        read_folder(folder)


def test_bundled_models_lie_in_the_package() -> None:
    assert bundled("tiny").parts[-3:] == ("compute", "models", "tiny")
