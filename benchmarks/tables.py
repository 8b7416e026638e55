"""The tables of README and of other pages, as Markdown, from the committed results.

    python benchmarks/tables.py                                     # writes the pages' tables anew
    python benchmarks/tables.py results/benchmarks/evaluate_proxy_cpu.json   # the one of a file

On a page a table stands between `<!-- table: results/benchmarks/NAME.json -->` and a closing mark;
with `NAME.json#short` it is the one that is for README.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from scipy import stats

_ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/transfer_learning.md",
    "docs/trust.md",
    "results/README.md",
)
_PARTS = ("all", "best_20")
_WITHIN = ("1.0", "0.3")  # points of accuracy of benchmarks/cost_to_quality.py
_LEVEL = 0.05
_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->\n)", re.DOTALL)


def main() -> None:
    """Print the tables of the files that are named; without any, write those of the pages."""
    for name in sys.argv[1:]:
        print(table_of(Path(name)))
    if not sys.argv[1:]:
        for name in PAGES:
            page = _ROOT / name
            page.write_text(with_tables(page.read_text()))


def with_tables(page: str) -> str:
    """The page with each of its tables as its results say."""

    def written(found: re.Match[str]) -> str:
        name, _, kind = found[2].partition("#")
        return f"{found[1]}{table_of(_ROOT / name, is_short=kind == 'short')}\n{found[3]}"

    return _TABLE.sub(written, page)


def table_of(file: Path, *, is_short: bool = False) -> str:
    """The Markdown of one file of results."""
    result = json.loads(file.read_text())
    if "num_fresh" in result:
        return recipes_compared(result, is_short=is_short)
    if "sequential" in result:
        return sequential(result)
    if "distilled_against_stream" in result:
        return fidelity(result)
    if "summary" in result:
        return compression(result)
    if "teachers_test_accuracy" in result:
        return knowledge(result)
    if "duels" in result:
        return signals_by_data(result)
    if "populations" in result:
        return cost_to_quality(result)
    if "directions" in result:
        return transfer(result)
    return distillation(result) if "rows" in result else evaluate_proxy(result)


_COMPARED = {
    "stream_90_calibrated": "90 steps of the stream and three scores, fitted",
    "zero_cost_calibrated": "three scores, fitted",
    "labels_encoding": "labels and encoding alone",
    "stream_90_rank_mean": "90 steps and three scores, rank mean",
    "stream_90_alone": "90 steps, validation loss",
    "zero_cost": "three scores, rank mean",
    "meco_alone": "`meco`",
    "num_params_alone": "parameters",
}
_SHORT = {
    ("zero_cost_calibrated", 48): "**three scores and the network's graph, fitted to 48 labels**",
    ("labels_encoding", 48): "48 labels and the graph alone",
    ("meco_alone", 0): "the best score without training, found afterwards (`meco`)",
    ("stream_90_alone", 0): "a short training (90 steps)",
    ("flops_alone", 0): "FLOPs",
    ("num_params_alone", 0): "parameters",
}


def recipes_compared(result: dict[str, Any], *, is_short: bool) -> str:
    """How recipes rank architectures that nobody had looked at, from so many labels of others."""
    found = {(row["recipe"], row["num_labels"]): row for row in result["rows"]}
    num_best, num_first = (round(share * result["num_fresh"]) for share in (0.2, 0.1))
    if is_short:
        all_of_them = f"Spearman with full training (n = {result['num_fresh']})"
        head = ("ranking by", all_of_them, f"among the best (n = {num_best})", "core-s each")
        rows = [
            (words, row["spearman"], row["best_20"], f"{row['core_seconds']:.1f}")
            for key, words in _SHORT.items()
            for row in [found[key]]
        ]
    else:
        head = ("labels", "ranking by", "all", f"best 20 % (n = {num_best})")
        head += (f"best 10 % (n = {num_first})", "core-s", "minus `meco`: all", "best 20 %")
        rows = [
            (
                *(num or "none", _COMPARED[name], row["spearman"], row["best_20"]),
                *(row["best_10"], f"{row['core_seconds']:.1f}"),
                *(row["minus_meco"][part] if name != "meco_alone" else "" for part in _PARTS),
            )
            for num in dict.fromkeys(row["num_labels"] for row in result["rows"])
            for name in _COMPARED
            if (row := found.get((name, num))) is not None
        ]
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


_FIDELITY = {
    "meco": "a score without training (`meco`)",
    "flops": "FLOPs",
    "num_params": "parameters",
}


def fidelity(result: dict[str, Any]) -> str:
    """The recipe that was found, what it must beat, and a distilled set read by validation loss."""
    by_loss = next(r for r in result["distilled_against_stream"] if r["signals"] == ["val_loss"])
    rows = {row["ranking"]: row for row in result["rows"]}
    shown = [("**the calibrated recipe**", rows[f"the recipe {result['recipe']}"])]
    shown += [(words, rows[name]) for name, words in _FIDELITY.items()]
    cells = [
        (words, _estimate(row["spearman"]), row["n"], f"{row['seconds_per_architecture']:.1f}")
        for words, row in shown
    ]
    distilled = by_loss["distilled set"]
    cells.append(("a distilled set, by validation loss", _estimate(distilled), by_loss["n"], ""))
    lines = ["| ranking by | Spearman with full training | n | core-s each |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in cells)])


def _estimate(figure: dict[str, Any]) -> str:
    """A correlation with its interval, as `.93 [.90, .95]`."""
    value, low, high = (
        f"{figure[key]:.2f}".replace("0.", ".", 1) for key in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def sequential(result: dict[str, Any]) -> str:
    """One line for each population: what the shipped way says, and n of it and of two others."""
    head = "population | Spearman | held against | reaches it | misses it | interval holds"
    ways = ("shipped", "Pocock", "O'Brien-Fleming")
    head += " | n: mean, median, 90 % | mean n by Pocock | mean n by O'Brien and Fleming"
    lines = [f"| {head} |", "|---" * 9 + "|"]
    for name in dict.fromkeys(row["population"] for row in result["sequential"]):
        rows = [row for row in result["sequential"] if row["population"] == name]
        own, *others = (next(row for row in rows if row["spending"] == way) for way in ways)
        cells = (
            f"`{name}`" if "_" in name else name,
            f"{own['spearman']:.3g}",
            f"{own['threshold']:.3g}",
            f"{own['reaches']:.1f} %",
            f"{own['misses']:.1f} %",
            f"{own['holds']:.1f} %",
            f"{own['mean_n']:.0f}, {own['median_n']}, {own['n_of_90_percent']}",
            *(f"{row['mean_n']:.0f}" for row in others),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def signals_by_data(result: dict[str, Any]) -> str:
    """One line for each way to read a training, a column for each set, and training-free scores."""
    trained = [row for row in result["rows"] if "n" not in row]
    free = [row for row in result["rows"] if "n" in row]
    sets = list(dict.fromkeys(row["set"] for row in trained))
    lines = [f"| read by | {' | '.join(sets)} |", "|---" * (1 + len(sets)) + "|"]
    for reading in dict.fromkeys(row["signal"] for row in trained):
        cells = [r["spearman"] for name in sets for r in trained if _is(r, name, reading)]
        lines.append(f"| {_code(reading)} | {' | '.join(cells)} |")
    best = max(free, key=lambda row: float(row["spearman"].split()[0]))
    words = f"best of {len(free)} training-free scores, found afterwards: {_code(best['signal'])}"
    lines.append(f"| {words} | {' | '.join([best['spearman'], *[''] * (len(sets) - 1)])} |")
    return "\n".join(lines)


def _is(row: dict[str, Any], name: str, reading: str) -> bool:
    return bool(row["set"] == name and row["signal"] == reading)


def _code(signal: str) -> str:
    return signal if " " in signal else f"`{signal}`"


def knowledge(result: dict[str, Any]) -> str:
    """One line for each kind of knowledge distillation, the largest gain first."""
    lines = ["| what | test accuracy % | gain | helps | core-seconds |", "|---|---|---|---|---|"]
    for row in sorted(result["rows"], key=lambda row: -row["gain"]):
        gain, error = row["gain"], row["gain_standard_error"]
        alone = row["kind"] == "alone"
        freedom = len(row["accuracies"]) - 1  # gains are over the student with the same seed
        p_value = 1.0 if alone else 2 * float(stats.t.sf(abs(gain) / error, freedom))
        verdict = _word(gain, p_value, "yes", "**hurts**")
        cells = (
            row["kind"],
            f"{row['test_accuracy']:.1f} ± {row['standard_error']:.1f}",
            "–" if alone else f"{gain:+.1f} ± {error:.1f}",
            "–" if alone else verdict,
            f"{sum(row['seconds']) / len(row['seconds']):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _word(difference: float, p_value: float, better: str, worse: str) -> str:
    """What a difference shows at the 5 % level of a t-test."""
    if not p_value < _LEVEL:
        return "cannot tell"
    return better if difference > 0 else worse


def _welch(row: dict[str, Any]) -> float:
    """P-value of a method against random images, whose trainings are others."""
    own, random = row["accuracies"], row["random_accuracies"]
    return float(stats.ttest_ind(own, random, equal_var=False).pvalue)


def distillation(result: dict[str, Any]) -> str:
    """One line for each method, the largest gain over random images first."""
    lines = [
        "| method | images per class | labels | test accuracy % | random, same labels | difference "
        "| beats random | published | seconds | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = sorted(result["rows"].values(), key=lambda row: -row["difference"])
    for row in rows:
        cells = (
            row["method"],
            row["images_per_class"],
            row["labels"],
            f"{row['test_accuracy']:.1f} ± {row['standard_error']:.1f}",
            f"{row['random_same_labels']:.1f} ± {row['random_standard_error']:.1f}",
            f"{row['difference']:+.1f} ± {row['difference_standard_error']:.1f}",
            _word(row["difference"], _welch(row), "yes", "**no**"),
            "–" if row["published"] is None else row["published"],
            f"{row['total_seconds']:.0f}",
            f"{row['peak_memory_mib']:.0f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def compression(result: dict[str, Any]) -> str:
    """One line for each version of the network."""
    lines = [
        "| version | test accuracy % | against the control | parameters | file kB | zipped kB "
        "| latency ms | memory MiB | same class, largest logit error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["summary"]:
        accuracy, difference = (
            f"{row[key]['mean']:{sign}.1f}"
            + ("" if result["num_seeds"] == 1 else f" ± {row[key]['standard_error']:.1f}")
            for key, sign in (("test_accuracy", ""), ("difference_from_control", "+"))
        )
        cells = [row["name"].replace("_", " ").replace("-", " + "), accuracy, difference]
        if "file_kb" in row:
            cells += [f"{row['num_parameters']:,}"]
            cells += [str(row[key]) for key in ("file_kb", "zipped_kb", "latency_ms")]
            cells += [str(row["peak_memory_mib"])]
            agreement, error = 100 * row["class_agreement"], row["largest_difference"]
            cells += [f"{agreement:.0f} %, {error:.2g} of {row['largest_logit']:.2g}"]
        else:
            cells += ["", "", "", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluate_proxy(result: dict[str, Any]) -> str:
    """Cross-architecture and replay tables."""
    networks = [n["network"] for n in next(iter(result["sets"].values()))["accuracy"]["networks"]]
    lines = [f"| set | {' | '.join(networks)} |", f"|---|{'---|' * len(networks)}"]
    for name, found in result["sets"].items():
        for condition in ("as it is", "random images"):
            cells = [
                _percent(network["accuracies"].get(condition))
                for network in found["accuracy"]["networks"]
            ]
            label = name if condition == "as it is" else f"{name}: random images, same labels"
            lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", "| memory | accuracy at the end % | forgetting |", "|---|---|---|"]
    for name, found in result["sets"].items():
        for memory in found["replay"]["memories"]:
            label = name if memory["name"] == "the proxy data set" else f"{name}: {memory['name']}"
            final, forgetting = _percent(memory["final_accuracy"]), _percent(memory["forgetting"])
            lines.append(f"| {label} | {final} | {forgetting} |")
    return "\n".join(lines)


def transfer(result: dict[str, Any]) -> str:
    """One line for each way to come from few images to a classifier, both directions beside."""
    directions = result["directions"]
    heads = [f"{name}: accuracy % | core-s" for name in directions]
    lines = [
        f"| way | starts from | {' | '.join(heads)} |",
        f"|---|---|{'---|---|' * len(directions)}",
    ]
    for way, first in next(iter(directions.values())).items():
        starts = "random weights" if first["weights"] == "random" else _kind(first["weights"])
        cells = [f"{way} | {starts}"]
        for found in directions.values():
            figure = {"mean": found[way]["accuracy"], **found[way]}
            cells += [_percent(figure), f"{found[way]['core_seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_to_quality(result: dict[str, Any]) -> str:
    """For each population one line for each strategy, the cheapest to within a point first."""
    tables = []
    for population in result["populations"]:
        lines = [
            f"**{population['population']}**, {population['num_architectures']} architectures, "
            f"{result['num_seeds']} seeds; a full training costs "
            f"{population['core_seconds_of_a_full_training']:,.0f} core-seconds.",
            "",
            "| strategy | core-s to within 1 point | core-s to within .3 | times "
            f"{population['rival']} (1; .3) | first picks from core-s on | regret there minus "
            f"{population['rival']}'s | regret at the end | core-s at the end |",
            "|---" * 8 + "|",
        ]
        reached = {
            row["strategy"]: row["core_seconds_to_within"] for row in population["strategies"]
        }
        rows = sorted(
            population["strategies"],
            key=lambda row: [reached[row["strategy"]][at] or math.inf for at in ("1.0", "0.3")],
        )
        for row in rows:
            costs = [row["core_seconds_to_within"][limit] for limit in _WITHIN]
            times = [row["times_the_rival"][limit] for limit in _WITHIN]
            last, minus = row["curve"][-1], row.get("minus_the_rival")
            cells = [
                row["strategy"],
                *("–" if cost is None else f"{cost:,.0f}" for cost in costs),
                "; ".join("–" if each is None else f"{each:.2g}" for each in times),
                f"{row['curve'][0]['core_seconds']:,.0f}",
                "–"
                if minus is None
                else f"{minus['regret']:+.2f} [{minus['low']:+.2f}, {minus['high']:+.2f}]",
                f"{last['regret']:.2f} [{last['low']:.2f}, {last['high']:.2f}]",
                f"{last['core_seconds']:,.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _kind(source: str) -> str:
    return "SimCLR on the target" if "SimCLR" in source else "supervised on the source"


def _percent(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "failed"
    return f"{100 * figure['mean']:.1f} ± {100 * (figure['standard_error'] or 0):.1f}"


if __name__ == "__main__":
    main()
