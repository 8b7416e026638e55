"""The report as one HTML file that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nas_proxy.validate.figures import rank_outliers
from nas_proxy.validate.ranks import decimal

_SECTIONS = ("data", "space", "train", "score", "search")


def render_html(report: dict[str, Any], pictures: Sequence[Path]) -> str:
    """The page.

    Args:
        report: As `stages.report.collect` builds it; its texts are escaped.
        pictures: PNG files, recognised by their names; one that does not exist is left out.
    """
    # The template's name ends in .j2, by which Jinja would not know that it is HTML.
    environment = Environment(
        loader=PackageLoader("nas_proxy", "validate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, decimal=decimal, interval=_interval, value=_value)
    return environment.get_template("report.html.j2").render(
        report=report,
        validation=report["validation"],
        pictures={path.stem: _data_uri(path) for path in pictures if path.is_file()},
        outliers=rank_outliers(report),
        settings={name: list(_flat(report["config"].get(name) or {})) for name in _SECTIONS},
        best=_best(report["search"]),
        failures=_failures(report),
        total_seconds=sum(entry["seconds"] for entry in report["costs"]),
        **_ranking(report["validation"]),
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them: `12 ms`, `3.2 s`, `4 min 10 s`, `2.1 h`, `3.4 d`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms" if seconds > 0 else "0 s"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 47.95 else f"{hours / 24:.1f} d"


def _interval(estimate: Mapping[str, float | None]) -> str:
    """The ends of an estimate's interval, as in `[.70, .88]`."""
    low, high = estimate["low"], estimate["high"]
    return "no interval" if low is None or high is None else f"[{decimal(low)}, {decimal(high)}]"


def _value(number: float) -> str:
    """A measured figure with four digits: `.0031`, `12.34`, `3.4 M`."""
    for unit, suffix in ((1e9, " G"), (1e6, " M")):
        if abs(number) >= unit:
            return f"{number / unit:.2f}{suffix}"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4f}" if abs(number) < 10 else f"{number:.2f}"


def _ranking(validation: dict[str, Any] | None) -> dict[str, Any]:
    """The rows in the order of the page, and each comparison beside its control."""
    if validation is None:
        return {"proxy": None, "controls": [], "signals": [], "comparisons": []}
    rows = [{**row, "outcome": _outcome(row)} for row in validation["rows"]]
    controls = [row for row in rows if row["kind"] == "control"]
    # `judge` writes one sentence for each control, in the order of the rows.
    sentences = zip(validation["comparisons"], controls, strict=True)
    return {
        "proxy": rows[0],
        "controls": sorted(controls, key=_by_spearman),
        "signals": sorted((row for row in rows if row["kind"] == "signal"), key=_by_spearman),
        "comparisons": [(sentence, row["outcome"]) for sentence, row in sentences],
    }


def _outcome(row: Mapping[str, Any]) -> str:
    """Who ranks better, the proxy or this row, as far as the interval tells."""
    difference = row["difference"]
    if difference is None or difference["low"] is None or difference["high"] is None:
        return "unknown"
    if difference["low"] > 0:
        return "worse"
    return "better" if difference["high"] < 0 else "open"


def _by_spearman(row: Mapping[str, Any]) -> float:
    return -row["spearman"]["value"] if row["spearman"] else float("inf")


def _best(search: Mapping[str, Any]) -> dict[str, Any]:
    """The best trials, and which signals all of them have."""
    names = list(dict.fromkeys(name for trial in search["best"] for name in trial["signals"]))
    return {"trials": search["best"], "signals": names}


def _failures(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Where evaluations failed, why and how often."""
    found = Counter(
        ("search", trial["reason"] or "unknown reason")
        for trial in report["search"]["trials"]
        if trial["score"] is None
    )
    for row in (report["validation"] or {"rows": []})["rows"]:
        for reason, count in row["failures"].items():
            found[f"validation: {row['name']}", reason] += count
    return [(where, reason, count) for (where, reason), count in found.most_common()]


def _flat(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted keys and words; what is not set is left out."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        elif value is not None:
            words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{path}{key}", words


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
