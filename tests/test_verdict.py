"""When a worker must go, by what it says of its health."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compute.messages import Attach, Channel, Phase, Pong
from compute.verdict import LEAST_STEP_S, STEP_TIMES, Patience, step_limit_s, verdict

PATIENCE = Patience(step_s=120, load_s=900, resident=2**30)
WELL = Pong(1, Phase.RUNNING, 100, 50, 2**20)


def test_a_step_may_take_so_many_times_what_it_takes_by_measure() -> None:
    assert verdict(WELL, PATIENCE) == ""
    assert verdict(replace(WELL, quiet_ms=30_000), PATIENCE) == ""
    assert "stuck in a step, which takes 50 ms" in verdict(replace(WELL, quiet_ms=30_001), PATIENCE)
    long = replace(WELL, normal_ms=60_000)  # a sound of an hour is one step
    assert verdict(replace(long, quiet_ms=1_200_000), PATIENCE) == ""
    assert "stuck" in verdict(replace(long, quiet_ms=1_200_001), PATIENCE)
    unmeasured = replace(WELL, normal_ms=0)
    assert verdict(replace(unmeasured, quiet_ms=120_000), PATIENCE) == ""
    assert "stuck in a step for 120 s" in verdict(replace(unmeasured, quiet_ms=120_001), PATIENCE)


def test_loading_idling_memory_and_nonsense() -> None:
    loading = replace(WELL, phase=Phase.LOADING, quiet_ms=900_000)
    assert verdict(loading, PATIENCE) == ""
    assert "loading" in verdict(replace(loading, quiet_ms=900_001), PATIENCE)
    assert verdict(replace(WELL, phase=Phase.IDLE, quiet_ms=10**9), PATIENCE) == ""
    assert "memory" in verdict(replace(WELL, resident_bytes=2**30 + 1), PATIENCE)
    assert verdict(replace(WELL, resident_bytes=2**40), replace(PATIENCE, resident=0)) == ""
    assert "nonsense" in verdict(Attach(Channel.WORK), PATIENCE)


@given(st.integers(1, 10**8))
def test_more_is_borne_of_a_longer_step_and_never_less_than_the_least(normal_ms: int) -> None:
    limit = step_limit_s(normal_ms, PATIENCE)
    assert limit >= LEAST_STEP_S
    assert limit >= STEP_TIMES * normal_ms / 1000
    assert limit <= step_limit_s(normal_ms + 1, PATIENCE)
