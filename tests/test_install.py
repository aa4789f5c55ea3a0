"""What an installation must give: names that nobody else claims, and a light start without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
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


def declared(*extras: str) -> set[str]:
    """Names of the distributions that pyproject asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in extras for d in project["optional-dependencies"][extra])]
    names = {re.split(r"[\[<>=!; ]", one)[0].lower().replace("_", "-") for one in wanted}
    return names | ({"py-evm", "eth-utils"} if "devchain" in extras else set())  # web3[tester] is made of them


def foreign_imports(paths: Iterable[Path], *, at_load_only: bool) -> dict[str, str]:
    """Top-level names that these files import and that neither we nor Python bring, and a file that does."""
    found = {}
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in tree.body if at_load_only else ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in {n.split(".")[0] for n in names} - {"__future__", "trio_typing", "benchmarks", *OURS}:
                if name not in sys.stdlib_module_names:
                    found[name] = str(path.relative_to(ROOT))
    return found


def undeclared(imports: dict[str, str], allowed: set[str]) -> dict[str, str]:
    owners = packages_distributions()
    return {
        name: where
        for name, where in imports.items()
        if not {o.lower().replace("_", "-") for o in owners.get(name, ())} & allowed
    }


def test_every_import_is_a_declared_dependency() -> None:
    files = [ROOT / "node.py", *(p for top in OURS[:4] for p in (ROOT / top).rglob("*.py"))]
    assert undeclared(foreign_imports(files, at_load_only=False), declared("orchestrator", "video", "devchain")) == {}


def test_gateway_client_and_wallet_need_no_extra() -> None:
    """Whatever they load is there after a plain install."""
    probe = "import sys, node, market.roles, market.bidding, market.walletdoor, market.looking, market.http.face, "
    probe += (
        f"ledger.rpc_transport; print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in {OURS!r}])"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    files = [Path(name) for name in done.stdout.split()]
    assert len(files) > 100
    assert undeclared(foreign_imports(files, at_load_only=True), declared()) == {}


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
