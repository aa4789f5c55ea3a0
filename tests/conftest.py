"""Fixtures that every test file may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("pasar", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pasar")

# Two files at a time are run: the longest first, so that none is left alone at the end.
LONGEST = (
    *("test_simulation.py", "test_demo.py", "test_failures.py", "test_survival.py", "test_exit_codes.py"),
    *("test_soak.py", "test_nat.py", "test_real_restarts.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; everything else stays in its order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch with one thread: the same numbers on every machine, and two files of tests do not fight for cores."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
