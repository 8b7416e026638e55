"""Every architecture of a validation with all that was found out about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_proxy.interfaces import SearchSpace
from nas_proxy.validate.rank_report import Ranking, Sample


def points_of(
    space: SearchSpace, sample: Sample, rankings: Sequence[Ranking]
) -> list[dict[str, Any]]:
    """One entry for each architecture, for the figures and for whoever wants to recompute.

    The uniformly drawn ones come first. What is not known is None; where the first ranking
    states no uncertainty, so are its prediction and deviation.
    """
    predictions, deviations = rankings[0].predictions or {}, rankings[0].deviations or {}
    return [
        {
            "architecture_id": architecture.id,
            "genotype": architecture.genotype,
            "description": space.describe(architecture),
            "drawn": "uniform" if position < len(sample.uniform) else "stratified",
            "reference": sample.reference.get(architecture),
            "sizes": {name: sizes.get(architecture) for name, sizes in sample.sizes.items()},
            "scores": {r.name: r.scores.get(architecture) for r in rankings},
            "prediction": predictions.get(architecture),
            "deviation": deviations.get(architecture),
        }
        for position, architecture in enumerate([*sample.uniform, *sample.stratified])
    ]
