"""Verifying: what the ``verify`` command does: a Receipt against its files, alone, and then the work itself.

Prints what it found; the exit code says whether it holds. The spec lies beside a Receipt since ``bid`` put it there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from compute.spec import MAX_INPUT, JobSpec
from market.checks import Case, Conclusion, read_case
from market.config import Config
from market.console import DONE, FAILED, nobody, read_file
from market.receipt import NotVerified, as_dict, verify_receipt
from p2p.codec import decode_as
from p2p.errors import MalformedMessage, Misconfigured, UnknownMessage

MAX_RECEIPT_FILE = 64 * 1024
MAX_FILE = 2**31
MAX_CHECKED = MAX_INPUT  # a verifier is sent the files
JOB_SUFFIX = ".job"


@dataclass(frozen=True, slots=True)
class Proof:
    """The files that were named."""

    receipt: Path
    files: tuple[Path, ...]
    job: Path | None = None
    inputs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the work is checked: so many ``steps``, or the ``whole`` job; here, or bought at this ``limit``."""

    steps: int
    whole: bool
    own: bool
    limit: int
    deadline_ms: int


def write_private(path: Path, data: bytes) -> None:
    """A file for the eyes of its user alone: a job says what was asked in plain words."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)


def verify_alone(proof: Proof, *, as_json: bool) -> int:
    """Both signatures and every digest, without a network; the exit code. Raises Misconfigured."""
    files = [read_file(path, MAX_FILE) for path in proof.files]
    checked = verify_receipt(read_file(proof.receipt, MAX_RECEIPT_FILE), files)
    problems = checked.problems if isinstance(checked, NotVerified) else ()
    shown = as_dict(checked.receipt) if checked.receipt is not None else None
    if as_json:
        found = [{"problem": one.problem.value, "text": one.text} for one in problems]
        print(json.dumps({"verified": not problems, "problems": found, "receipt": shown}))
    else:
        for key, value in (shown or {}).items():
            print(f"{key:18} {json.dumps(value) if isinstance(value, list | dict) else value}")
        for one in problems:
            print(f"WRONG  {one.problem.value}: {one.text}")
        print("not verified" if problems else "verified: signed by both, and the file is the one that was delivered")
    return FAILED if problems else DONE


def verify_work(config: Config, proof: Proof, wanted: Wanted, *, as_json: bool) -> int:
    """The same, and drawn steps run again by somebody else; the exit code. Raises Misconfigured, Refused."""
    from market.checking import CheckErrand, kept_in_time, price_of, run_check
    from market.checkwords import as_json as told
    from market.checkwords import lines

    case = replace(case_of(proof), whole=wanted.whole)
    if case.has_steps and not kept_in_time(case):
        raise Misconfigured("steps: the seller had to keep this trace for ten minutes, which are over; try --whole")
    errand = CheckErrand(case, wanted.steps, wanted.own, wanted.limit, wanted.deadline_ms)
    outcome = trio.run(run_check, config, errand)
    if outcome.checked is None:
        raise nobody()
    if as_json:
        print(json.dumps(told(case, outcome.checked, outcome.cost)))
    else:
        print("\n".join(lines(case, outcome.checked, price_of(outcome))))
    return DONE if outcome.checked.conclusion is Conclusion.PASSED else FAILED


def case_of(proof: Proof) -> Case:
    """What is to be checked. Raises Misconfigured for files that are none, Refused for some that do not go together."""
    path = proof.job or proof.receipt.with_suffix(JOB_SUFFIX)
    try:
        spec = decode_as(JobSpec, read_file(path, MAX_RECEIPT_FILE))
    except (MalformedMessage, UnknownMessage) as exc:
        raise Misconfigured(f"job: {path} says nothing of what was asked: {exc}") from exc
    files = [read_file(one, MAX_CHECKED) for one in proof.files]
    inputs = [read_file(one, MAX_INPUT) for one in proof.inputs]
    return read_case(read_file(proof.receipt, MAX_RECEIPT_FILE), files, spec, inputs)
