"""What an installation must give: names that nobody else claims, and a light start without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("p2p", "market", "compute", "ledger", "node")


def test_no_other_distribution_claims_our_top_level_names() -> None:
    owners = packages_distributions()
    assert {name: owners[name] for name in OURS if set(owners.get(name, ())) - {"pasar"}} == {}


def test_the_pinned_network_library_is_installed() -> None:
    assert version("libp2p") == "0.8.1"


@pytest.mark.parametrize("module", ["market.gateway", "market.client", "market.orchestrator", "node"])
def test_no_role_imports_torch(module: str) -> None:
    """A gateway or a light client installs none of it, and an orchestrator's node leaves it to the worker."""
    probe = f"import sys, {module}; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_nothing_reads_a_path_outside_the_repository() -> None:
    """Vectors that tests need are copied into tests/vectors."""
    needle = "../" + "shared"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [
        ROOT / name
        for name in listed
        if Path(name).suffix in (".py", ".md", ".toml", ".sh", "") and (ROOT / name).is_file()
    ]
    assert [str(path) for path in texts if needle in path.read_text(errors="replace")] == []
