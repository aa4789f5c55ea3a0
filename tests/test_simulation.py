"""Whole markets under everything that can go wrong, seed by seed; and faults planted to see that they are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulator.invariants import judged
from benchmarks.simulator.schedule import LARGE, Crash, Island, Schedule, drawn
from benchmarks.simulator.seeds import Memory, run_one
from benchmarks.simulator.shrinking import shrunk
from benchmarks.simulator.simulation import simulate
from benchmarks.simulator.stillness import prepared
from tests.support.planted import PLANTED, Plant

ROOT = Path(__file__).parent.parent
SEEDS, WITHIN = 200, 200
PROVE_MINUTES = 4
# Where each planted fault was found last. It is looked for there first, and then from the first seed on.
FOUND_AT = {
    "a_quote_above_its_offer_accepted": 3,
    "a_closed_attempt_paid": 11,
    "a_key_given_before_it_is_paid": 39,
    "a_deadline_forgotten": 6,
    "a_payment_signed_anew_after_a_restart": 6,
    "a_cancel_booked_for_less_than_it_cost": 70,
    "a_deadline_ahead_of_what_came_before_it": 43,
}


@pytest.fixture
def still() -> Iterator[None]:
    with prepared():
        yield


def simulator(*args: str, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.simulator", *args]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environ}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=580)
    return process.returncode, out, err


def test_two_hundred_small_worlds_hold() -> None:
    """On both cores: what fails is named with the command that runs it again and cuts it down."""
    half = SEEDS // 2
    both = [simulator("--seeds", seeds) for seeds in (f"0:{half}", f"{half}:{SEEDS}")]
    for process in both:
        code, out, err = outcome(process)
        assert code == 0, err
        assert json.loads(out.splitlines()[-1]) == {"done": half, "failed": {}}


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    """Whatever the order of Python's hashes."""
    stories = [outcome(simulator("--seed", "6", PYTHONHASHSEED=hashes)) for hashes in ("1", "2")]
    assert stories[0] == stories[1]
    assert stories[0][0] == 0


def test_what_is_cached_changes_nothing() -> None:
    digests = []
    for cached in (True, False):
        with prepared(cached=cached):
            digests.append(simulate(drawn(1), judged).digest)
    assert digests[0] == digests[1]


def test_other_seeds_are_other_stories(still: None) -> None:
    assert len({simulate(drawn(seed), judged).digest for seed in (1, 2)}) == 2


def test_the_worlds_are_as_large_as_they_are_said_to_be() -> None:
    small, large = drawn(0), drawn(0, LARGE)
    assert [len(part) for part in (small.buyers, small.sellers, small.jobs)] == [3, 8, 20]
    assert [len(part) for part in (large.buyers, large.sellers, large.jobs)] == [20, 200, 1000]


def test_what_is_left_out_changes_nothing_else() -> None:
    whole = drawn(6)
    less = whole.without({"j3", "d0", "o2"})
    assert less.disturbances == whole.disturbances[1:]
    assert less.jobs == tuple(job for job in whole.jobs if job.name != "j3")
    assert [one.name for one in less.sellers] == [f"o{n}" for n in range(8) if n != 2]
    assert not whole.without({"g0", "g1", "g2"}).jobs


def test_two_hundred_seeds_draw_everything_that_can_happen() -> None:
    schedules = [drawn(seed) for seed in range(SEEDS)]
    struck = {type(one).__name__ for schedule in schedules for one in schedule.disturbances}
    assert struck == {"Crash", "Island", "Cut", "Slow", "Stall"}
    lies = {one.lie for schedule in schedules for one in (*schedule.sellers, *schedule.buyers)}
    assert len(lies) == 7  # every lie, and none
    assert any(schedule.loss for schedule in schedules)
    assert any(schedule.reorder for schedule in schedules)
    assert any(not schedule.disturbances for schedule in schedules)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant: Plant, still: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    first = FOUND_AT.get(plant.__name__, 0)
    found = next((seed for seed in (first, *range(WITHIN)) if run_one(drawn(seed)).broken), None)
    assert found is not None


def test_a_failure_is_cut_down_to_what_it_needs() -> None:
    """Pure: it fails as long as one crash and one job are there."""

    def fails(schedule: Schedule) -> bool:
        return any(isinstance(one, Crash) for one in schedule.disturbances) and bool(schedule.jobs)

    seed = next(seed for seed in range(SEEDS) if fails(drawn(seed)))
    least, left_out = shrunk(drawn(seed), fails)
    assert len(least.disturbances) == len(least.jobs) == 1
    assert not least.sellers
    assert len(least.buyers) == 1
    assert drawn(seed).without(left_out) == least


@pytest.mark.prove
def test_a_planted_fault_is_cut_down(still: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one gateway, one seller, and the six jobs it takes: a newcomer's first five keys go out with their seals."""
    plant = next(plant for plant in PLANTED if plant.__name__ == "a_key_sent_twice")
    plant(monkeypatch)
    least, _ = shrunk(drawn(1), lambda schedule: bool(run_one(schedule).broken))
    assert (len(least.buyers), len(least.sellers), len(least.disturbances)) == (1, 1, 0)
    assert len(least.jobs) <= 6


def test_a_world_without_anybody_ends(still: None) -> None:
    empty = replace(drawn(0), buyers=(), sellers=(), jobs=(), disturbances=(Island("d0", frozenset({"g0"}), 1.0, 1.0),))
    assert simulate(empty, judged).broken == ()


def test_the_memory_is_about_one_state_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "simulation.json"
    memory = Memory(path)
    assert memory.next_seed() == 0
    memory.remember(50)
    assert Memory(path).next_seed() == 50
    monkeypatch.setattr("benchmarks.simulator.seeds.code_digest", lambda: "another")
    assert Memory(path).next_seed() == 0
    path.write_text("no json")
    assert Memory(path).next_seed() == 0


@pytest.mark.prove
def test_as_many_of_ten_thousand_as_there_is_time_for() -> None:
    """Goes on where the last run of this code stopped; ``python -m benchmarks.simulator --all`` runs all of them."""
    code, out, err = outcome(simulator("--all", "--minutes", str(PROVE_MINUTES)))
    print(out)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["done"] > 0


@pytest.mark.prove
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_large_world_holds(seed: int) -> None:
    code, out, err = outcome(simulator("--seed", str(seed), "--large"))
    assert code == 0, out + err
