"""The demo as people run it: a whole market in child processes, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from compute.modelfolder import bundled
from compute.picture import png_size
from tests.support.model_folders import hollow_model, random_model

ROOT = Path(__file__).parent.parent
PATIENCE_S = 240.0
KEYS = """jobs delivered images peers_found_by_dht offers quotes tickets tickets_won redeemed_wei paid_wei orchestrators
seconds""".split()

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, or one with random weights where it is not there."""
    shipped = bundled()
    return shipped if (shipped / "model_index.json").exists() else random_model(tmp_path_factory.mktemp("m") / "model")


class Running:
    """A demo under way; ``story`` is what it has told so far."""

    def __init__(self, folder: Path, models: Path, *flags: str) -> None:
        environment = {**os.environ, "PASAR_MODELS": str(models), "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "node.py"), "demo", "--json", *flags],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.folder, self.story, self._told = folder, "", threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, words: str) -> None:
        """Until it has told of ``words``."""
        with self._told:
            found = self._told.wait_for(lambda: words in self.story or self.process.poll() is not None, PATIENCE_S)
        assert found, self.story
        assert words in self.story, self.story

    def finish(self) -> tuple[int, str]:
        """Its exit code and its stdout."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code, out

    def left(self) -> list[psutil.Process]:
        """Processes that carry this demo's directory in their environment, its own included while it runs."""
        homes = re.findall(r"everything in (\S+)", self.story)
        return [process for process in psutil.process_iter() if _home_of(process) in homes]

    def close(self) -> None:
        """After a test that went wrong: end what it left."""
        for process in [*self.left(), self.process]:
            process.kill()
        self._reader.join(PATIENCE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.story += line
                self._told.notify_all()
        with self._told:
            self._told.notify_all()


def _home_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("PASAR_HOME")
    except (psutil.Error, OSError):
        return None


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, models: Path) -> Iterator[Start]:
    begun: list[Running] = []

    def begin(*flags: str, models: Path = models) -> Running:
        begun.append(Running(tmp_path, models, *flags))
        return begun[-1]

    yield begin
    for running in begun:
        running.close()


def test_three_pictures_are_made_and_paid_for(start: Start) -> None:
    running = start()
    running.wait_for("awarded to orchestrator-1")
    assert len(running.left()) >= 5  # the probe below sees children while there are some
    code, out = running.finish()
    assert code == 0, running.story
    report = json.loads(out.splitlines()[-1])
    assert sorted(report) == sorted(KEYS)
    assert (report["jobs"], report["delivered"]) == (3, 3)
    for image in report["images"]:
        assert png_size((running.folder / image).read_bytes()) == (64, 64)
    _check_numbers(report)
    assert running.left() == []
    assert list(running.folder.glob("pasar-demo-*")) == []


def _check_numbers(report: dict[str, object]) -> None:
    """What the sums have to do with each other."""
    sellers = report["orchestrators"]
    assert isinstance(sellers, dict)
    assert all(re.fullmatch(r"0x[0-9a-fA-F]{40}", address) for address in sellers)
    assert report["peers_found_by_dht"] == 3
    assert report["offers"] == len(sellers) == 2
    assert sum(one["quoted"] for one in sellers.values()) == report["quotes"]
    assert sum(one["jobs"] for one in sellers.values()) == report["jobs"]
    assert sum(one["credit_wei"] for one in sellers.values()) == report["paid_wei"]
    assert report["tickets"] == 16 * report["jobs"]  # type: ignore[operator]
    assert 0 < report["tickets_won"] <= report["tickets"]  # type: ignore[operator]
    assert report["redeemed_wei"] > 0  # type: ignore[operator]
    seconds = report["seconds"]
    assert isinstance(seconds, dict)
    assert 0 < seconds["start"] < seconds["first_image"] < seconds["total"]


def test_ctrl_c_in_the_middle_of_a_job_leaves_nothing(start: Start) -> None:
    running = start()
    running.wait_for("awarded to orchestrator-1")
    running.process.send_signal(signal.SIGINT)
    code, out = running.finish()
    assert (code, out) == (130, "")
    assert "ending everything that was started" in running.story
    assert running.left() == []


def test_a_child_that_cannot_start_is_named_with_its_last_words(start: Start, tmp_path: Path) -> None:
    model = hollow_model(tmp_path / "hollow")
    (model / "model_index.json").write_text("{}")
    running = start(models=model)
    code, out = running.finish()
    assert (code, out) == (4, "")
    assert "the orchestrator-" in running.story
    assert "no pipeline serves" in running.story
    assert "Traceback" not in running.story
    assert running.left() == []
