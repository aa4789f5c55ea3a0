"""Simulations: whole markets on a clock that jumps, on a network in memory, under everything that can go wrong.

    python -m benchmarks.simulator --seeds 0:200        run these, say what failed
    python -m benchmarks.simulator --seed 7             one, with its digest; --verbose tells its story
    python -m benchmarks.simulator --all                the ten thousand, going on where the last run stopped

A seed that fails is cut down to what it needs, and printed as the command that runs it again. The roles are the real
ones; docs/adr/0026-simulation.md says what is not.
"""
