"""Compile the broker: ``python tests/contracts/broker_build.py`` writes ledger/contracts/broker.json anew."""

from __future__ import annotations

import json
from pathlib import Path

CONTRACTS = Path(__file__).parents[2] / "ledger" / "contracts"


def compiled() -> str:
    """What broker.json has to hold for the source beside it."""
    import vyper
    from vyper.compiler import compile_code

    source = (CONTRACTS / "broker.vy").read_text()
    out = compile_code(source, output_formats=["abi", "bytecode"])
    data = {"compiler": f"vyper {vyper.__version__.split('+')[0]}", "abi": out["abi"], "bytecode": out["bytecode"]}
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    (CONTRACTS / "broker.json").write_text(compiled())
