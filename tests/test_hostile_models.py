"""Model folders made to hurt: each is refused with its flaw before a library sees it, and before it costs much."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute import strictfolder
from compute.digestcache import DigestCache
from compute.filekinds import MAX_FILES
from compute.flaws import BadModel, Flaw
from compute.modelfolder import bundled, bundled_names, read_folder
from compute.spec import TRANSCODE
from compute.strictfolder import StrictFolder
from compute.strictjson import MAX_DEPTH, parse_object
from compute.weightsheader import MAX_HEADER, PREFIX, check_header, header_length
from tests.support.model_folders import as_safetensors, hollow_model

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"


def flaw_of(folder: Path) -> Flaw:
    with pytest.raises(BadModel) as told:
        read_folder(folder)
    assert f"[{told.value.flaw.value}]" in str(told.value)
    return told.value.flaw


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write(name: str, data: bytes | str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def link_out(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def link_nowhere(folder: Path) -> None:
    (folder / "unet" / "notes.txt").symlink_to(folder / "gone")


def link_in_a_circle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / WEIGHTS)


def pipe(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def device(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/dev/zero")


def door(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(folder / "unet")  # a socket's path is short
        try:
            one.bind("a.json")
        finally:
            os.chdir(here)


def folder_for_a_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def crowd(where: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for number in range(MAX_FILES + 1):
            (folder / where / f"{number}.txt").touch()

    return change


def sparse(name: str, size: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return change


def deep(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


HOSTILE: dict[str, tuple[Callable[[Path], object], Flaw]] = {
    "weights only as a pickle": (only_pickle, Flaw.PICKLE),
    "code beside the index": (write("pipeline.py", "print('here')"), Flaw.REMOTE_CODE),
    "code in a part": (write("unet/modeling.py", ""), Flaw.REMOTE_CODE),
    "a library in a part": (write("unet/fast.so", b"\x7fELF"), Flaw.REMOTE_CODE),
    "a class of its own": (
        lambda folder: edit(folder, "model_index.json", _class_name=["my_pipeline", "Mine"]),
        Flaw.REMOTE_CODE,
    ),
    "a part of its own": (lambda folder: edit(folder, "model_index.json", unet=["mine", "Unet"]), Flaw.REMOTE_CODE),
    "an auto_map": (lambda folder: edit(folder, "unet/config.json", auto_map={"AutoModel": "a.B"}), Flaw.REMOTE_CODE),
    "an auto_map of a tokenizer": (
        write("unet/tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["a.B", null]}}'),
        Flaw.REMOTE_CODE,
    ),
    "an adapter for another model": (
        write("unet/adapter_config.json", '{"base_model_name_or_path": "/etc"}'),
        Flaw.REMOTE_CODE,
    ),
    "a part above": (
        lambda folder: edit(folder, "model_index.json", **{"../up": ["diffusers", "Up"]}),
        Flaw.BAD_NAME,
    ),
    "weights that are a link out": (link_out(WEIGHTS), Flaw.OUTSIDE),
    "a configuration that is a link out": (link_out("vae/config.json"), Flaw.OUTSIDE),
    "a part that is a link out": (link_out("unet"), Flaw.OUTSIDE),
    "a link to nothing": (link_nowhere, Flaw.INCOMPLETE),
    "a link to itself": (link_in_a_circle, Flaw.INCOMPLETE),
    "weights that are a pipe": (pipe(WEIGHTS), Flaw.NO_FILE),
    "a configuration that is a pipe": (pipe("unet/config.json"), Flaw.NO_FILE),
    "an index that is a pipe": (pipe("model_index.json"), Flaw.NO_FILE),
    "a card that is a pipe": (pipe("README.md"), Flaw.NO_FILE),
    "weights that are a device": (device, Flaw.OUTSIDE),
    "a socket": (door, Flaw.NO_FILE),
    "a folder for a file": (folder_for_a_file, Flaw.NO_FILE),
    "more files than a model has": (crowd("unet"), Flaw.TOO_MANY),
    "more entries than a model has": (crowd("."), Flaw.TOO_MANY),
    "a name with a control character": (write("unet/a\nb.json", "{}"), Flaw.BAD_NAME),
    "a name with a backslash": (write("unet/..\\up.json", "{}"), Flaw.BAD_NAME),
    "a configuration without a bound": (sparse("unet/config.json", 2**40), Flaw.TOO_LARGE),
    "a tokenizer without a bound": (sparse("vae/tokenizer.json", 2**40), Flaw.TOO_LARGE),
    "an index without a bound": (sparse(INDEX, 2**40), Flaw.TOO_LARGE),
    "a deep index": (write("model_index.json", deep(10_000)), Flaw.TOO_DEEP),
    "a deep configuration": (write("unet/config.json", deep(MAX_DEPTH + 1)), Flaw.TOO_DEEP),
    "a deep tokenizer": (write("vae/tokenizer.json", "[" * 100_000), Flaw.TOO_DEEP),
    "a key that stands twice": (write("unet/config.json", '{"sample_size": 8, "sample_size": 9}'), Flaw.NO_JSON),
    "a configuration that is none": (write("vae/config.json", b"\xff\xfe"), Flaw.NO_JSON),
    "an index to another file": (write(INDEX, json.dumps({"weight_map": {"a": "../../secret"}})), Flaw.BAD_INDEX),
    "an index to unhashed weights": (
        write(INDEX, json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}})),
        Flaw.BAD_INDEX,
    ),
    "an index that names nothing": (write(INDEX, "{}"), Flaw.BAD_INDEX),
    "weights without a header": (write(WEIGHTS, b"abc"), Flaw.BAD_HEADER),
    "weights that are a pickle": (write(WEIGHTS, b"\x80\x04" + b"." * 100), Flaw.TOO_LARGE),
    "a header of 100 MB": (write(WEIGHTS, (100_000_000).to_bytes(8, "little") + b"{}"), Flaw.TOO_LARGE),
    "a header past the end": (write(WEIGHTS, (1000).to_bytes(8, "little") + b"{}"), Flaw.BAD_HEADER),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_with_its_flaw(tmp_path: Path, name: str) -> None:
    change, flaw = HOSTILE[name]
    folder = hollow_model(tmp_path / "model")
    read_folder(folder)
    change(folder)
    assert flaw_of(folder) is flaw


def test_what_is_no_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("nowhere", "file", "circle", "."):
        assert flaw_of(tmp_path / name) is Flaw.NO_MODEL


def test_an_endless_folder_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    (entry,) = os.scandir(tmp_path)
    seen = 0

    @contextmanager
    def endless(path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        def entries() -> Iterator[os.DirEntry[str]]:
            nonlocal seen
            while True:
                seen += 1
                yield entry

        yield entries()

    folder = StrictFolder(tmp_path)
    monkeypatch.setattr(strictfolder.os, "scandir", endless)
    with pytest.raises(BadModel) as told:
        folder.names()
    assert (told.value.flaw, seen) == (Flaw.TOO_MANY, MAX_FILES + 1)


def test_links_inside_one_model_of_a_hub_cache_are_followed_and_no_others(tmp_path: Path) -> None:
    one = tmp_path / "models--org--one"
    whole = hollow_model(one / "snapshots" / "abc")
    expected = read_folder(whole)
    (one / "blobs").mkdir()
    for path in sorted(path for path in whole.rglob("*") if path.is_file()):
        blob = one / "blobs" / path.relative_to(whole).as_posix().replace("/", "-")
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    assert read_folder(whole) == expected
    blob = one / "blobs" / WEIGHTS.replace("/", "-")
    other = tmp_path / "models--org--two" / "blobs" / "weights"
    other.parent.mkdir(parents=True)
    blob.rename(other)
    blob.symlink_to(other)
    assert flaw_of(whole) is Flaw.OUTSIDE


def test_weights_in_many_files_are_read_as_their_index_says(tmp_path: Path) -> None:
    folder = hollow_model(tmp_path / "model")
    shards = [f"diffusion_pytorch_model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    (folder / WEIGHTS).unlink()
    for shard in shards:
        (folder / "unet" / shard).write_bytes(as_safetensors(shard.encode()))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}}))
    entry = read_folder(folder)
    assert entry.numbers == sum(map(len, shards))
    (folder / "unet" / shards[1]).unlink()
    assert flaw_of(folder) is Flaw.BAD_INDEX


# -- headers -------------------------------------------------------------------------------------------------------


def tensor(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [(end - begin) // 2], "data_offsets": [begin, end], **changes}


LIES: dict[str, tuple[Any, int]] = {
    "offsets beyond the file": ({"a": tensor(0, 200)}, 100),
    "offsets that overlap": ({"a": tensor(0, 60), "b": tensor(40, 100)}, 100),
    "a hole": ({"a": tensor(0, 40), "b": tensor(60, 100)}, 100),
    "a tail that nobody has": ({"a": tensor(0, 40)}, 100),
    "offsets backwards": ({"a": tensor(40, 0)}, 0),
    "a negative offset": ({"a": tensor(-2, 98)}, 100),
    "a shape of another size": ({"a": tensor(0, 100, shape=[49])}, 100),
    "a negative shape": ({"a": tensor(0, 100, shape=[-5, -10])}, 100),
    "a shape past every memory": ({"a": tensor(0, 100, shape=[2**62, 2**62])}, 100),
    "a number for a shape": ({"a": tensor(0, 100, shape=50)}, 100),
    "a fraction": ({"a": tensor(0, 100, shape=[50.0])}, 100),
    "a truth for a number": ({"a": tensor(0, 2, shape=[True])}, 2),
    "an unknown type": ({"a": tensor(0, 100, dtype="OBJECT")}, 100),
    "three offsets": ({"a": tensor(0, 100, data_offsets=[0, 50, 100])}, 100),
    "a tensor that is none": ({"a": [1, 2]}, 100),
    "a field too many": ({"a": tensor(0, 100, extra=1)}, 100),
    "no tensor": ({}, 0),
    "metadata that are none": ({"__metadata__": {"a": 1}, "a": tensor(0, 100)}, 100),
    "a deep header": ({"a": tensor(0, 100, shape=[[[[50]]]])}, 100),
    "many dimensions": ({"a": tensor(0, 2, shape=[1] * 99)}, 2),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused(name: str) -> None:
    told, size = LIES[name]
    header = json.dumps(told).encode()
    with pytest.raises(BadModel):
        check_header(header, PREFIX + len(header) + size, "weights")


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "U8"]), st.lists(st.integers(0, 9), max_size=3)), min_size=1))
def test_an_honest_header_is_believed(tensors: list[tuple[str, list[int]]]) -> None:
    reached, numbers, told = 0, 0, {}
    for at, (dtype, shape) in enumerate(tensors):
        count = 1
        for side in shape:
            count *= side
        size = count * {"F32": 4, "BF16": 2, "U8": 1}[dtype]
        told[str(at)] = {"dtype": dtype, "shape": shape, "data_offsets": [reached, reached + size]}
        reached, numbers = reached + size, numbers + count
    header = json.dumps({"__metadata__": {"format": "pt"}, **told}).encode()
    assert check_header(header, PREFIX + len(header) + reached, "weights") == numbers


@given(st.binary(max_size=64), st.integers(0, 2**64 - 1))
def test_any_bytes_are_refused_in_one_way(data: bytes, length: int) -> None:
    file = length.to_bytes(8, "little") + data
    for whole in (file, data, len(data).to_bytes(8, "little") + data):
        try:
            said = header_length(whole[:PREFIX], len(whole), "weights")
            assert said <= MAX_HEADER
            check_header(whole[PREFIX : PREFIX + said], len(whole), "weights")
        except BadModel:
            pass


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=20
    )
)
def test_depth_is_counted_outside_of_strings(value: Any) -> None:
    data = json.dumps({"a": value, "b": '[[[["]]{{{\\'}).encode()
    assert parse_object(data, "it") == json.loads(data)


@pytest.mark.parametrize("name", bundled_names())
def test_what_ships_passes(name: str) -> None:
    entry = read_folder(bundled(name), DigestCache())
    assert entry.numbers > 0 or entry.pipeline == TRANSCODE  # an encoder has no weights
    assert entry.licence
