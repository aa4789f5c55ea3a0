"""What an operator asks for each pipeline: one price, and what the others' units cost beside one of text-to-image.

    price of a pipeline = price of text-to-image x cost of its unit / cost of a unit of text-to-image, rounded up

A pipeline named in ``[prices]`` has that price and no other. One Offer covers all models of a pipeline, so the dearest
counts. Pure: costs are picoseconds of a unit, measured elsewhere. Knows no machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from compute.spec import TEXT_TO_IMAGE
from ledger.money import MAX_WEI, scaled


@dataclass(frozen=True, slots=True)
class PriceList:
    """``price``: wei for a million units of text-to-image. ``apart``: of other pipelines, where their own was named."""

    price: int
    apart: Mapping[str, int] = field(default_factory=dict)

    def of(self, pipeline: str, costs: Mapping[str, int]) -> int:
        """Wei for a million units of ``pipeline``, given what a unit of each pipeline costs here.

        Where one of the two costs is not known, a unit is taken to cost what one of text-to-image does.
        """
        if pipeline in self.apart:
            return self.apart[pipeline]
        reference, own = costs.get(TEXT_TO_IMAGE, 0), costs.get(pipeline, 0)
        if pipeline == TEXT_TO_IMAGE or not reference or not own:
            return self.price
        return min(MAX_WEI, scaled(self.price, own, reference))


def dearest(costs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """What a unit of each pipeline costs at most, of pairs of pipeline and cost; those of 0 are not known."""
    found: dict[str, int] = {}
    for pipeline, cost in costs:
        if cost:
            found[pipeline] = max(cost, found.get(pipeline, 0))
    return found
