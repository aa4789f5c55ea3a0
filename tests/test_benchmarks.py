"""The form of a benchmark's answer: a list, words, one object at the end, a missed goal said and not punished."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from benchmarks import __main__ as command
from benchmarks.batching import STEPS, arrivals
from benchmarks.report import NotRun, Report, Say, goal, needed, quantile


def of(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    module = ModuleType("made_up_benchmark")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_benchmark", module)
    monkeypatch.setattr(command, "BENCHMARKS", {"made-up": ("made_up_benchmark", "run", "nothing at all")})


def test_without_a_name_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    assert {line.split()[0] for line in listed.splitlines()} == {
        "auction",
        "batching",
        "churn",
        "gossip",
        "herd",
        "join",
        "loads",
        "loop",
        "model",
        "attack",
        "overhead",
        "prefilter",
        "quality",
        "tolerance",
        "transcode",
        "transfer",
        "warm",
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_the_last_line_is_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def run(say: Say) -> Report:
        say("measuring")
        goals = [goal("ratio", 1.5, "<=", 1.1), goal("rate", 0.97, ">=", 0.95)]
        return {"results": {"ratio": 1.5}, "goals": goals, "device": "cpu"}

    of(monkeypatch, run)
    assert command.main(["made-up", *(["--json"] if as_json else [])]) == 0
    said = capsys.readouterr()
    *words, last = said.out.splitlines()
    whole = json.loads(last)
    assert list(whole) == ["name", "machine", "results", "goals"]
    assert whole["name"] == "made-up"
    assert {"cpu", "cores", "python"} <= set(whole["machine"])
    assert whole["results"]["ratio"] == 1.5
    assert [set(one) for one in whole["goals"]] == [{"what", "value", "op", "goal", "met"}] * 2
    assert [one["met"] for one in whole["goals"]] == [False, True]
    told = said.err if as_json else "\n".join(words)
    assert bool(words) is not as_json
    assert "measuring" in told
    assert "MISSED: it must come down by 0.4" in told
    assert "0.97 >= 0.95: met" in told


def test_one_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(say: Say) -> Report:
        raise ExceptionGroup("nursery", [NotRun("the gateway did not become ready")])

    of(monkeypatch, run)
    assert command.main(["made-up"]) == 4
    assert "benchmarks: made-up: the gateway did not become ready" in capsys.readouterr().err


def test_a_quantile_is_a_measured_value() -> None:
    values = [float(n) for n in range(1, 101)]
    assert quantile(values, 0.5) == 50
    assert quantile(values, 0.99) == 99
    assert quantile([7.0], 0.99) == 7
    assert needed(goal("rate", 0.9, ">=", 0.95)) == "it must rise by 0.05"


def test_arrivals_are_as_many_and_as_long_as_the_load_says() -> None:
    made = arrivals(2.0, 5.0, 30)
    assert made == sorted(arrivals(2.0, 5.0, 30))
    assert all(0 <= at <= 3.0 for at, _ in made)
    assert sorted(steps for _, steps in made) == sorted(STEPS * 10)
    assert [at for at, _ in arrivals(1.2, 5.0, 30)] != [at for at, _ in made]
