"""What is believed of a model folder's own words: little, within bounds, and never its code."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Dtype
from compute.catalog import WeightFile, components, read_entry, weights_digest
from compute.spec import TEXT_TO_IMAGE
from p2p.errors import Misconfigured

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "safety_checker": [None, None],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": False,
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 8},
    "vae": {"block_out_channels": [48] * 4},
    "scheduler": {"num_train_timesteps": 1000},
}
FILES = (WeightFile("unet/a.safetensors", 5, b"a" * 32), WeightFile("vae/b.safetensors", 6, b"b" * 32))


def test_parts_that_are_never_loaded_are_not_part_of_a_model() -> None:
    assert components(INDEX) == ("unet", "vae")


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "FluxPipeline"},
        {"_class_name": None},
        {"unet": ["my_module", "Backdoor"]},
        {"unet": ["diffusers"]},
        {"../up": ["diffusers", "UNet2DConditionModel"]},
    ],
)
def test_foreign_code_and_foreign_classes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        components({**INDEX, **change})


def test_sizes_come_from_the_parts_unless_the_folder_says_otherwise() -> None:
    entry = read_entry("/models/tiny", INDEX, CONFIGS, {}, FILES)
    assert (entry.name, entry.pipeline, entry.weight_bytes) == ("tiny", TEXT_TO_IMAGE, 11)
    assert (entry.native_side, entry.max_side, entry.side_step, entry.max_steps) == (64, 256, 8, 1000)
    own = {"name": "Tiny", "native_side": 128, "max_side": 512, "max_steps": 50}
    told = read_entry("/models/tiny", INDEX, CONFIGS, own, FILES)
    assert (told.name, told.native_side, told.max_side, told.max_steps) == ("Tiny", 128, 512, 50)
    assert told.model == entry.model
    assert told.capability(Dtype.FP32).warm is False


def test_a_large_model_is_offered_up_to_the_largest_side_only() -> None:
    configs = {"unet": {"sample_size": 96}, "vae": {"block_out_channels": [1] * 4}}
    entry = read_entry("big", INDEX, configs, {}, FILES)
    assert (entry.native_side, entry.max_side) == (768, 1024)


@pytest.mark.parametrize(
    ("configs", "own"),
    [
        ({}, {"max_side": 4096}),
        ({}, {"max_side": 32}),
        ({}, {"native_side": "64"}),
        ({}, {"native_side": True}),
        ({}, {"max_steps": 1001}),
        ({}, {"name": ""}),
        ({}, {"name": "a\nb"}),
        ({"vae": {"block_out_channels": "many"}}, {}),
        ({"unet": {"sample_size": -1}}, {}),
        ({"unet": {"sample_size": []}}, {}),
        ({"scheduler": {"num_train_timesteps": 0}}, {}),
    ],
)
def test_numbers_out_of_bounds_are_refused(configs: dict[str, Any], own: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        read_entry("tiny", INDEX, {**CONFIGS, **configs}, own, FILES)


def test_a_folder_without_safetensors_is_refused() -> None:
    with pytest.raises(Misconfigured, match="safetensors"):
        read_entry("tiny", INDEX, CONFIGS, {}, ())


files = st.builds(
    WeightFile,
    st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=8),
    st.integers(0, 2**40),
    st.binary(min_size=32, max_size=32),
)


@given(st.lists(files, min_size=1, max_size=4, unique_by=lambda f: f.path), st.randoms())
def test_the_hash_forgets_the_order_and_nothing_else(found: list[WeightFile], random: Any) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    name = weights_digest(found)
    assert weights_digest(shuffled) == name
    assert weights_digest(found[1:]) != name
    changed = [WeightFile(found[0].path, found[0].size + 1, found[0].digest), *found[1:]]
    assert weights_digest(changed) != name
