"""The logs of a study, each read once."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.report.values import NodeShare
from nas_proxy.search.resources import LatencyLog


class StudyLogs:
    """The logs of a study; each is read once, however many stages look at it.

    Args:
        look_only: Leave the files as they are.
    """

    def __init__(self, *, look_only: bool = False) -> None:
        self.look_only = look_only
        self._evaluations: dict[Path, EvaluationLog] = {}
        self._latencies: dict[Path, LatencyLog] = {}

    def evaluations(self, path: Path) -> EvaluationLog:
        """The log of a file, which may not be there yet.

        Raises:
            StudyError: If a line before the last cannot be read.
        """
        if path not in self._evaluations:
            self._evaluations[path] = EvaluationLog(path, look_only=self.look_only)
        return self._evaluations[path]

    def latencies(self, path: Path) -> LatencyLog:
        """The same for measured latencies."""
        if path not in self._latencies:
            self._latencies[path] = LatencyLog(path)
        return self._latencies[path]

    def node_shares(self) -> tuple[NodeShare, ...]:
        """What the nodes of clusters did, as far as logs have been read; none for this machine."""
        seconds: dict[str, list[float]] = {}
        for log in self._evaluations.values():
            for evaluation in log:
                if evaluation.node:
                    seconds.setdefault(evaluation.node, []).append(evaluation.seconds)
        return tuple(
            NodeShare(name, len(each), sum(each)) for name, each in sorted(seconds.items())
        )

    def forget(self, folder: Path) -> None:
        """Read anew what lies in `folder`, which was removed or got another name."""
        self._evaluations = {p: x for p, x in self._evaluations.items() if folder not in p.parents}
        self._latencies = {p: x for p, x in self._latencies.items() if folder not in p.parents}
