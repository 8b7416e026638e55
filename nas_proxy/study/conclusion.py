"""What a finished study says in a terminal at its end."""

from __future__ import annotations

from nas_proxy.report.summary import summarise
from nas_proxy.report.values import StudyReport
from nas_proxy.study.layout import StudyLayout


def conclusion(layout: StudyLayout) -> list[str]:
    """The winner and the verdict, a line each; the verdict alone where nothing won.

    Raises:
        StudyError: If there is no report, or it is damaged.
    """
    summary = summarise(StudyReport.read(layout.report))
    won = [f"winner: {summary.winner}; {summary.result}"] if summary.winner else []
    return [*won, f"verdict: {summary.verdict}"]
