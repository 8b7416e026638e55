"""How far somebody's own scores rank as somebody's own references do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_proxy.api.calls import one_sentence
from nas_proxy.errors import UserError, did_you_mean
from nas_proxy.statistics.ranks import MIN_ARCHITECTURES
from nas_proxy.study.plain_values import read_options
from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import judge
from nas_proxy.validate.settings import BestPart
from nas_proxy.validate.values import Kind, Ranking, RankReport, Sample

_NO_VALUE = "no value was given"


@one_sentence
def rank_report(
    scores: Any,
    references: Any,
    *,
    controls: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    name: str = "the score",
    reference_name: str = "the reference",
    best_fraction: float = 0.2,
    k: int = 5,
) -> RankReport:
    """Judge your own scores by your own references, with intervals; higher is better in both.

    It is what a study's validation says: Spearman and Kendall, the same within the best part,
    precision@k, regret@k in the unit of the references, what the score beats, and a verdict.

    Args:
        scores: One for each architecture, in one of three forms. Figures in the order of
            `references`: a list, an array. Figures by architecture: a mapping, a pandas Series. A
            pandas DataFrame: its first column, while the others become controls.
        references: Likewise, such as test accuracies. With a DataFrame also the name of a column.
            An architecture without one, NaN or missing, counts for nothing, which is said.
        controls: What the score must beat, by name, each in the form of `scores`.
        sizes: Such as parameters, by name: whether the score knows more than that bigger is better.
        name: What the score is called; with a DataFrame it is the column's.
        reference_name: What the references are called.
        best_fraction: The best part by reference that is looked at alone.
        k: Of precision@k and regret@k.

    Returns:
        The report; in a notebook it shows itself. A score that is NaN or missing is a failed
        evaluation: counted, and ranked last in a second figure.

    Raises:
        UserError: If lengths differ, a figure is no number or infinite, or an architecture is named
            twice.

    >>> import nas_proxy as nas
    >>> accuracy = [70, 72, 74, 76, 78, 80, 82, 84, 86, 88, 90, 92]
    >>> score = [.1, .3, .2, .4, .5, .7, .6, .8, float("nan"), .9, 1., 1.1]
    >>> report = nas.rank_report(score, accuracy)
    >>> report.judged.n, report.judged.num_failed
    (11, 1)
    >>> print(report.judged.spearman)
    .98 [.82, 1.00]
    """
    columns, own_sizes = _by_name(controls, "controls"), _by_name(sizes, "sizes")
    if hasattr(scores, "columns"):
        name, scores, references, reference_name, further = _of_frame(
            scores, references, reference_name
        )
        columns = {**further, **columns}
    if name in columns:
        raise UserError(f"{name!r} is the name of the score and of a control; rename one of them")
    table = _Table.of({name: scores, **columns}, references, own_sizes, reference_name)
    settings = read_options(BestPart, {"best_fraction": best_fraction, "k": k})
    rankings = [
        table.ranking(each, "proxy" if each == name else "control") for each in (name, *columns)
    ]
    sample = Sample(table.architectures, table.reference, table.sizes)
    report = judge(
        rankings[0],
        rankings[1:],
        sample,
        settings,
        reference_name=reference_name,
        reference_seconds=0.0,
    )
    return replace(report, verdict=" ".join(filter(None, (report.verdict, table.left_out))))


def _by_name(given: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise UserError(
            f"{what} must be a mapping from names to figures, got {type(given).__name__}"
        )
    return dict(given or {})


def _of_frame(
    frame: Any, references: Any, reference_name: str
) -> tuple[str, Any, Any, str, dict[str, Any]]:
    """Name and figures of the first ranking and of the references, and the other rankings."""
    names = [str(column) for column in frame.columns]
    if len(set(names)) < len(names):
        raise UserError("two columns of the table have one name")
    columns = dict(zip(names, (frame.iloc[:, place] for place in range(len(names))), strict=True))
    if isinstance(references, str):
        if references not in columns:
            raise UserError(
                f"references: there is no column {references!r}; {did_you_mean(references, names)}"
            )
        reference_name, references = references, columns.pop(references)
    if not columns:
        raise UserError("scores: the table has no column beside the references")
    first, *further = columns
    return first, columns[first], references, reference_name, {n: columns[n] for n in further}


@dataclass(frozen=True)
class _Table:
    """All figures by architecture.

    Attributes:
        architectures: Those with a reference.
        reference: Theirs.
        columns: Scores by the name of the ranking; missing where there is none.
        sizes: By name.
        left_out: How many have no reference, a sentence; empty if all have one.
    """

    architectures: list[Architecture]
    reference: dict[Architecture, float]
    columns: dict[str, dict[Architecture, float]]
    sizes: dict[str, dict[Architecture, float]]
    left_out: str

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Any],
        references: Any,
        sizes: Mapping[str, Any],
        reference_name: str,
    ) -> _Table:
        reference = _by_architecture(references, "references")
        scores = {name: _by_architecture(each, name) for name, each in columns.items()}
        size = {name: _by_architecture(each, name) for name, each in sizes.items()}
        for name, each in {**scores, **size}.items():
            _check_same(name, each, reference)
        everyone = dict.fromkeys(a for each in (reference, *scores.values()) for a in each)
        known = {a: reference[a] for a in everyone if a in reference and reference[a] is not None}
        if len(known) < MIN_ARCHITECTURES:
            raise UserError(
                f"{len(known)} architecture(s) have a reference; {MIN_ARCHITECTURES} are the least"
            )
        missing = len(everyone) - len(known)
        said = (
            f"{missing} of {len(everyone)} architectures have no value of {reference_name} and "
            "count for nothing."
        )
        as_key = {each: Architecture("given", str(each)) for each in known}
        return cls(
            # Of equal scores the earlier counts as the better, and a table may be sorted.
            sorted(as_key.values(), key=lambda architecture: architecture.id),
            {as_key[a]: value for a, value in _present(known)},
            {name: _keyed(each, as_key) for name, each in scores.items()},
            {name: _keyed(each, as_key) for name, each in size.items()},
            said if missing else "",
        )

    def ranking(self, name: str, kind: Kind) -> Ranking:
        """One of the columns."""
        scores = self.columns[name]
        num_failed = len(self.architectures) - len(scores)
        failures = {_NO_VALUE: num_failed} if num_failed else {}
        return Ranking(name, kind, scores, 0.0, failures=failures)


_Figures = dict[Hashable, float | None]


def _by_architecture(given: Any, what: str) -> _Figures:
    """Figures by what tells architectures apart: names, or places in a list. None is none."""
    if isinstance(given, Mapping):
        keys, values = list(given.keys()), list(given.values())
    elif hasattr(given, "index") and hasattr(given, "to_numpy"):  # a pandas Series
        keys, values = given.index.tolist(), given.to_numpy()
    elif isinstance(given, set | frozenset):
        raise UserError(f"{what} is a set, whose figures have no order; give a list or a mapping")
    else:
        values = given.detach().cpu() if hasattr(given, "detach") else given  # a tensor
        values = values if hasattr(given, "__len__") else _listed(values, what)
        keys = list(range(len(values)))
    texts = [str(key) for key in keys]
    twice = [text for text, count in Counter(texts).items() if count > 1]
    if twice:
        raise UserError(f"{what}: the architecture {twice[0]!r} is named twice")
    figures = _numbers(values, what)
    return {
        key: None if np.isnan(figure) else figure
        for key, figure in zip(keys, figures.tolist(), strict=True)
    }


def _listed(given: Any, what: str) -> list[Any]:
    if isinstance(given, Iterable):
        return list(given)
    raise UserError(f"{what} must be figures, or a mapping to such, got {type(given).__name__}")


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    plain = [np.nan if value is None else value for value in values]
    try:
        figures = np.array(plain, dtype=np.float64)
    except (TypeError, ValueError) as error:
        wrong = next((each for each in plain if not _is_number(each)), plain)
        raise UserError(
            f"{what} must hold numbers alone, got {wrong!r}; names of architectures go into the "
            "index of a table or the keys of a mapping"
        ) from error
    if figures.ndim != 1:
        raise UserError(f"{what} must be one figure for each architecture, got {figures.shape}")
    if np.isinf(figures).any():
        raise UserError(f"{what} holds an infinite value; give NaN for an evaluation that failed")
    return figures


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_same(name: str, figures: _Figures, reference: _Figures) -> None:
    """Two lists are of the same architectures if they are as long, two mappings if they share."""
    if not figures.keys() & reference.keys():
        raise UserError(f"{name} and the references have no architecture in common")
    are_lists = all(list(each) == list(range(len(each))) for each in (figures, reference))
    if are_lists and len(figures) != len(reference):
        raise UserError(
            f"{name} has {len(figures)} figures and the references have {len(reference)}: give one "
            "of each for every architecture"
        )


def _present(figures: Mapping[Hashable, float | None]) -> list[tuple[Hashable, float]]:
    return [(key, figure) for key, figure in figures.items() if figure is not None]


def _keyed(figures: _Figures, as_key: Mapping[Hashable, Architecture]) -> dict[Architecture, float]:
    return {as_key[key]: figure for key, figure in _present(figures) if key in as_key}
