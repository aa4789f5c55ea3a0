"""The import rules of docs/architecture.md, as a test: direction, purity, length."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BELOW: dict[str, set[str]] = {
    "p2p": set(),
    "compute": {"p2p"},
    "ledger": {"p2p"},
    "market": {"p2p", "compute", "ledger"},
}
PURE = {
    "p2p": "admission blobs codec doorkeeper envelope errors framing lookup peer providers pulse redial scores "
    "standing transport",
    "compute": "batching capability catalog checkverdict digest drawnfilm evidence filekinds filmheader flaws "
    "inbasket jobboard joinwire likeness messages modelref phases picture pictureheader placement profiles "
    "pullplan renditions safety samplers shelf spec strictjson subtitles tolerance trace verdict "
    "wavefile weightsheader yardstick",
    "ledger": "account broker conservation cover evm_shapes money recipient redemption schema sender ticket "
    "transactions",
    "market": "auction bid bidwire book bookwire checks checkwords declining demo_tally equivocation following job "
    "jobwire loads neighbours offer opening pace policy prefilter prices protocol quote receipt reconcile "
    "reel refusal reputation restarting scoring sealing session tracewire",
}
SHELL = {  # whatever touches the world, or another shell
    "p2p": "addressbook addresses bootstrap connections dialback discovery gossip hardening heartbeat host identity "
    "inbox kadstore keeper knock limits loglimit mdns memory netstream pipe presence quicklock stream "
    "transfer",
    "compute": "calibration checkerfolder closeness costbook costing device digestcache doorway encodermodel "
    "filmcutting filmprobe fleet footprint handshake hardware healthwatch imagefile joinkey librarian "
    "link modeldesk modelfolder modelstore nets offline opendevice openjob otherprocess outpost pins "
    "pipeline pipelines plainmodels previewing pulling remotelife replaying schedule served soundfile "
    "steploop strictfolder tracestore training transferring watching work worker workerchild workerlife "
    "workerlink workerprocess",
    "ledger": "auditor chain chain_views checkpoint commands contract customers database devchain evm holdings "
    "http_rpc journal jsonrpc receiving recipient_rows redeemer rows rpc rpc_transport sender_rows "
    "sending transaction_rows transactor txstore wallet",
    "market": "aftermath album asking askingfilm auctioneer basket bidding bidserver bookfeed bookserver bulletin "
    "checking client commands config console controls conversation counter demo demo_client demo_show "
    "demo_stage devices examining finishing forked gateway handover hello http inspecting instance "
    "jobinputs jobrun jobstore keeping lifeline lightclient live live_commands livesource loaddesk "
    "loadfeed localdoor localmodels looking model_commands modelbench modeldoor offering orchestrator "
    "outcome overlay parcels placing pricing progress proofkeeper purchase quotedesk readystreams rolekit "
    "roles sale saving servicenotice sessionstore shop supervisor tracedesk verifying wallet_commands "
    "walletdoor whereabouts worker_commands",
}
OUTSIDE = set(
    """trio libp2p torch diffusers transformers web3 eth_tester eth_account sqlite3 socket subprocess
    time random secrets logging structlog os pathlib asyncio threading""".split()
)
# The seams name trio's types (channels, contexts) and are async by nature; they do nothing.
SEAMS = {"p2p/transport.py"}
MAX_FILE = 400
MAX_FUNCTION = 40


def modules() -> Iterator[tuple[str, Path]]:
    for package in BELOW:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield package, path


def is_pure(package: str, path: Path) -> bool:
    first = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
    return first in PURE[package].split()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_downwards() -> None:
    wrong = []
    for package, path in modules():
        for name in set(imported(ast.parse(path.read_text()))):
            top = name.split(".")[0]
            if top in ("node", "tests", "benchmarks") or (
                top in BELOW and top != package and top not in BELOW[package]
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_core_is_pure() -> None:
    wrong = []
    for package, path in modules():
        name = path.relative_to(ROOT).as_posix()
        if not is_pure(package, path) or name in SEAMS:
            continue
        tree = ast.parse(path.read_text())
        for used in set(imported(tree)):
            parts = used.split(".")
            if parts[0] in OUTSIDE:
                wrong.append(f"{name} touches {used}")
            ours = len(parts) == 2 and parts[0] in BELOW and (ROOT / parts[0] / parts[1]).with_suffix(".py").exists()
            if ours and parts[1] not in PURE[parts[0]].split():
                wrong.append(f"{name} is pure and imports {used}, which is not")
        if any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree)):
            wrong.append(f"{name} is async")
    assert wrong == []


def test_every_module_is_declared_pure_or_shell_and_none_twice() -> None:
    there = {(package, path.relative_to(ROOT / package).parts[0].removesuffix(".py")) for package, path in modules()}
    declared = [
        (package, name) for lists in (PURE, SHELL) for package, names in lists.items() for name in names.split()
    ]
    assert sorted(declared) == sorted(name for name in there if name[1] != "__init__")


def test_files_and_functions_stay_readable() -> None:
    long = []
    for path in [ROOT / "node.py", *(path for _, path in modules())]:
        text = path.read_text()
        if text.count("\n") > MAX_FILE:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = (ast.get_docstring(node, clean=False) or "").count("\n")
                assert node.end_lineno is not None
                if node.end_lineno - node.body[0].lineno + 1 - doc > MAX_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert long == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT)) for _, path in modules() if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
