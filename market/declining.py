"""Declining: what a seller tells its gateway when its machine refuses a job that it was awarded.

A pipeline refuses by its own codes, as many as there are ways to be wrong. What travels is whose matter it is: the
caller's (``BAD_INPUT``), nobody's, because this machine lacks a part for it (``POLICY``), or a failure of the machine,
which counts against the seller. The pipeline's own code goes along in the hint. Pure.
"""

from __future__ import annotations

from market.jobwire import BAD_INPUT, POLICY
from p2p.errors import Refused

MAX_HINT = 200  # bytes
# Refusals about the machine, whatever the job asks. What a pipeline refuses beside these is about the job.
_OF_THE_MACHINE = frozenset({"NO_PIPELINE", "NO_MODEL", "NO_ROOM", "BROKEN_MODEL", "BUSY", "CONFLICT", "RUNNING"})
_UNSERVED = "_UNSERVED"  # ends the codes of what another machine may have


def declined(why: Refused) -> tuple[str, str]:
    """Code and hint for a machine's refusal of a job."""
    if why.code == POLICY or why.code in _OF_THE_MACHINE:
        return why.code, _cut(why.hint)
    code = POLICY if why.code.endswith(_UNSERVED) else BAD_INPUT
    own = "" if why.code == code else f"{why.code}: "
    return code, _cut(own + why.hint)


def _cut(hint: str) -> str:
    return hint.encode(errors="replace")[:MAX_HINT].decode(errors="ignore")
