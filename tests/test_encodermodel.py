"""Where the encoder is not installed the rest is served, and it is said; whoever named it is told what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from compute import encodermodel
from compute.capability import Dtype, Misfit
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.modelfolder import bundled, bundled_names, read_folder
from compute.modelstore import ModelStore
from compute.served import Wanted, installed, serve
from compute.spec import MAX_INPUT, TRANSCODE, JobShape
from market.config import Config
from market.localmodels import local_models

NAME = "x264-veryfast"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    encodermodel._printed.cache_clear()
    monkeypatch.setattr(encodermodel.importlib.util, "find_spec", lambda name: None)


def test_it_ships_with_the_package() -> None:
    assert NAME in bundled_names()


def test_what_is_on_offer_is_bounded() -> None:
    pytest.importorskip("av")
    entry = read_folder(bundled(NAME)).capability(Dtype.FP32)
    fits = JobShape(TRANSCODE, entry.model, 64, 64, 1, False, input_bytes=MAX_INPUT, length=encodermodel.MAX_FRAMES)
    assert entry.unfit(fits) is None
    for wrong, why in (
        (replace(fits, length=encodermodel.MAX_FRAMES + 1), Misfit.LENGTH),
        (replace(fits, steps=2), Misfit.STEPS),
    ):
        unfit = entry.unfit(wrong)
        assert unfit is not None
        assert unfit.reason is why


@pytest.mark.usefixtures("missing")
def test_without_pyav_it_is_left_out_and_said() -> None:
    with capture_logs() as said:
        found = installed((NAME, "tiny-upscaler"), DigestCache())
    assert found == ("tiny-upscaler",)
    assert [one["model"] for one in said] == [NAME]
    assert "pip install 'pasar[video]'" in said[0]["reason"]


@pytest.mark.usefixtures("missing")
def test_who_named_it_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="PyAV") as refused:
        serve(Wanted((NAME,), ModelStore(tmp_path), DigestCache()))
    assert refused.value.flaw is Flaw.NOT_INSTALLED


@pytest.mark.usefixtures("missing")
async def test_the_list_of_models_shows_what_it_lacks(tmp_path: Path) -> None:
    rows = {row["named"]: row for row in await local_models(Config(home=tmp_path))}
    assert rows[NAME]["is"] == "not-installed"
    assert rows["tiny-upscaler"]["is"] == "to be served"


def test_an_encoder_that_does_not_work_is_not_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encodermodel._printed.cache_clear()
    broken = tmp_path / "compute" / "pipelines" / "encoder.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise OSError('no libx264 in this build')")
    for package in (broken.parent, broken.parent.parent):
        (package / "__init__.py").touch()
    monkeypatch.setattr(encodermodel, "_ROOT", tmp_path)
    monkeypatch.setattr(encodermodel.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(BadModel, match="does not work: OSError: no libx264"):
        read_folder(bundled(NAME))
    encodermodel._printed.cache_clear()
