"""An orchestrator as a process, whole but for its machine: jobs are done at once and give a black picture.

Takes the few flags that the benchmarks give it; everything else is the role as ``node.py`` runs it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib import import_module
from types import ModuleType

from benchmarks.noop_worker import NoopWorker
from market.config import Config, load_config
from market.console import Exit, configure_logs
from market.instance import Instance, claim
from market.supervisor import Supervisor


def machine_of(config: Config, _: Instance, step_s: float = 0.0) -> NoopWorker:
    """A machine with as many places as the config says, whose steps pretend to take so long."""
    return NoopWorker(step_s, slots=config.slots or 1)


def role_library() -> ModuleType:
    """Imported in the node alone."""
    return import_module("market.roles")


def main() -> int:
    """Run until a signal, under a supervisor like any node."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noop_orchestrator")
    for flag in ("network", "rpc", "broker", "price", "data-dir"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--listen", action="append")
    parser.add_argument("--bootstrap", action="append")
    parser.add_argument("--step-s", type=float, default=0.0)
    given = vars(parser.parse_args())
    machines = partial(machine_of, step_s=given.pop("step_s"))
    configure_logs(as_json=False, level="info")
    config = load_config(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    instance = claim(config.home, config.network, "orchestrator", config.data_dir)
    try:
        lifeline = Supervisor(role_library).run()
    except Exit as exc:
        return exc.code
    role_library().run_role(config, "orchestrator", machines, instance, lifeline)
    return 0


if __name__ == "__main__":
    sys.exit(main())
