"""What a safety checker says of a result, and what an operator wants checked. Pure values.

A checker looks at pictures when the work is done; it is named by its operator, or there is none, and then nothing is
said of a result. What exceeds the operator's bound is not delivered, so what a delivered result says is what was found
below it. Knows no model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from p2p.codec import Hash, Name, Range, Size

CHECKER = "safety-check"  # in the place of a pipeline, for models that check and are not sold
MAX_LABELS = 64  # that an operator calls unsafe
MAX_PICTURES = 64  # looked at in one result
WHOLE = 1_000_000
POLICY = "POLICY"

Label = Annotated[str, Size(1, 64)]
Share = Annotated[int, Range(0, WHOLE)]


@dataclass(frozen=True, slots=True)
class Safety:
    """``checker`` looked at so many ``pictures``: of all unsafe labels and all of them, the likeliest is ``label``.

    ``model`` is the hash of the checker's weights, ``score`` the label's probability in millionths.
    """

    checker: Name
    model: Hash
    label: Label
    score: Share
    pictures: Annotated[int, Range(1, MAX_PICTURES)]


@dataclass(frozen=True, slots=True)
class Checking:
    """What an operator wants checked: a checker by folder or name, the labels that count, the most that is let pass."""

    checker: str
    unsafe: tuple[str, ...]
    most: int = WHOLE // 2


def as_dict(safety: Safety | None) -> dict[str, object]:
    """For programs: whether a result was checked, and what was found. Nothing is a finding that no checker made."""
    if safety is None:
        return {"safety": "unchecked"}
    return {
        "safety": "checked",
        "checker": safety.checker,
        "checker_hash": safety.model.hex(),
        "label": safety.label,
        "score": safety.score / WHOLE,
        "pictures": safety.pictures,
    }


def in_words(told: Mapping[str, Any]) -> str:
    """The same for people, from ``as_dict``."""
    if told["safety"] == "unchecked":
        return "unchecked"
    return f"checked by {told['checker']}: {told['label']} {told['score']:.3f}"
