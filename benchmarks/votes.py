"""How much of the vote a training gets beside zero-cost scores, in a rank mean.

From the kept report of a validation, whose architectures are spent for judging it: Spearman against
the reference, over all and within the best fifth and tenth, of a validation loss and the mean rank
of the zero-cost scores, by the training's share of the vote.

    python benchmarks/votes.py

`combine: rank_mean` gives it one half where it has both kinds; as many equal votes as there are
signals would give it a quarter here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from common import parser, publish
from scipy.stats import rankdata

from nas_proxy.statistics import ranks

REPORT = Path(__file__).parents[1] / "results/reports/cifar10_nasbench201.json"
# The report calls the trainings on the full data so, which its recipe was.
TRAINED, ZERO_COST = "val_loss on the proxy", ("naswot", "log_synflow", "meco")
SHARES = (0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0)
BEST = {"spearman": 1.0, "best_20": 0.2, "best_10": 0.1}


def main() -> None:
    """Recompute, print."""
    arguments = parser(__doc__, data=False).parse_args()
    points = json.loads(REPORT.read_text())["points"]
    names = (TRAINED, *ZERO_COST)
    complete = [p for p in points if all(p["scores"].get(name) is not None for name in names)]
    reference = np.array([p["reference"] for p in complete])
    ranked = {name: rankdata([p["scores"][name] for p in complete]) for name in names}
    free = np.mean([ranked[name] for name in ZERO_COST], axis=0)
    rows = []
    for share in SHARES:
        scores = share * ranked[TRAINED] + (1 - share) * free
        figures = {}
        for name, fraction in BEST.items():
            best = reference >= np.quantile(reference, 1 - fraction)
            figures[name] = round(float(ranks.spearman(scores[best], reference[best])), 3)
        rows.append({"share": round(share, 2), **figures})
    publish({"n": len(complete), "rows": rows}, arguments)


if __name__ == "__main__":
    main()
