"""What the figures of a validation allow to say, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas_proxy.statistics import ranks
from nas_proxy.statistics.intervals import CONFIDENCE, p_value
from nas_proxy.statistics.needed import Needed, to_reach, to_tell_apart
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.statistics.words import decimal
from nas_proxy.validate.settings import TRUSTED_FROM
from nas_proxy.validate.stopping import stopping_words
from nas_proxy.validate.values import Outcome, RankRow, Sample, Stopping

# Lower bounds of the interval, best first, and what each allows to say of a ranking.
_READINGS = (
    (TRUSTED_FROM, "can be trusted to tell good from bad"),
    (0.4, "tells good from bad roughly"),
    (0.0, "is better than chance, but weak"),
)
_MOST = 10_000  # architectures beyond which a count means that the figure lies on the border


def headline(
    proxy: RankRow,
    rows: Sequence[RankRow],
    sizes: Sequence[str],
    sample: Sample,
    stopping: Stopping | None = None,
) -> str:
    """What a person reads first: what the ranking is worth, and what it beats.

    Args:
        proxy: Its row.
        rows: What it is compared with.
        sizes: See `size_words`.
        sample: What was evaluated, with what full training made of it.
        stopping: Where a sequential validation stopped.
    """
    failures = _failure_words(proxy, len(sample.architectures))
    if len(set(sample.reference.values())) == 1 and len(sample.reference) > 1:
        value = next(iter(sample.reference.values()))
        return (
            f"No ranking can be judged here: the reference gives all {len(sample.reference)} "
            f"architectures the same, {value:.4g}, so there is no order to be found{failures}."
        )
    if proxy.spearman is None:
        nothing = (
            f"The proxy ranks nothing: fewer than {ranks.MIN_ARCHITECTURES} of its evaluations "
            "can be compared with the reference, or all have the same score"
        )
        return f"{nothing}{failures}."
    reading = f"{_reading(proxy)}{_size_clause(proxy, sizes)}"
    first = f"Spearman {proxy.spearman} at n = {proxy.n}: {reading}{failures}."
    beaten = _beaten_words(rows)
    if stopping is None:
        return " ".join(filter(None, (first, beaten, _open_words(proxy))))
    unsettled = _unsettled_words(rows, stopping.confidence)
    return " ".join(filter(None, (first, beaten, stopping_words(stopping), unsettled)))


def outcomes(rows: Sequence[RankRow], confidence: float = CONFIDENCE) -> list[Outcome | None]:
    """Whether the judged ranking is better than each control, all of them taken together.

    With Holm's correction ("A simple sequentially rejective multiple test procedure", 1979): the
    chance that any of several equal controls is called beaten, or better, stays 5 %.

    Args:
        rows: All that the judged ranking is compared with.
        confidence: Of their intervals.

    Returns:
        One for each row; None for those that are no controls or cannot be compared.
    """
    found: list[Outcome | None] = [None] * len(rows)
    tests = []
    for index, row in enumerate(rows):
        difference = row.difference
        if row.kind == "control" and difference is not None:
            found[index] = "open"
            if difference.high is not None:
                p = p_value(difference.value, difference.high, row.n_difference, confidence)
                tests.append((p, index, difference.value))
    for left, (p, index, value) in zip(range(len(tests), 0, -1), sorted(tests), strict=True):
        if p > (1 - confidence) / left:
            break
        found[index] = "better" if value > 0 else "worse"
    return found


def compare(row: RankRow, proxy: RankRow, confidence: float = CONFIDENCE) -> str:
    """The proxy against one control; see `outcomes`."""
    difference = row.difference
    if difference is None:
        silent = "the proxy" if proxy.spearman is None else row.name
        why = f"{silent} ranks nothing here, for its values are missing or all the same"
        return f"The proxy cannot be compared with {row.name}: {why}."
    shown = f"difference {difference}, n = {row.n_difference}"
    if row.outcome in ("better", "worse"):
        return f"The proxy ranks {row.outcome} than {row.name} ({shown})."
    if is_told(difference):
        why = "this interval alone would tell them apart, but not one among so many controls"
        return f"The proxy cannot be told apart from {row.name} ({shown}): {why}."
    needed = to_tell_apart(difference, row.n_difference, confidence)
    more = f"; {_range(needed)} architectures would tell" if needed else ""
    return f"The proxy cannot be told apart from {row.name} ({shown}){more}."


def size_words(proxy: RankRow, sizes: Sequence[str], confidence: float = CONFIDENCE) -> str:
    """Whether the proxy knows more than that bigger is better.

    Args:
        proxy: Its row.
        sizes: What its partial correlation holds equal; empty if nothing.
        confidence: Of its intervals.

    Returns:
        Empty if the sizes are not known, or if the proxy is no better than chance: then there is
        nothing to explain.
    """
    if not sizes or proxy.spearman is None:
        return ""
    if not _is_above_chance(proxy):
        return ""
    equal, partial = " and ".join(sizes), proxy.partial_spearman
    if partial is None:
        return (
            f"Whether it knows more than “bigger is better” cannot be told: at equal {equal} "
            "nothing is left to rank, or too few architectures."
        )
    shown = f"at equal {equal} its Spearman is {partial}, n = {proxy.n_partial}"
    if partial.low is None or partial.high is None:
        return f"Whether it knows more than “bigger is better” cannot be told: {shown}."
    if partial.low > 0:
        return f"It knows more than “bigger is better”: {shown}."
    if partial.high < 0:
        return f"At equal size it prefers the worse: {shown}."
    needed = to_reach(partial, proxy.n_partial, 0.0, confidence)
    more = f"; {_more(needed.beyond(proxy.n_partial))} would tell" if needed else ""
    return f"It may know no more than “bigger is better”: {shown}{more}."


def ceiling_words(ceiling: RankRow | None) -> str:
    """What the noise of the reference means for every ranking.

    A ranking that knew each architecture's true value would agree with one noisy reference as its
    reliability's square root allows (Spearman's correction for attenuation), so slightly better
    than a second reference does.
    """
    if ceiling is None:
        return (
            "The noise ceiling was not measured: how well one seed of the reference ranks as "
            "another is not known, so a figure below 1 may be the reference's own noise."
        )
    if ceiling.spearman is None:
        return (
            f"The noise ceiling is not known: fewer than {ranks.MIN_ARCHITECTURES} architectures "
            "have both seeds of the reference, or all have the same value."
        )
    if ceiling.spearman.value <= 0:
        return (
            f"Two seeds of the reference do not agree (Spearman {ceiling.spearman}, "
            f"n = {ceiling.n}): no ranking can be judged by it."
        )
    perfect = decimal(math.sqrt(ceiling.spearman.value))
    return (
        f"One seed of the reference ranks as another with Spearman {ceiling.spearman} "
        f"(n = {ceiling.n}): a proxy that reaches this is as good as full training, and no proxy "
        f"can be expected above {perfect}, which one without any noise would reach."
    )


def open_question(
    proxy: RankRow, confidence: float = CONFIDENCE
) -> tuple[float | None, Needed | None]:
    """The next better reading that the headline's interval leaves open.

    Args:
        proxy: Its row.
        confidence: Of its interval.

    Returns:
        Its lower bound, and how many more architectures would settle whether it is reached if
        Spearman stays where it is; None for both if nothing is open, and for the number alone
        if Spearman lies on the bound itself.
    """
    spearman, n = proxy.worst_case
    if spearman is None or spearman.low is None or spearman.high is None:
        return None, None
    level = min((level for level, _ in _READINGS if spearman.low < level), default=math.inf)
    if spearman.high < level:
        return None, None
    needed = to_reach(spearman, n, level, confidence)
    return level, None if needed is None else needed.beyond(n)


def is_told(difference: Estimate) -> bool:
    """Whether the interval of a difference excludes zero."""
    low, high = difference.low, difference.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _reading(proxy: RankRow) -> str:
    """What the figures allow to say of the ranking alone; failed ones count as ranked last."""
    judged, _ = proxy.worst_case
    if judged is not None and judged.low is not None and judged.low > 0:
        words = next(words for level, words in _READINGS if judged.low >= level)
        return f"the ranking {words}"
    found = [each for each in (proxy.spearman, proxy.spearman_failures_last) if each is not None]
    if all(each.high is not None and each.high < 0 for each in found):
        return "it ranks backwards"
    return "the ranking is not shown to be better than chance"


def _is_above_chance(proxy: RankRow) -> bool:
    judged, _ = proxy.worst_case
    return judged is not None and judged.low is not None and judged.low > 0


def _size_clause(proxy: RankRow, sizes: Sequence[str]) -> str:
    """In few words what `size_words` says with figures."""
    partial = proxy.partial_spearman
    if not sizes or partial is None or partial.low is None or not _is_above_chance(proxy):
        return ""
    if partial.low > 0:
        return ", and knows more than “bigger is better”"
    if partial.high is not None and partial.high < 0:
        return ", but at equal size it prefers the worse"
    return ", but it may know no more than “bigger is better”"


def _failure_words(proxy: RankRow, num_drawn: int) -> str:
    if not proxy.num_failed:
        return ""
    last = proxy.spearman_failures_last
    shown = f" (ranked last they make it {last})" if last is not None else ""
    return f", and {proxy.num_failed} of {num_drawn} evaluations failed{shown}"


def _beaten_words(rows: Sequence[RankRow]) -> str:
    sides = {
        "better": "ranks better than",
        "worse": "ranks worse than",
        "open": "cannot be told apart from",
    }
    parts = []
    for outcome, words in sides.items():
        names = [row.name for row in rows if row.outcome == outcome]
        parts += [f"{words} {', '.join(names)}"] if names else []
    return f"It {'; '.join(parts)}." if parts else ""


def _unsettled_words(rows: Sequence[RankRow], confidence: float) -> str:
    """The controls that are not told apart, each with the architectures that would do it."""
    parts = []
    for row in rows:
        if row.outcome == "open" and row.difference is not None and row.difference.value > 0:
            needed = to_tell_apart(row.difference, row.n_difference, confidence)
            many = f" ({_range(needed)} architectures)" if needed else ""
            parts.append(f"{row.name}{many}")
    return f"Not settled: whether it ranks better than {', '.join(parts)}." if parts else ""


def _open_words(proxy: RankRow) -> str:
    level, num_more = open_question(proxy)
    if level is None or num_more is None:
        return ""
    words = "is better than chance" if level == 0 else dict(_READINGS)[level]
    return f"{_more(num_more).capitalize()} would settle whether it {words}."


def _more(needed: Needed) -> str:
    """Further architectures."""
    return f"{_range(needed)} more architecture{'s' if needed.likely > 1 else ''}"


def _range(needed: Needed) -> str:
    """From what settles it every second time to what does four times of five, to two digits."""
    if needed.even > _MOST:
        return f"more than {_MOST:,}"
    even, likely = _two_digits(needed.even), _two_digits(needed.likely)
    if needed.likely > _MOST:
        return f"{even} to more than {_MOST:,}"
    return f"about {even}" if even == likely else f"about {even} to {likely}"


def _two_digits(num: int) -> str:
    return f"{round(num, -max(0, len(str(num)) - 2)):,}"
