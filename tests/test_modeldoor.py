"""A node's models over its local door, pins that are kept, and the commands that ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from compute import pins
from compute.capability import Capability, Dtype, ModelCapability
from compute.messages import ModelShelved
from compute.modelfolder import read_folder
from compute.pins import MAX_PINS, read_pins, write_pin
from market import modeldoor
from market.config import Config, load_config
from market.console import run_app
from market.instance import claim
from market.localdoor import LocalDoor
from market.localmodels import local_models
from market.model_commands import models
from market.modeldoor import PinOrder, ask_models, data_dirs, in_use, model_answers, order_pin, store_of
from p2p.errors import Misconfigured, Unavailable
from tests.support.model_folders import hollow_model


class Shelved:
    """A machine that obeys at once; what is ``deaf`` it never pins."""

    def __init__(self, *entries: ModelCapability, deaf: bytes = b"") -> None:
        self.entries, self.deaf, self.pinned = entries, deaf, set[bytes]()

    def capability(self) -> Capability:
        return Capability(self.entries)

    def shelved(self) -> tuple[ModelShelved, ...]:
        return tuple(ModelShelved(e.model, "warm", 70, e.model in self.pinned) for e in self.entries)

    def pin(self, model: bytes, pinned: bool) -> None:
        if model != self.deaf:
            (self.pinned.add if pinned else self.pinned.discard)(model)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("PASAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return load_config(models=(str(hollow_model(tmp_path / "one")),))


def entry_of(folder: Path) -> ModelCapability:
    return read_folder(folder).capability(Dtype.FP32)


async def test_a_pin_is_obeyed_now_and_known_at_the_next_start(config: Config, nursery: trio.Nursery) -> None:
    (name,) = config.models
    machine = Shelved(entry_of(Path(name)))
    instance = claim(config.home, config.network, "orchestrator", None)
    await nursery.start(LocalDoor(instance.path, model_answers(machine, instance.path, config)).run)
    assert await order_pin(config, PinOrder(name, True)) == (instance.path, True, True)
    assert read_pins(instance.path) == (name,)
    (row,) = await local_models(config)
    assert (row["is"], row["memory_bytes"], row["licence"]) == ("warm, pinned", 70, "")
    assert await order_pin(config, PinOrder(name, False)) == (instance.path, True, True)
    assert (read_pins(instance.path), machine.pinned) == ((), set())
    with pytest.raises(Misconfigured, match="not pinned"):
        await order_pin(config, PinOrder(name, False))
    with pytest.raises(Misconfigured, match="not on this machine"):
        await order_pin(config, PinOrder("org/unknown", True))
    instance.release()


async def test_a_model_that_the_node_does_not_serve_is_pinned_for_the_next_start(
    config: Config, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeldoor, "OBEY_S", 0.1)
    (name,) = config.models
    other = hollow_model(tmp_path / "other", b"other")
    machine = Shelved(entry_of(Path(name)), deaf=read_folder(Path(name)).model)
    instance = claim(config.home, config.network, "orchestrator", None)
    await nursery.start(LocalDoor(instance.path, model_answers(machine, instance.path, config)).run)
    assert await order_pin(config, PinOrder(str(other), True)) == (instance.path, True, False)
    assert await order_pin(config, PinOrder(name, True)) == (instance.path, True, False)  # it found no room
    assert read_pins(instance.path) == (str(other), name)
    instance.release()


async def test_without_a_node_the_file_is_written(config: Config) -> None:
    (name,) = config.models
    (path,) = data_dirs(config)
    assert await ask_models(config) is None
    assert await order_pin(config, PinOrder(name, True)) == (path, False, False)
    assert read_pins(path) == (name,)
    (row,) = await local_models(config)
    assert row["is"] == "to be served, pinned"
    instance = claim(config.home, config.network, "orchestrator", None)
    with pytest.raises(Unavailable, match="starting"):
        await order_pin(config, PinOrder(name, False))
    instance.release()


async def test_a_machine_without_a_shelf_has_nothing_to_answer(config: Config) -> None:
    assert model_answers(object(), config.home, config) == {}


async def test_what_is_pinned_is_not_removed(config: Config) -> None:
    store = store_of(config)
    folder = hollow_model(store.root / "models--org--name" / "snapshots" / ("a" * 40))
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("a" * 40)
    ref = store.kept()[0].ref
    assert await in_use(config, ref) == ""
    path, _, _ = await order_pin(config, PinOrder("org/name", True))
    assert await in_use(config, ref) == f"pinned in {path}"
    rows = {row["named"]: row for row in await local_models(config)}
    assert rows["org/name"]["model"] == "org/name"


def test_a_hostile_pulled_model_is_listed_with_its_flaw(config: Config) -> None:
    store = store_of(config)
    folder = hollow_model(store.root / "models--org--name" / "snapshots" / ("a" * 40))
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("a" * 40)
    (folder / "code.py").touch()
    rows = {row["named"]: row for row in trio.run(local_models, config)}
    assert rows["org/name"]["is"] == "remote-code"


@pytest.mark.parametrize("text", ["{", "[]", '{"pinned": "all"}', '{"pinned": [7]}'])
def test_a_damaged_file_of_pins_is_said_and_not_guessed(tmp_path: Path, text: str) -> None:
    (tmp_path / pins.FILE).write_text(text)
    with pytest.raises(Misconfigured, match="pin again"):
        read_pins(tmp_path)


def test_pins_are_bounded_and_kept_in_order(tmp_path: Path) -> None:
    for number in range(MAX_PINS):
        write_pin(tmp_path, str(number), True)
    with pytest.raises(Misconfigured, match="pinned already"):
        write_pin(tmp_path, "one more", True)
    assert write_pin(tmp_path, "0", True)[-1] == "0"
    assert len(write_pin(tmp_path, "5", False)) == MAX_PINS - 1
    assert [path.name for path in tmp_path.iterdir()] == [pins.FILE]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["pull", "tiny"], "on this machine already"),
        (["pull", "no such thing"], "is no model"),
        (["remove", "tiny"], "was not pulled"),
        (["remove", "org/name"], "was not pulled here"),
        (["pin", "org/name"], "models pull org/name"),
        (["unpin", "tiny"], "is not pinned"),
        (["bench", "org/name"], "models pull org/name"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    config: Config, capsys: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    assert run_app(models, argv) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert says in told.err


def test_the_list_is_a_table_or_json(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    (name,) = config.models
    assert run_app(models, ["list", "--model", name, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model_hash"] == read_folder(Path(name)).model.hex()
    assert run_app(models, ["list", "--model", name]) == 0
    assert str(row["model_hash"]) in capsys.readouterr().out
